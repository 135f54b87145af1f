// The order in which the CPU does the work of a conversion. Worked out once per geometry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/image_to_tensor/image_to_tensor_conversion.h"
#include "tensor.h"

namespace mmedge {

inline constexpr ptrdiff_t kStripRows = 16;    // output rows worked on together
inline constexpr ptrdiff_t kTileColumns = 16;  // output columns finished together
inline constexpr int kMostBlockBytes = 64;

// One step of the row pass: source rows `row` and `row + second`, their 16-bit weights (low half: `row`) in the output
// row being finished and in the next one.
struct RowStep {
  int32_t row, second;
  uint32_t current, next;
};

struct RowSchedule {
  int bits = 0;                          // the weights of one output sum to 1 << bits
  std::vector<RowStep> steps;            // of all output rows
  std::vector<int> ends;                 // of output row i: steps ends[i] to ends[i + 1]
  std::vector<int> first_row, last_row;  // per strip
};

// One resized channel: taps over pairs of neighbouring source columns, counted from the surface's first column used.
struct ColumnTaps {
  int bits = 0;
  int pairs = 0;                           // of every output, zero weights included
  int capacity = 0;                        // pairs the window holds
  std::vector<int> first;                  // pair, per output column
  std::vector<uint32_t> weights;           // [output column][pairs], two 16-bit weights each
  std::vector<int> tile_first, tile_last;  // pairs a tile of output columns needs, and all tiles after it
};

// One plane of the frame as it lies in memory.
struct Surface {
  int plane = 0;
  SurfaceLayout layout = SurfaceLayout::kPlane;
  int first_byte = 0;  // of a row, where the columns used begin
  int row_bytes = 0;   // readable from there on
  int used_bytes = 0;  // those that any tap touches
  int channels = 1;
  RowSchedule rows;
  ColumnTaps columns[3];
  int block_pairs[3] = {};  // pairs of each channel in a block of kMostBlockBytes (RGB: of three times that)
  size_t tail = 0;          // where in the workspace the last, incomplete block of a strip's rows is copied
};

struct ImagePlan : ImageConversion {
  std::vector<Surface> surfaces;
  size_t windows[3] = {};  // where in the workspace, in int32
  size_t workspace = 0;
};

struct ImageDestination {
  void* tensor;
  int width, height, channels;
  ImageLayout layout;
  ElementType type;
  int zero_point;
};

ImagePlan make_image_plan(const ImageToTensorSpec& spec, const ImageGeometry& geometry);

}  // namespace mmedge
