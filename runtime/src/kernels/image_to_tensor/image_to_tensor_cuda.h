// image_to_tensor on a CUDA device: the steps of image_to_tensor.h for the frames of several cameras, of one geometry,
// in one launch.
//
// Any input and output of image_to_tensor.h. Rounding: the resize is the same integer arithmetic, and colour and scale
// are the same sequence of fused multiply-adds, so the tensor is that of the CPU kernel on a processor with such
// instructions, to the bit.
//
// Roofline, 16 frames of NV12 1920x1080 to 3x224x224 float32: reads 49.8 MB and writes 9.6 MB, 18 us at the 3.35 TB/s
// of an H100's memory and 0.29 ms at the 205 GB/s of an Orin's. By rows each byte goes into two outputs: of 16 columns
// and two rows eight byte permutations and 16 dot products of two make one pair of taps, 0.2 G operations in all. By
// columns a pair of taps is two dot products, of the low and of the high bytes of its weights: 0.03 G.
//
// Launch: a warp makes a tile of two output rows, alone: it resizes the rows of a chunk of bytes, 16 neighbours a lane,
// into its own piece of shared memory, channels apart, then each lane resizes the columns of its pixels there. A tile
// is as wide as one chunk allows, unless the taps of few pixels span more. Neighbouring output rows share half their
// source rows: those of a warp are read once, and most of what warps of a block both read comes from L1. Tables of
// taps are in global memory, read by a whole warp at one address (rows) or at 32 neighbouring ones (columns).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/image_to_tensor/image_to_tensor_conversion.h"

namespace mmedge {

constexpr int kCudaImageMostFrames = 32;  // of one launch

// Where a frame's bytes lie, in device memory; as in ImageFrame, every row its geometry needs is readable.
struct CudaImageFrame {
  const uint8_t* planes[3];
  int64_t strides[3];
};

constexpr int kCudaImageTileColumns = 64;  // the most output pixels of a warp
constexpr int kCudaImageChunk = 512;       // the most bytes of a row that a warp resizes at a time

// Of one channel of a plane. Like all that ends in "table", where in CudaImagePlan::tables.
struct CudaImageChannel {
  int part;          // its samples are among the bytes part, part + interleaved, ... of a row
  int pairs;         // of those bytes, for each output column; even
  int first_table;   // [columns]: the first pair
  int weight_table;  // [pairs / 2][columns][2]: the low bytes of both weights of a pair, then the high ones
};

struct CudaImagePlane {
  int plane, channels;
  int interleaved;                    // parts of a row, its bytes dealt to them in turn
  int chunk, part_pairs;              // bytes; pairs of them in each part
  int row_bytes, height;              // readable
  int shift;                          // from sums of the row pass to 1/128 level
  int pairs;                          // of rows 2k and 2k + 1, the most of any output row
  int first_pair_table, pairs_table;  // [rows]: the first pair, and how many
  int weight_table;                   // [rows][pairs]: two 16-bit weights each
  int begin_table, chunks_table;      // [column tiles]: the first pair of a part that a tile needs, and its chunks
  CudaImageChannel channel[3];
};

// What the kernel is told, but for the tables.
struct CudaImageKernel {
  CudaImagePlane planes[3];
  int plane_count;
  int tile_columns;
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

// Of one geometry. `tables` must be copied to the device before a launch, aligned to 8 bytes.
struct CudaImagePlan {
  CudaImageKernel kernel{};
  std::vector<int32_t> tables;
};

CudaImagePlan make_cuda_image_plan(const ImageToTensorSpec& spec, const ImageGeometry& geometry);

// What is wrong with the kernel on the current device, such as that it was compiled for none like it.
cudaError_t check_image_to_tensor();

// Writes one tensor after the other. `tables` is the device's copy; frames past kCudaImageMostFrames take launches of
// their own.
cudaError_t image_to_tensor(const CudaImagePlan& plan, const int32_t* tables, std::span<const CudaImageFrame> frames,
                            void* tensor, cudaStream_t stream);

}  // namespace mmedge
