// gated_fusion on a CUDA device: the steps of gated_fusion.h, for a whole batch in one launch.
//
// | x       | weight  | y       | alpha, the other parameters | presence | sums of step 1 |
// |---------|---------|---------|-----------------------------|----------|----------------|
// | float32 | float32 | float32 | float32                     | bytes    | float32        |
// | float16 | float16 | float16 | float32                     | bytes    | float32        |
// | int8    | int8    | float32 | float32, int32 offset       | bytes    | int32          |
//
// TensorRT's integers are signed: the uint8 x with zero point z of gated_fusion.h is the int8 x - 128 with z - 128.
//
// Rounding: as gated_fusion.h but for the order of the sums, which is the same in every run, and for quotients and
// roots, which are within 2 units in the last place; y in float16 is rounded once, half to even. In float16 with more
// than kCudaFusionFewRows rows, tensor cores add up the exact products of step 1 in float32, with a rounding of their
// own.
//
// Roofline, 512/256/384 -> 256, batch 1: 1.18 MB of float32 weights are read once, two bytes a flop: 0.35 us at the
// 3.35 TB/s of an H100's memory, 5.8 us at the 205 GB/s of an Orin's, less where they stay in L2. Batch 256: 151 M
// operations, in float32 2.3 us at the H100's 67 TFLOP/s, 28 us at the Orin's 5.3. In float16 they are 0.15 us at the
// 989 TFLOP/s of the H100's tensor cores; there the 9.4 MB count that each tile of 16 rows reads of the 0.59 MB of
// weights from L2, and the reads that wait for each other.
//
// Launch: up to kCudaFusionFewRows rows, a block computes z of one modality for four rows and 8 columns, so that at
// batch 1 the 768 dot products spread over 96 blocks; each is the work of 32 threads that share its features. More rows
// of float32: four by 64 columns, and the features of the four rows in shared memory. More rows of float16 and int8:
// 16 by 64 columns, on tensor cores, by 16 warps, so that all weights of 512 features are in flight before the block
// knows which rows have the modality. This makes 12 blocks up to batch 16 and 192 at batch 256, two of which fit a
// multiprocessor together. Lower tiles would spread fewer rows over more blocks, but a block's time is mostly that of
// reads in turn (flags and weights, x, z), as many whatever its rows. In every case a weight is used as it is read, for
// all rows of the tile. Whichever block finishes a tile last (an atomic counter says so) norms, gates and sums its
// rows: z goes through L2, and no second launch is waited for. A warp scores one row of one modality at a time, then
// gates and mixes one; at D = 256, and where float4s are aligned, it reads z and the parameters at once and waits once.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace mmedge {

constexpr int kCudaFusionMostModalities = 8;
constexpr int kCudaFusionFewRows = 8;

template <class Element>
struct CudaFusionModality {
  const Element* x;              // [B, features]
  const Element* packed_weight;  // from pack_cuda_fusion_weight, 16-byte aligned
  const float* scale;            // [D], of int8: the step of x times that of the row of weight
  const int32_t* offset;         // [D], of int8: the zero point of x times the sum of the row
  const float* bias;             // [D], like the three that follow
  const float* norm_weight;
  const float* norm_bias;
  const float* gate_weight;
  const float* gate_bias;  // [1]
  int features;            // up to kFusionMostFeatures
};

// Element is float, __half or int8_t. All pointers are to device memory.
template <class Element>
struct CudaFusion {
  using Output = std::conditional_t<std::is_same_v<Element, int8_t>, float, Element>;

  CudaFusionModality<Element> modalities[kCudaFusionMostModalities];
  int modality_count;
  int batch;      // B
  int dimension;  // D
  float epsilon;
  const uint8_t* presence;  // [B, modalities], not 0: present
  int presence_stride = 1;  // bytes from one flag to the next: 4 where they are the first bytes of int32 zeros and ones
  Output* y;                // [B, D]
  float* alpha;             // [B, modalities], or NULL
  // Of one launch at a time.
  float* z;           // [B, modalities, D]
  unsigned* tickets;  // [(B + 3) / 4], zero; zero again after each launch
};

// Elements of one packed weight.
template <class Element>
size_t packed_cuda_fusion_weight_size(int dimension, int features);

// On the host: the row-major [D, features] weight in the order that the kernel reads.
template <class Element>
void pack_cuda_fusion_weight(const Element* weight, int dimension, int features, Element* packed);

// cudaErrorInvalidValue where a size is out of range.
template <class Element>
cudaError_t gated_fusion(const CudaFusion<Element>& fusion, cudaStream_t stream);

}  // namespace mmedge
