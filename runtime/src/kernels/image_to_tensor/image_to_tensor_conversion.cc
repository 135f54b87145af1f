#include "kernels/image_to_tensor/image_to_tensor_conversion.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/image_to_tensor/image_to_tensor_math.h"

namespace mmedge {
namespace {

using ExactTaps = std::vector<Taps<double>>;

// Where one upright axis lies along a stored axis.
struct StoredAxis {
  int origin, extent;  // of the region in the upright frame; of the frame
  bool flip;
};

// In the order of the stored axis. Flipping the taps, not the picture, keeps the upright picture's taps exactly.
ExactTaps stored_taps(const ResizeAxis& axis, const StoredAxis& stored) {
  const int outputs = axis.outputs;
  ExactTaps result(static_cast<size_t>(outputs));
  for (int i = 0; i < outputs; ++i) {
    const auto [first, last] = tap_range(axis, i);
    std::vector<double> weights;
    double sum = 0.0;
    for (int x = first; x < last; ++x) sum += weights.emplace_back(tap_weight(axis, i, x));
    for (double& weight : weights) weight /= sum;
    if (stored.flip) std::reverse(weights.begin(), weights.end());
    const int upright = stored.origin + (stored.flip ? last : first);
    result[static_cast<size_t>(stored.flip ? outputs - 1 - i : i)] = {stored.flip ? stored.extent - upright : upright,
                                                                      std::move(weights)};
  }
  return result;
}

// Onto a grid of half the resolution: sample i covers pixels 2 i and 2 i + 1.
ExactTaps fold(const ExactTaps& taps) {
  ExactTaps result;
  for (const auto& tap : taps) {
    const int first = tap.first / 2, last = (tap.last() - 1) / 2 + 1;
    auto& folded = result.emplace_back(Taps<double>{first, std::vector<double>(static_cast<size_t>(last - first))});
    for (int x = tap.first; x < tap.last(); ++x) folded.weights[static_cast<size_t>(x / 2 - first)] += tap.at(x);
  }
  return result;
}

// 16-bit weights with as many bits as the largest leaves room for. The rounding error is carried on, so that the
// weights of each output sum to 1 << bits.
QuantisedTaps quantise(const ExactTaps& exact, int most_bits) {
  double largest = 0.0;
  for (const auto& tap : exact) largest = std::max(largest, *std::max_element(tap.weights.begin(), tap.weights.end()));
  QuantisedTaps result{14, {}};
  while (result.bits < most_bits && std::ldexp(largest, result.bits + 1) < 32767.0) ++result.bits;
  for (const auto& tap : exact) {
    Taps<int> quantised{tap.first, {}};
    double carry = 0.0;
    for (const double weight : tap.weights) {
      const double wanted = std::ldexp(weight, result.bits) + carry;
      const double rounded = std::floor(wanted + 0.5);
      carry = wanted - rounded;
      quantised.weights.push_back(static_cast<int>(rounded));
    }
    while (quantised.weights.back() == 0) quantised.weights.pop_back();
    const auto leading = std::find_if(quantised.weights.begin(), quantised.weights.end(), [](int w) { return w != 0; });
    quantised.first += static_cast<int>(leading - quantised.weights.begin());
    quantised.weights.erase(quantised.weights.begin(), leading);
    result.taps.push_back(std::move(quantised));
  }
  return result;
}

ResizedPlane make_plane(int plane, SurfaceLayout layout, int width, int height, const ExactTaps& columns,
                        const ExactTaps& rows) {
  ResizedPlane result{plane, layout, width, height, columns.front().first, 0, quantise(rows, 22), {}};
  for (const auto& tap : columns) {
    result.first = std::min(result.first, tap.first);
    result.last = std::max(result.last, tap.last());
  }
  const LayoutSize size = size_of(layout);
  for (int c = 0; c < size.channels; ++c) {
    result.columns[c] = quantise(size.group_pixels == 2 && c > 0 ? fold(columns) : columns, 16);
  }
  return result;
}

struct Placement {
  ResizeAxis x, y;
  int width, height, left, top;  // of the resized picture in the output
};

Placement place(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  const double width = geometry.region_width, height = geometry.region_height;
  Placement result{{}, {}, spec.width, spec.height, 0, 0};
  double used_width = width, used_height = height;
  if (spec.fit == ImageFit::kLetterbox) {
    const double grow = std::min(spec.width / width, spec.height / height);
    result.width = std::max(1, static_cast<int>(width * grow + 0.5));
    result.height = std::max(1, static_cast<int>(height * grow + 0.5));
    result.left = (spec.width - result.width) / 2;
    result.top = (spec.height - result.height) / 2;
  } else if (spec.fit == ImageFit::kCrop) {
    const double scale = spec.crop_fraction * std::min(width / spec.width, height / spec.height);
    used_width = scale * spec.width;
    used_height = scale * spec.height;
  }
  const auto axis = [&spec](double length, double used, int outputs) {
    const double scale = used / outputs;
    const double reach = spec.nearest ? 0.0 : spec.antialias ? std::max(scale, 1.0) : 1.0;
    return ResizeAxis{(length - used) / 2, used, outputs, static_cast<int>(length), reach};
  };
  result.x = axis(width, used_width, result.width);
  result.y = axis(height, used_height, result.height);
  return result;
}

ImageArea area_of(const ImageToTensorSpec& spec, const ImageGeometry& geometry, const Placement& placement) {
  const double column = placement.x.span / placement.x.outputs, row = placement.y.span / placement.y.outputs;
  return {geometry.region_x + placement.x.begin - placement.left * column,
          geometry.region_y + placement.y.begin - placement.top * row,
          spec.width * column,
          spec.height * row,
          geometry.region_x,
          geometry.region_y,
          geometry.region_width,
          geometry.region_height};
}

void add_planes(ImageConversion& conversion, bool with_chroma, const ExactTaps& columns, const ExactTaps& rows) {
  const int width = conversion.geometry.width, height = conversion.geometry.height;
  const auto add = [&](int plane, SurfaceLayout layout) {
    conversion.planes.push_back(
        plane == 0 ? make_plane(plane, layout, width, height, columns, rows)
                   : make_plane(plane, layout, (width + 1) / 2, (height + 1) / 2, fold(columns), fold(rows)));
  };
  switch (conversion.geometry.format) {
    case MME_IMAGE_GREY8:
      return add(0, SurfaceLayout::kPlane);
    case MME_IMAGE_RGB8:
    case MME_IMAGE_BGR8:
      return add(0, SurfaceLayout::kRgb);
    case MME_IMAGE_RGBA8:
    case MME_IMAGE_BGRA8:
      return add(0, SurfaceLayout::kRgba);
    case MME_IMAGE_YUYV:
      return add(0, SurfaceLayout::kYuyv);
    case MME_IMAGE_UYVY:
      return add(0, SurfaceLayout::kUyvy);
    case MME_IMAGE_NV12:
      add(0, SurfaceLayout::kPlane);
      if (with_chroma) add(1, SurfaceLayout::kUv);
      return;
    case MME_IMAGE_I420:
      add(0, SurfaceLayout::kPlane);
      for (int plane = 1; with_chroma && plane < 3; ++plane) add(plane, SurfaceLayout::kPlane);
      return;
  }
}

bool is_yuv(mme_image_format format) { return format >= MME_IMAGE_NV12; }

bool is_bgr(mme_image_format format) { return format == MME_IMAGE_BGR8 || format == MME_IMAGE_BGRA8; }

// In levels: what each output channel is made of. Without YUV and grey, the channels as they lie.
ColorTransform levels(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  if (geometry.format == MME_IMAGE_GREY8) return {{{1, 0, 0, 0}, {1, 0, 0, 0}, {1, 0, 0, 0}}};
  const ColorTransform rgb = is_yuv(geometry.format) ? yuv_to_rgb(geometry.color_matrix, geometry.color_range)
                                                     : ColorTransform{{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}}};
  if (spec.channels != ImageChannels::kGrey) return rgb;
  ColorTransform grey{};
  for (int c = 0; c < 3; ++c) {
    for (int k = 0; k < 4; ++k) grey.rows[0][k] += kGreyOfRgb[c] * rgb.rows[c][k];
  }
  if (is_bgr(geometry.format)) std::swap(grey.rows[0][0], grey.rows[0][2]);
  return grey;
}

void set_color(ImageConversion& conversion, const ImageToTensorSpec& spec, const ColorTransform& transform) {
  conversion.color = is_yuv(conversion.geometry.format) && spec.channels != ImageChannels::kGrey ? ColorMode::kYuv
                     : spec.channels == ImageChannels::kGrey && conversion.geometry.format != MME_IMAGE_GREY8
                         ? ColorMode::kMix
                         : ColorMode::kScale;
  if ((spec.channels == ImageChannels::kBgr) != is_bgr(conversion.geometry.format) && spec.channel_count() == 3) {
    std::swap(conversion.order[0], conversion.order[2]);
  }
  int bits[3] = {};
  int input = 0;
  for (const ResizedPlane& plane : conversion.planes) {
    for (int c = 0; c < size_of(plane.layout).channels && input < conversion.inputs; ++c) {
      bits[input++] = plane.columns[c].bits;
    }
  }
  for (int c = 0; c < spec.channel_count(); ++c) {
    const auto out = static_cast<size_t>(conversion.order[c]);
    const double unit = spec.type == ElementType::kInt8 ? spec.scale : 1.0;
    const double gain = 1.0 / (255.0 * spec.stddev[out] * unit), shift = -spec.mean[out] / (spec.stddev[out] * unit);
    for (int k = 0; k < conversion.inputs; ++k) {
      conversion.factor[c][k] = static_cast<float>(gain * transform.rows[c][k] / std::ldexp(128.0, bits[k]));
    }
    conversion.offset[c] = static_cast<float>(gain * transform.rows[c][3] + shift);
    conversion.least[c] = static_cast<float>(shift);
    conversion.most[c] = static_cast<float>(255.0 * gain + shift);
    conversion.pad[out] = static_cast<float>(spec.pad_level * gain + shift);
  }
}

}  // namespace

LayoutSize size_of(SurfaceLayout layout) {
  switch (layout) {
    case SurfaceLayout::kPlane:
      return {1, 1, 1};
    case SurfaceLayout::kUv:
      return {2, 2, 1};
    case SurfaceLayout::kYuyv:
    case SurfaceLayout::kUyvy:
      return {3, 4, 2};
    case SurfaceLayout::kRgb:
      return {3, 3, 1};
    default:
      return {3, 4, 1};
  }
}

ImageArea image_area(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  return area_of(spec, geometry, place(spec, geometry));
}

ImageConversion make_image_conversion(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  ImageConversion conversion;
  conversion.geometry = geometry;
  conversion.turned = geometry.rotation % 180 == 90;
  const Placement placement = place(spec, geometry);
  // Turning clockwise by 90 degrees makes the stored left column, read upwards, the upright top row.
  const bool flip_x = (geometry.rotation == 90 || geometry.rotation == 180) != geometry.mirror;
  const bool flip_y = geometry.rotation == 180 || geometry.rotation == 270;
  ExactTaps columns =
      stored_taps(placement.x, {geometry.region_x, conversion.turned ? geometry.height : geometry.width, flip_x});
  ExactTaps rows =
      stored_taps(placement.y, {geometry.region_y, conversion.turned ? geometry.width : geometry.height, flip_y});
  conversion.area = area_of(spec, geometry, placement);
  conversion.columns = placement.width;
  conversion.rows = placement.height;
  conversion.left = placement.left;
  conversion.top = placement.top;
  conversion.bordered = placement.width < spec.width || placement.height < spec.height;
  conversion.flip_columns = flip_x;
  conversion.flip_rows = flip_y;
  if (conversion.turned) {
    std::swap(columns, rows);
    std::swap(conversion.columns, conversion.rows);
    std::swap(conversion.flip_columns, conversion.flip_rows);
  }

  const ColorTransform transform = levels(spec, geometry);
  // The chroma of BT.601 cancels in grey: then it is not read.
  const bool with_chroma = spec.channels != ImageChannels::kGrey || std::abs(transform.rows[0][1]) > 1e-9 ||
                           std::abs(transform.rows[0][2]) > 1e-9;
  add_planes(conversion, with_chroma, columns, rows);
  conversion.inputs = geometry.format == MME_IMAGE_GREY8 || (is_yuv(geometry.format) && !with_chroma) ? 1 : 3;
  set_color(conversion, spec, transform);
  return conversion;
}

}  // namespace mmedge
