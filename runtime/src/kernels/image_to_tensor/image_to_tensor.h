// image_to_tensor: camera bytes to a normalised tensor, in one pass over the frame.
//
// Steps, in this order:
//   1. view     a region of the frame turned upright (quarter turns, then mirror). No pixel moves: the frame is resized
//               as it lies, with the taps of the upright picture, and the small output is written turned.
//   2. resize   separable, rows first. Where taps lie and what they weigh: image_to_tensor_math.h. Taps stay within the
//               region; "crop" puts the sampling grid on its centred part, so taps may reach past that part.
//               The bytes are resized as they are, YUV included: a full-resolution tap on chroma is the tap on the
//               chroma sample that covers the pixel, so its weights are summed onto the chroma grid.
//   3. colour   YUV to RGB, or RGB to grey (BT.601), or grey repeated, on the output pixels. Resize and colour are both
//               linear, so this equals colour before resize, but for two roundings of that order: it rounds to bytes
//               after each step, and it clips colours out of gamut pixel by pixel where here the mean is clipped.
//   4. scale    (level / 255 - mean[c]) / std[c]; for int8, clamp(round_half_even(that / scale) + zero_point)
//
// | input                             | output                                                              |
// |-----------------------------------|---------------------------------------------------------------------|
// | RGB8 BGR8 GREY8 RGBA8 BGRA8       | float32, float16, uint8 (levels, rounded half to even) or int8      |
// | NV12 I420 YUYV UYVY               | planar [C, H, W] or interleaved [H, W, C]; C is 1 (grey) or 3       |
//
// Rounding: the resize is integer arithmetic, so its result is the same on every instruction set. Weights have 14 to 22
// bits (rows) or 14 to 16 (columns), as many as the largest leaves room for, with the rounding error carried from tap
// to tap: each output's weights sum exactly to one and a flat frame stays exactly flat. Between the passes values are
// rounded to 1/128 level. Error bound against exact arithmetic, in levels of 255: 0.02 for either resize up to 16
// times smaller, growing with the number of taps beyond that; colour multiplies it by at most 2.2 (blue of U).
//
// Cost for NV12 1280x720 to 224x224 float32: reads 1.07 times the frame (strips of 16 output rows share the rows at
// their border), 1.4 MB, and writes 0.6 MB. 5.9 M multiply-adds by rows (each byte goes into two outputs, a seventh of
// the pairs are filled up with zeros) and 1.5 M by columns, in pairs: on AVX-512 some 0.4 M vector operations, 80 us at
// two per cycle and 2.6 GHz; on AVX2 0.9 M at three. Reading the frame from DRAM at 11 to 20 GB/s takes 70 to 125 us,
// part of which hides behind the row pass: each block fetches the block six cache lines on, at a row's end the next
// strip's first. Shape: the row pass walks down a block of one vector of byte columns, two rows at a time as 16-bit
// pair dot products, each pair into the output row being finished and the next one. The 16 finished rows are
// transposed, so that columns become vectors of 16 rows, into a window kept in L1, and sorted by channel on the way.
// There the column pass is again pair dot products, 16 rows at once, and colour and scale need no shuffle; a second
// transposition makes rows of it, which a frame turned by 90 degrees does without.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/image_to_tensor/image_to_tensor_plan.h"
#include "tensor.h"

namespace mmedge {

// A checked frame: every row of every plane its geometry needs is readable.
struct ImageFrame {
  ImageGeometry geometry;
  const uint8_t* planes[3];
  ptrdiff_t strides[3];
  size_t row_bytes[3], rows[3];  // of each plane, what the format has; 0 where it has no such plane
  bool on_device;                // the planes lie in a GPU's memory, which the CPU's kernel cannot read
};

class ImageToTensor {
 public:
  explicit ImageToTensor(ImageToTensorSpec spec) : spec_(std::move(spec)) {}

  // Writes channels * height * width elements of the spec's type. Allocates only where the geometry differs from the
  // call's before.
  void run(const ImageFrame& frame, void* output);

  const ImageToTensorSpec& spec() const { return spec_; }
  // Of the last run.
  const ImageArea& area() const { return plan_.area; }

 private:
  ImageToTensorSpec spec_;
  ImagePlan plan_;
  hwy::AlignedFreeUniquePtr<int32_t[]> workspace_;
};

}  // namespace mmedge
