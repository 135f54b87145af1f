// How similarity_top_k.cu reads rows, 16 bytes at a time, and takes them apart into four float32 at a time; and how it
// adds those up where queries are few.
#pragma once

#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/device.cuh"

namespace mmedge {

constexpr int kRowLanes = 8;  // that share a row
constexpr int kRows = 4;      // that a lane has under way

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

// The next vector of each of a lane's rows, of which `left` values are left; aligned rows are at multiples of a vector.
template <class Element>
__device__ void load_rows(const std::byte* from, const unsigned (&offsets)[kRows], bool aligned, int left,
                          RowVector (&vectors)[kRows]) {
  if (aligned && left >= kVectorValues<Element>) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) vectors[r] = load_vector(from + offsets[r]);
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) vectors[r] = load_part<Element>(from + offsets[r], left);
  }
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

// Of four values, of int8 as the word that holds them.
template <class Square>
__device__ Square add_squares(unsigned word, const float4& v, Square sum) {
  if constexpr (std::is_same_v<Square, int>) {
    return __dp4a(static_cast<int>(word), static_cast<int>(word), sum);
  } else {
    return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
  }
}

// Of a vector, which are worked on at a time: more would take too many registers.
template <class Element>
constexpr int kGroups = std::min(kVectorValues<Element> / 4, 2);

// Adds the first groups of one vector of each row, that of the lane, to the sums of the rows and queries.
template <class Element, bool kDistance, int kQueries, int kFours, class Square>
__device__ void add_vectors(const RowVector (&vectors)[kRows], const float4 (&queries)[kQueries][kFours], int at,
                            float scale, float (&sums)[kQueries * kRows], Square (&squares)[kRows]) {
#pragma unroll
  for (int group = 0; group < kGroups<Element>; ++group) {
    float4 values[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 v = values[r] = unpack<Element>(vectors[r], group);
      if constexpr (!kDistance) squares[r] = add_squares(vectors[r].words[group], v, squares[r]);
    }
#pragma unroll
    for (int t = 0; t < kQueries; ++t) {
      const float4 q = queries[t][at + group * kRowLanes];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float& sum = sums[t * kRows + r];
        const float4& v = values[r];
        if constexpr (kDistance) {
          const auto difference = [&](float a, float b) {
            return std::is_same_v<Element, int8_t> ? fmaf(-scale, b, a) : a - b;
          };
          const float x = difference(q.x, v.x), y = difference(q.y, v.y);
          const float z = difference(q.z, v.z), w = difference(q.w, v.w);
          sum = fmaf(w, w, fmaf(z, z, fmaf(y, y, fmaf(x, x, sum))));
        } else {
          sum = fmaf(q.w, v.w, fmaf(q.z, v.z, fmaf(q.y, v.y, fmaf(q.x, v.x, sum))));
        }
      }
    }
  }
}

}  // namespace mmedge
