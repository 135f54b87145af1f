// image_to_tensor: camera bytes to a normalised planar tensor.
//
// Steps, in this order:
//   1. view     rotation by quarter turns and mirror, as strides: no pixel moves
//   2. resize   separable bilinear over the whole frame ("stretch"), rows first. Antialiased: the triangle widens with
//               the scale (Pillow's filter); otherwise two taps. Half-pixel centres, weights renormalised at the edges.
//               Arithmetic in float32, nothing is rounded between the passes.
//   3. colour   to grey by 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), or grey repeated into three channels.
//               Done on the output pixels: resize and colour are both linear, so this equals colour before resize
//               without that order's rounding (Pillow rounds after each step and differs by at most 1 level in 255).
//   4. scale    (value / 255 - mean[c]) / std[c]
//
// | input           | output                             |
// |-----------------|------------------------------------|
// | RGB8 BGR8 GREY8 | float32, planar [channels, height, width] |
//
// Cost: one read of the frame (times the vertical overlap of the filter, 2 when antialiased), 2 multiply-adds per
// input byte, and one write of the tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mmedge {

// An upright view of packed 8-bit pixels; steps may be negative.
struct PixelView {
  const uint8_t* origin;
  int width, height;
  ptrdiff_t pixel_step, row_step;  // bytes
  int channels;                    // 1 or 3
  int red, green, blue;            // byte offsets within a pixel
};

struct ImageToTensorSpec {
  int width, height, channels;  // of the output; channels is 1 (grey) or 3 (RGB)
  bool antialias;
  std::vector<float> mean, stddev;  // per output channel
};

// The taps of one output coordinate: weights over inputs [first, first + weights.size()).
struct ResizeTaps {
  int first;
  std::vector<float> weights;
};

std::vector<ResizeTaps> bilinear_taps(int input, int output, bool antialias);

class ImageToTensor {
 public:
  explicit ImageToTensor(ImageToTensorSpec spec) : spec_(std::move(spec)) {}

  // Writes channels * height * width floats.
  void run(const PixelView& view, float* output);

  const ImageToTensorSpec& spec() const { return spec_; }

 private:
  ImageToTensorSpec spec_;
  int input_width_ = 0, input_height_ = 0;  // what the taps below were made for
  std::vector<ResizeTaps> columns_, rows_;
  std::vector<float> line_;  // one vertically resized line, channels interleaved
};

}  // namespace mmedge
