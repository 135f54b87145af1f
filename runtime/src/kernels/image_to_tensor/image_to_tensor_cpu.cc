#include <algorithm>
#include <cmath>

#include "kernels/image_to_tensor/image_to_tensor.h"

namespace mmedge {

// The triangle filter and its support follow Pillow's documented antialiased resize.
std::vector<ResizeTaps> bilinear_taps(int input, int output, bool antialias) {
  const double scale = static_cast<double>(input) / output;
  const double reach = antialias ? std::max(scale, 1.0) : 1.0;
  std::vector<ResizeTaps> taps(static_cast<size_t>(output));
  for (int i = 0; i < output; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - reach + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + reach + 0.5), input);
    std::vector<double> weights;
    double sum = 0.0;
    for (int x = first; x < last; ++x) {
      weights.push_back(std::max(0.0, 1.0 - std::abs(x + 0.5 - centre) / reach));
      sum += weights.back();
    }
    ResizeTaps& tap = taps[static_cast<size_t>(i)];
    tap.first = first;
    for (const double weight : weights) tap.weights.push_back(static_cast<float>(weight / sum));
  }
  return taps;
}

namespace {

void add_row(const PixelView& view, int y, float weight, float* line) {
  const uint8_t* row = view.origin + y * view.row_step;
  const int channels = view.channels;
  if (view.pixel_step == channels) {
    const int count = view.width * channels;
    for (int i = 0; i < count; ++i) line[i] += weight * static_cast<float>(row[i]);
  } else {
    for (int x = 0; x < view.width; ++x) {
      const uint8_t* pixel = row + x * view.pixel_step;
      for (int c = 0; c < channels; ++c) *line++ += weight * static_cast<float>(pixel[c]);
    }
  }
}

struct Rgb {
  float red, green, blue;
};

Rgb resample(const ResizeTaps& taps, const PixelView& view, const float* line) {
  float sums[3] = {0.0F, 0.0F, 0.0F};
  const float* pixel = line + static_cast<ptrdiff_t>(taps.first) * view.channels;
  for (const float weight : taps.weights) {
    for (int c = 0; c < view.channels; ++c) sums[c] += weight * pixel[c];
    pixel += view.channels;
  }
  return {sums[view.red], sums[view.green], sums[view.blue]};
}

}  // namespace

void ImageToTensor::run(const PixelView& view, float* output) {
  if (view.width != input_width_ || view.height != input_height_) {
    columns_ = bilinear_taps(view.width, spec_.width, spec_.antialias);
    rows_ = bilinear_taps(view.height, spec_.height, spec_.antialias);
    input_width_ = view.width;
    input_height_ = view.height;
  }
  line_.resize(static_cast<size_t>(view.width) * static_cast<size_t>(view.channels));
  const auto plane = static_cast<ptrdiff_t>(spec_.width) * spec_.height;
  for (int y = 0; y < spec_.height; ++y) {
    std::fill(line_.begin(), line_.end(), 0.0F);
    const ResizeTaps& rows = rows_[static_cast<size_t>(y)];
    for (size_t tap = 0; tap < rows.weights.size(); ++tap) {
      add_row(view, rows.first + static_cast<int>(tap), rows.weights[tap], line_.data());
    }
    for (int x = 0; x < spec_.width; ++x) {
      const Rgb pixel = resample(columns_[static_cast<size_t>(x)], view, line_.data());
      const float values[3] = {pixel.red, pixel.green, pixel.blue};
      float* out = output + static_cast<ptrdiff_t>(y) * spec_.width + x;
      for (int c = 0; c < spec_.channels; ++c) {
        const bool to_grey = spec_.channels == 1 && view.channels == 3;
        const float value = to_grey ? 0.299F * pixel.red + 0.587F * pixel.green + 0.114F * pixel.blue : values[c];
        const auto channel = static_cast<size_t>(c);
        out[c * plane] = (value / 255.0F - spec_.mean[channel]) / spec_.stddev[channel];
      }
    }
  }
}

}  // namespace mmedge
