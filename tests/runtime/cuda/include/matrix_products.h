// In place of what kernels/matrix.cuh makes of tensor cores.
#pragma once

#include <cuda_fp16.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "emulator.h"

namespace emulator {

// Register i of each lane.
template <size_t kRegisters>
struct WarpRegisters {
  unsigned of_lane[32][kRegisters];
};

template <size_t kRegisters>
WarpRegisters<kRegisters> gather(const unsigned (&own)[kRegisters], const Place& place) {
  WarpRegisters<kRegisters> all{};
  for (size_t i = 0; i < kRegisters; i += 2) {
    const uint64_t upper = i + 1 < kRegisters ? own[i + 1] : 0;
    const Lanes lanes = exchange(0xffffffffU, upper << 32 | own[i], false, place);
    for (size_t lane = 0; lane < 32; ++lane) {
      all.of_lane[lane][i] = static_cast<unsigned>(lanes.value[lane]);
      if (i + 1 < kRegisters) all.of_lane[lane][i + 1] = static_cast<unsigned>(lanes.value[lane] >> 32);
    }
  }
  return all;
}

// Calls multiply(a's register, b's register, number of the sum) for all of a lane's sums and what they are of.
template <size_t kHalves, class Multiply>
void multiply_matrices(const unsigned (&a)[2 * kHalves], const unsigned (&b)[kHalves], const Place& place,
                       const Multiply& multiply) {
  const auto rows = gather(a, place);
  const auto columns = gather(b, place);
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned sum = 0; sum < 4; ++sum) {
    for (unsigned half = 0; half < kHalves; ++half) {
      for (unsigned i = 0; i < 4; ++i) {
        multiply(rows.of_lane[4 * g + i][2 * half + sum / 2], columns.of_lane[4 * (2 * t + sum % 2) + i][half], sum);
      }
    }
  }
}

}  // namespace emulator

namespace mmedge {

template <size_t kHalves>
void multiply_bytes(const unsigned (&a)[2 * kHalves], const unsigned (&b)[kHalves], int (&sums)[4],
                    const emulator::Place& place = {__builtin_FILE(), __builtin_LINE()}) {
  emulator::multiply_matrices<kHalves>(a, b, place, [&](unsigned row, unsigned column, unsigned sum) {
    auto bits = static_cast<unsigned>(sums[sum]);
    for (int i = 0; i < 32; i += 8) bits += (row >> i & 0xffU) * (column >> i & 0xffU);
    sums[sum] = static_cast<int>(bits);
  });
}

inline void multiply_signed_bytes(const unsigned (&a)[4], const unsigned (&b)[2], int (&sums)[4],
                                  const emulator::Place& place = {__builtin_FILE(), __builtin_LINE()}) {
  emulator::multiply_matrices<2>(a, b, place, [&](unsigned row, unsigned column, unsigned sum) {
    auto bits = static_cast<unsigned>(sums[sum]);
    for (int i = 0; i < 32; i += 8) {
      bits += static_cast<unsigned>(static_cast<int8_t>(row >> i) * static_cast<int8_t>(column >> i));
    }
    sums[sum] = static_cast<int>(bits);
  });
}

// Each product is added by itself.
inline void multiply_halves(const unsigned (&a)[4], const unsigned (&b)[2], float (&sums)[4],
                            const emulator::Place& place = {__builtin_FILE(), __builtin_LINE()}) {
  const auto half = [](unsigned bits) { return __half2float(__ushort_as_half(static_cast<unsigned short>(bits))); };
  emulator::multiply_matrices<2>(a, b, place, [&](unsigned row, unsigned column, unsigned sum) {
    for (int i = 0; i < 32; i += 16) sums[sum] += half(row >> i) * half(column >> i);
  });
}

// Rounded towards zero after every four products, as the first tensor cores that took TF32 do.
inline void multiply_floats(const unsigned (&a)[4], const unsigned (&b)[2], float (&sums)[4],
                            const emulator::Place& place = {__builtin_FILE(), __builtin_LINE()}) {
  const auto upper = [](unsigned bits) { return double{std::bit_cast<float>(bits & 0xffffe000U)}; };
  double exact = 0.0;
  int products = 0;
  emulator::multiply_matrices<2>(a, b, place, [&](unsigned row, unsigned column, unsigned sum) {
    if (products++ % 4 == 0) exact = sums[sum];
    exact += upper(row) * upper(column);
    const auto nearest = static_cast<float>(exact);
    sums[sum] = std::abs(nearest) > std::abs(exact) ? std::nextafter(nearest, 0.0F) : nearest;
  });
}

}  // namespace mmedge
