// The scalar rules of image_to_tensor that every implementation of it shares: which source pixels an output pixel is
// made of, and what YUV numbers mean. Plain functions of plain values, for host and device code alike.
#pragma once

#include <cmath>

#include "mmedge.h"

namespace mmedge {

// One axis of the resize. The outputs divide [begin, begin + span) of the source evenly, and each is centred on the
// middle of its part; source pixel x covers [x, x + 1).
struct ResizeAxis {
  double begin, span;
  int outputs;
  int length;    // of the source: taps stay within [0, length)
  double reach;  // half the base of the triangle, in source pixels; 0: the nearest pixel alone
};

struct TapRange {
  int first, last;  // last is one past the end; never empty
};

// Rounded once where `span` is whole, so that a centre on a border of two pixels is never seen on its other side.
inline double tap_centre(const ResizeAxis& axis, int output) {
  return axis.begin + (output + 0.5) * axis.span / axis.outputs;
}

// The triangle's support follows Pillow's resize: pixels whose centre lies within `reach` of the output's.
inline TapRange tap_range(const ResizeAxis& axis, int output) {
  const double centre = tap_centre(axis, output);
  const auto within = [&axis](double x) {
    return static_cast<int>(std::fmin(std::fmax(std::floor(x), 0.0), axis.length - 1.0));
  };
  if (axis.reach == 0) return {within(centre), within(centre) + 1};
  const int first = within(centre - axis.reach + 0.5), last = within(centre + axis.reach - 0.5) + 1;
  return {first, last > first ? last : first + 1};
}

// Before normalisation: the weights of one output are divided by their sum.
inline double tap_weight(const ResizeAxis& axis, int output, int x) {
  if (axis.reach == 0) return 1.0;
  return std::fmax(0.0, 1.0 - std::fabs(x + 0.5 - tap_centre(axis, output)) / axis.reach);
}

// R, G and B of a full-range picture, in levels: row c is {of Y, of U, of V, constant}.
struct ColorTransform {
  double rows[3][4];
};

// From the definition of Y, U and V: Y = kr R + kg G + kb B, and U and V are B - Y and R - Y scaled to a range of one
// (ITU-R BT.601-7 section 2.5, BT.709-6 section 3). Limited range puts Y on 16 to 235 and U and V on 16 to 240
// (BT.601-7 section 2.5.3); full range is JPEG's (JFIF 1.02).
inline ColorTransform yuv_to_rgb(mme_color_matrix matrix, mme_color_range range) {
  const double kr = matrix == MME_COLOR_BT709 ? 0.2126 : 0.299, kb = matrix == MME_COLOR_BT709 ? 0.0722 : 0.114;
  const double kg = 1.0 - kr - kb;
  const bool full = range == MME_COLOR_FULL;
  const double luma = full ? 1.0 : 255.0 / 219.0, chroma = full ? 1.0 : 255.0 / 224.0, black = full ? 0.0 : 16.0;
  const double v_red = 2.0 * (1.0 - kr) * chroma, u_blue = 2.0 * (1.0 - kb) * chroma;
  const double v_green = -v_red * kr / kg, u_green = -u_blue * kb / kg, offset = -luma * black;
  return {{{luma, 0.0, v_red, offset - 128.0 * v_red},
           {luma, u_green, v_green, offset - 128.0 * (u_green + v_green)},
           {luma, u_blue, 0.0, offset - 128.0 * u_blue}}};
}

// What grey is made of (ITU-R BT.601).
inline constexpr double kGreyOfRgb[3] = {0.299, 0.587, 0.114};

}  // namespace mmedge
