// How similarity_top_k.cu reads rows: 16 bytes at a time, which become float32 four values at a time.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/device.cuh"

namespace mmedge {

struct RowVector {
  unsigned words[4];
};

template <class Element>
constexpr int kVectorValues = static_cast<int>(sizeof(RowVector) / sizeof(Element));

__device__ inline RowVector load_vector(const std::byte* from) {
  const uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
  return {{words.x, words.y, words.z, words.w}};
}

// The first `count` values, then zeros; reads no further.
template <class Element>
__device__ RowVector load_part(const std::byte* from, int count) {
  using Bits =
      std::conditional_t<sizeof(Element) == 4, uint32_t, std::conditional_t<sizeof(Element) == 2, uint16_t, uint8_t>>;
  constexpr int bits = 8 * static_cast<int>(sizeof(Element));
  uint64_t low = 0, high = 0;
#pragma unroll 1  // else it takes more registers than all the rest
  for (int i = min(count, kVectorValues<Element>) - 1; i >= 0; --i) {
    high = high << bits | low >> (64 - bits);
    low = low << bits | reinterpret_cast<const Bits*>(from)[i];
  }
  return {{static_cast<unsigned>(low), static_cast<unsigned>(low >> 32), static_cast<unsigned>(high),
           static_cast<unsigned>(high >> 32)}};
}

__device__ inline float2 to_floats(unsigned pair_of_halves) {
  __half2 pair;
  memcpy(static_cast<void*>(&pair), &pair_of_halves, sizeof pair);
  return __half22float2(pair);
}

// Values 4 * group to 4 * group + 3.
template <class Element>
__device__ float4 unpack(const RowVector& vector, int group) {
  if constexpr (std::is_same_v<Element, float>) {
    const unsigned* const w = vector.words;
    return {__uint_as_float(w[0]), __uint_as_float(w[1]), __uint_as_float(w[2]), __uint_as_float(w[3])};
  } else if constexpr (std::is_same_v<Element, __half>) {
    const float2 low = to_floats(vector.words[2 * group]), high = to_floats(vector.words[2 * group + 1]);
    return {low.x, low.y, high.x, high.y};
  } else {
    // A byte put into the lowest bits of the float 2^23 adds to it: cheaper than a conversion, and exact.
    const unsigned biased = vector.words[group] ^ 0x80808080U;
    const auto at = [&](unsigned i) {
      return __uint_as_float(__byte_perm(biased, 0x4b000000U, 0x7440U | i)) - (8388608.0F + 128.0F);
    };
    return {at(0), at(1), at(2), at(3)};
  }
}

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(int8_t value) { return static_cast<float>(value); }

}  // namespace mmedge
