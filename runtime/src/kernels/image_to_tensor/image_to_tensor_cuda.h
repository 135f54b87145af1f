// image_to_tensor on a CUDA device: the steps of image_to_tensor.h for the frames of several cameras, of one geometry,
// in one launch.
//
// Any input and output of image_to_tensor.h. Rounding: the resize is the same integer arithmetic, and colour and scale
// are the same sequence of fused multiply-adds, so the tensor is that of the CPU kernel on a processor with such
// instructions, to the bit.
//
// Roofline, 16 frames of NV12 1920x1080 to 3x224x224 float32: reads 49.8 MB and writes 9.6 MB, 18 us at the 3.35 TB/s
// of an H100's memory and 0.29 ms at the 205 GB/s of an Orin's. By rows each byte goes into two outputs: of four
// columns and two rows two byte permutations and four dot products of two make one pair of taps, 2 operations a byte
// and output or 0.2 G in all; by columns 0.03 G multiply-adds.
//
// Launch: a warp makes 32 neighbouring pixels of one output row, alone: it resizes the rows of a chunk of bytes, four
// neighbours a lane, into its own piece of shared memory, then each lane resizes the columns of its pixel there, for as
// many chunks as the taps of 32 pixels span. Neighbouring output rows share half their source rows: the eight warps of
// a block have eight of them, so most of what is read twice comes from L1. Tables of taps are in global memory, read
// by a whole warp at one address (rows) or at 32 neighbouring ones (columns).
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

// Of one channel of a plane. Like all that ends in "table", where in CudaImagePlan::tables.
struct CudaImageChannel {
  int pixel_bytes, first_byte;   // its samples lie at first_byte, first_byte + pixel_bytes, ...
  int first_table, count_table;  // [columns]: the first sample, and how many
  int weight_table;              // [most samples][columns]
};

struct CudaImagePlane {
  int plane, channels;
  int row_bytes, height;             // readable
  int shift;                         // from sums of the row pass to 1/128 level
  int pairs;                         // of rows, the most of any output row
  int first_row_table, pairs_table;  // [rows]: the first row, and how many pairs from there
  int weight_table;                  // [rows][pairs]: two 16-bit weights each
  int begin_table, end_table;        // [column tiles]: the bytes that a warp's pixels need, the first a multiple of 4
  CudaImageChannel channel[3];
};

// What the kernel is told, but for the tables.
struct CudaImageKernel {
  CudaImagePlane planes[3];
  int plane_count, inputs;
  // The output in the frame's orientation, the resized picture within it, and how it is turned upright.
  int full_columns, full_rows, columns, rows, left, top;
  bool turned, flip_columns, flip_rows;
  int width, height, channels;  // of the output, upright
  ImageLayout layout;
  ElementType type;
  int zero_point;
  int order[3];
  float factor[3][3], offset[3], least[3], most[3], pad[3];
};

// Of one geometry. `tables` must be copied to the device before a launch.
struct CudaImagePlan {
  CudaImageKernel kernel{};
  std::vector<int32_t> tables;
};

CudaImagePlan make_cuda_image_plan(const ImageToTensorSpec& spec, const ImageGeometry& geometry);

// Writes one tensor after the other. `tables` is the device's copy; frames past kCudaImageMostFrames take launches of
// their own.
cudaError_t image_to_tensor(const CudaImagePlan& plan, const int32_t* tables, std::span<const CudaImageFrame> frames,
                            void* tensor, cudaStream_t stream);

}  // namespace mmedge
