// How gated_fusion.cu reads features and weights, and multiplies them.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/device.cuh"
#include "kernels/gated_fusion/gated_fusion_cuda.h"

namespace mmedge {

constexpr int kFusionTileColumns = 64;  // of z, that a block computes

// Features are worked on in vectors of 16 bytes, those of float16 after they became float32.
template <class Element>
struct FusionFeatures {
  using Vector = float4;
  using Sum = float;
  static constexpr int kCount = 4;
};

template <>
struct FusionFeatures<int8_t> {
  using Vector = int4;
  using Sum = int;
  static constexpr int kCount = 16;
};

template <class Element>
using FusionVector = FusionFeatures<Element>::Vector;
template <class Element>
using FusionSum = FusionFeatures<Element>::Sum;

// A packed weight is [vectors of features][columns], the columns padded to whole tiles: neighbouring threads, which
// have neighbouring columns, read neighbouring vectors. What is past D or the features is zero.
__device__ __host__ constexpr int padded_columns(int dimension) {
  return divide_up(dimension, kFusionTileColumns) * kFusionTileColumns;
}

__device__ inline float4 load_vector(const float* from) { return *reinterpret_cast<const float4*>(from); }

struct __align__(8) FourHalves {
  __half2 low, high;
};

__device__ inline float4 load_vector(const __half* from) {
  const FourHalves halves = *reinterpret_cast<const FourHalves*>(from);
  const float2 low = __half22float2(halves.low), high = __half22float2(halves.high);
  return {low.x, low.y, high.x, high.y};
}

__device__ inline int4 load_vector(const int8_t* from) { return *reinterpret_cast<const int4*>(from); }

// The first `count` features, then zeros; reads no further.
__device__ inline float4 load_part(const float* from, int count) {
  return {count > 0 ? from[0] : 0.0F, count > 1 ? from[1] : 0.0F, count > 2 ? from[2] : 0.0F,
          count > 3 ? from[3] : 0.0F};
}

__device__ inline float4 load_part(const __half* from, int count) {
  const auto at = [&](int i) { return count > i ? __half2float(from[i]) : 0.0F; };
  return {at(0), at(1), at(2), at(3)};
}

__device__ inline int4 load_part(const int8_t* from, int count) {
  const auto word = [&](int first) {
    unsigned bits = 0;
    for (int i = 0; i < 4; ++i) {
      if (first + i < count) bits |= static_cast<unsigned>(static_cast<uint8_t>(from[first + i])) << (8 * i);
    }
    return static_cast<int>(bits);
  };
  return {word(0), word(4), word(8), word(12)};
}

// Rows of x lie as they come: those whose features are no whole number of vectors are mostly misaligned.
template <class Element>
__device__ FusionVector<Element> load_x(const CudaFusionModality<Element>& modality, int row, int vector) {
  constexpr int count = FusionFeatures<Element>::kCount;
  const int left = modality.features - vector * count;
  const Element* from = modality.x + static_cast<size_t>(row) * modality.features + vector * count;
  if (left >= count && reinterpret_cast<uintptr_t>(from) % (count * sizeof(Element)) == 0) return load_vector(from);
  return load_part(from, left);
}

template <class Element>
__device__ FusionVector<Element> load_weight(const CudaFusionModality<Element>& modality, int columns, int vector,
                                             int column) {
  const size_t at = static_cast<size_t>(vector) * columns + column;
  return load_vector(modality.packed_weight + at * FusionFeatures<Element>::kCount);
}

__device__ inline float add_products(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

__device__ inline int add_products(int4 a, int4 b, int sum) {
  return __dp4a(a.w, b.w, __dp4a(a.z, b.z, __dp4a(a.y, b.y, __dp4a(a.x, b.x, sum))));
}

}  // namespace mmedge
