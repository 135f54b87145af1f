// image_to_tensor on a CUDA device: the steps of image_to_tensor.h for the frames of several cameras, of one geometry,
// in one launch.
//
// Any input and output of image_to_tensor.h. Rounding: the resize is the same integer arithmetic, and colour and scale
// are the same sequence of fused multiply-adds, so the tensor is that of the CPU kernel on a processor with such
// instructions, to the bit.
//
// Roofline, 16 frames of NV12 1920x1080 to 3x224x224 float32: reads 49.8 MB and writes 9.6 MB, 18 us at the 3.35 TB/s
// of an H100's memory and 0.29 ms at the 205 GB/s of an Orin's. Tensor cores take 2.2 G multiply-adds of bytes, 2 us at
// the 1979 TOP/s of an H100 and 52 us at the 85 of an Orin.
//
// Launch: a block of four warps makes four strips of eight output rows, up to four groups of eight columns wide. Both
// passes are matrix products of bytes, exact in 32 bits. A weight, and a value between the passes, is two bytes: the
// sixteen rows of a product are the low bytes of eight rows and the high ones.
//   By rows each warp makes its own strip, 64 bytes of a row at a time. A product is of 16 source rows and eight bytes
//   of each of eight lanes; lanes transpose them, four rows at a time, so that a word has one column. While it is
//   multiplied the next rows are on their way. The lanes' results, eight bytes of a row each, go into shared memory in
//   the order in which they are read from there. Neighbouring strips read an eighth of the source rows twice. By
//   columns each warp makes one group, for all strips. A product is of 32 bytes of a row, with the low bytes of the
//   weights, then with the high ones. A byte has a weight in the sums of its own channel alone, so that it makes no
//   difference how channels are interleaved.
// Tables of weights are in global memory, in the order of lanes; L1 is left to them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/image_to_tensor/image_to_tensor_conversion.h"

namespace mmedge {

constexpr int kCudaImageMostFrames = 32;  // of one launch

constexpr int kCudaImageStrip = 8;        // output rows of a warp
constexpr int kCudaImageGroup = 8;        // output columns of a matrix product
constexpr int kCudaImageTileGroups = 4;   // the most of a warp
constexpr int kCudaImageRowStep = 16;     // source rows of a matrix product
constexpr int kCudaImageColumnStep = 32;  // bytes of a row of a matrix product
constexpr int kCudaImageChunk = 64;       // bytes of a row that a warp resizes at once
constexpr int kCudaImageSpan = 320;       // the most bytes of a row that it holds resized

// What ends in "table" is where in CudaImagePlan::tables. Weights are as the 32 lanes of a product need them
// (matrix.cuh), their low bytes and their high ones apart.
struct CudaImagePlane {
  int plane, channels;
  int row_bytes;            // readable
  bool whole;               // rows are read in fours of which none is past the last one, and their bytes in eights
  unsigned scale;           // from sums of the row pass to 1/128 level in the upper 16 of 32 bits
  int row_steps;            // products that the rows of a strip take, the most of any
  int rows_table;           // [strips][2]: the first source row, and how many
  int row_weight_table;     // [strips][row_steps][lanes][2]
  int column_steps;         // products that the bytes of a group take, the most of any
  int first_byte_table;     // [groups]: multiples of 8
  int column_weight_table;  // [groups][channels][column_steps][lanes][4]
};

// How many groups of output columns a block works on.
struct CudaImageTiling {
  int groups;
  int bytes_table[3];  // of each plane: [tiles][2]: of a row, the first byte and one past the last
};

// What the kernel is told, but for the tables.
struct CudaImageKernel {
  CudaImagePlane planes[3];
  int plane_count, inputs;
  CudaImageTiling tiling;  // of those of the plan, the one that a launch chose
  // The output in the frame's orientation, and the resized picture within it.
  int full_columns, full_rows, columns, rows, left, top;
  // Where pixel (row, column) of that lies in the tensor: element origin + row * row_step + column * column_step.
  int origin, row_step, column_step;
  int tensor_size;  // elements
  ElementType type;
  int zero_point;
  int channels;
  int channel_offset[3];  // from a pixel's element to that of output c
  float factor[3][3], offset[3], least[3], most[3], pad[3];
};

// Of one geometry. `tables` must be copied to the device before a launch, aligned to 16 bytes.
struct CudaImagePlan {
  CudaImageKernel kernel{};
  std::vector<CudaImageTiling> tilings;  // the narrowest first
  std::vector<int32_t> tables;
};

CudaImagePlan make_cuda_image_plan(const ImageToTensorSpec& spec, const ImageGeometry& geometry);

// What is wrong with the kernel on the current device, such as that it was compiled for none like it.
cudaError_t check_image_to_tensor();

// Writes one tensor after the other; cudaErrorInvalidValue where a stride takes more than 32 bits. `tables` is the
// device's copy; frames past kCudaImageMostFrames take launches of their own.
cudaError_t image_to_tensor(const CudaImagePlan& plan, const int32_t* tables, std::span<const CudaImageFrame> frames,
                            void* tensor, cudaStream_t stream);

}  // namespace mmedge
