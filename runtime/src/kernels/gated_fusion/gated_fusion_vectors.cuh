// How gated_fusion.cu reads features and weights, and multiplies them but on tensor cores.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/device.cuh"
#include "kernels/gated_fusion/gated_fusion_cuda.h"

namespace mmedge {

constexpr int kFusionTileColumns = 64;  // of z, that a block computes

struct __align__(8) FourHalves {
  unsigned low, high;
};

// Features are read, and lie in shared memory, in vectors.
template <class Element>
struct FusionFeatures {
  using Vector = float4;
  using Sum = float;
  static constexpr int kCount = 4;
};

template <>
struct FusionFeatures<__half> {
  using Vector = FourHalves;
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
__device__ inline FourHalves load_vector(const __half* from) { return *reinterpret_cast<const FourHalves*>(from); }
__device__ inline int4 load_vector(const int8_t* from) { return *reinterpret_cast<const int4*>(from); }

// The first `count` features, then zeros; reads no further.
__device__ inline float4 load_part(const float* from, int count) {
  return {count > 0 ? from[0] : 0.0F, count > 1 ? from[1] : 0.0F, count > 2 ? from[2] : 0.0F,
          count > 3 ? from[3] : 0.0F};
}

__device__ inline FourHalves load_part(const __half* from, int count) {
  const auto at = [&](int i) { return count > i ? unsigned{__half_as_ushort(from[i])} : 0U; };
  return {at(0) | at(1) << 16, at(2) | at(3) << 16};
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
__device__ bool has_aligned_rows(const CudaFusionModality<Element>& modality) {
  constexpr int count = FusionFeatures<Element>::kCount;
  return modality.features % count == 0 && reinterpret_cast<uintptr_t>(modality.x) % (count * sizeof(Element)) == 0;
}

template <class Element>
__device__ FusionVector<Element> load_x(const CudaFusionModality<Element>& modality, int row, int vector) {
  constexpr int count = FusionFeatures<Element>::kCount;
  const int left = modality.features - vector * count;
  const Element* from = modality.x + static_cast<size_t>(row) * modality.features + vector * count;
  if (left >= count && reinterpret_cast<uintptr_t>(from) % (count * sizeof(Element)) == 0) return load_vector(from);
  return load_part(from, left);
}

// kStaged vectors from `first` on of a tile's rows into shared memory, zeros in place of absent ones; bit r of
// `present`: whether row r is to be read.
template <int kThreads, int kStaged, class Element, int kRows, int kWidth>
__device__ void stage_x(const CudaFusionModality<Element>& modality, int first_row, unsigned present, int first,
                        FusionVector<Element> (&x)[kRows][kWidth]) {
  constexpr int count = FusionFeatures<Element>::kCount, apart = kThreads / kStaged, each = kRows / apart;
  const int vector = static_cast<int>(threadIdx.x % kStaged), row = static_cast<int>(threadIdx.x / kStaged);
  const unsigned read = first + vector < divide_up(modality.features, count) ? present >> row : 0U;
  if (has_aligned_rows(modality)) {
    // All are read before one is waited for.
    const Element* const from = modality.x + static_cast<size_t>(first_row + row) * modality.features +
                                static_cast<size_t>(first + vector) * count;
    FusionVector<Element> vectors[each];
#pragma unroll
    for (int i = 0; i < each; ++i) {
      vectors[i] =
          (read >> i * apart & 1U) != 0 ? load_vector(from + i * apart * modality.features) : FusionVector<Element>{};
    }
#pragma unroll
    for (int i = 0; i < each; ++i) x[row + i * apart][vector] = vectors[i];
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kRows; i += apart) {
    x[row + i][vector] =
        (read >> i & 1U) != 0 ? load_x(modality, first_row + row + i, first + vector) : FusionVector<Element>{};
  }
}

template <class Element>
__device__ FusionVector<Element> load_weight(const CudaFusionModality<Element>& modality, int columns, int vector,
                                             int column) {
  const size_t at = static_cast<size_t>(vector) * columns + column;
  return load_vector(modality.packed_weight + at * FusionFeatures<Element>::kCount);
}

// In the type that add_products() takes.
__device__ inline float4 widen(float4 vector) { return vector; }
__device__ inline int4 widen(int4 vector) { return vector; }
__device__ inline float4 widen(FourHalves vector) {
  const auto both = [](unsigned bits) {
    __half2 pair;
    memcpy(static_cast<void*>(&pair), &bits, sizeof pair);
    return __half22float2(pair);
  };
  const float2 low = both(vector.low), high = both(vector.high);
  return {low.x, low.y, high.x, high.y};
}

__device__ inline float add_products(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

__device__ inline int add_products(int4 a, int4 b, int sum) {
  return __dp4a(a.w, b.w, __dp4a(a.z, b.z, __dp4a(a.y, b.y, __dp4a(a.x, b.x, sum))));
}

}  // namespace mmedge
