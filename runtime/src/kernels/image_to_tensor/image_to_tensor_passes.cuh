// The two passes of image_to_tensor.cu, each as products of a warp's matrices.
#pragma once

#include <cstdint>

#include "kernels/device.cuh"
#include "kernels/image_to_tensor/image_to_tensor_cuda.h"
#include "kernels/matrix.cuh"

namespace mmedge {

constexpr int kImageWarps = 4;                                      // of a block
constexpr int kImageLaneBytes = kCudaImageChunk / kCudaImageStrip;  // of a row
constexpr int kImagePad = kCudaImageColumnStep / kImageLaneBytes;
constexpr int kImagePitch = kCudaImageSpan / kImageLaneBytes + kImagePad;

// Of one channel, a lane's row and its columns 2t and 2t + 1 of a group.
struct ImageSums {
  int of_column[2];
};

// What a warp has resized by rows, in 1/128 level: of eight neighbouring bytes of a row the low bytes of four results,
// the high ones, and the same of the other four. Zeros lie before and after each row.
struct ResizedStrip {
  uint4 eights[kImagePad + kCudaImageStrip * kImagePitch];
};

// The lane's bytes of four rows.
struct FourRows {
  uint2 of_row[4];
};

// `count` rows on. In one instruction, where the compiler makes four.
__device__ inline const uint8_t* advance(const uint8_t* from, int count, int stride) {
#ifdef __CUDA_ARCH__
  const uint8_t* to;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(to) : "r"(count), "r"(stride), "l"(from));
  return to;
#else
  return from + static_cast<int64_t>(count) * stride;
#endif
}

// Of rows that are aligned to a lane's bytes. Each byte is read once: L1 is for weights.
__device__ inline void load(const uint8_t* from, int stride, FourRows& bytes) {
#pragma unroll
  for (int i = 0; i < 4; ++i) bytes.of_row[i] = __ldcs(reinterpret_cast<const uint2*>(advance(from, i, stride)));
}

// Of the first `rows` rows, the first `left` bytes, and zeros. `before`: bytes of a row that lie before these.
__device__ inline FourRows load_part(const uint8_t* from, int stride, int before, int left, int rows) {
  const bool inner = before >= 3 && left >= kImageLaneBytes + 3;  // so that whole words around them may be read
  FourRows bytes;
#pragma unroll
  for (int i = 0; i < 4; ++i, from = advance(from, 1, stride)) {
    if (inner && i < rows) {
      const auto off = static_cast<unsigned>(reinterpret_cast<uintptr_t>(from) % 4);
      const auto* const words = reinterpret_cast<const unsigned*>(from - off);
      const unsigned low = __ldcs(words), middle = __ldcs(words + 1), high = off == 0 ? 0 : __ldcs(words + 2);
      bytes.of_row[i] = {__funnelshift_r(low, middle, 8 * off), __funnelshift_r(middle, high, 8 * off)};
      continue;
    }
    uint64_t row = 0;
#pragma unroll 1
    for (int k = i < rows ? min(left, kImageLaneBytes) - 1 : -1; k >= 0; --k) row = row << 8 | from[k];
    bytes.of_row[i] = {static_cast<unsigned>(row), static_cast<unsigned>(row >> 32)};
  }
  return bytes;
}

// Byte i of row r becomes byte r of word i.
__device__ inline void transpose(unsigned a, unsigned b, unsigned c, unsigned d, unsigned (&words)[4]) {
  const unsigned low_ab = __byte_perm(a, b, 0x5140), high_ab = __byte_perm(a, b, 0x7362);
  const unsigned low_cd = __byte_perm(c, d, 0x5140), high_cd = __byte_perm(c, d, 0x7362);
  words[0] = __byte_perm(low_ab, low_cd, 0x5410);
  words[1] = __byte_perm(low_ab, low_cd, 0x7632);
  words[2] = __byte_perm(high_ab, high_cd, 0x5410);
  words[3] = __byte_perm(high_ab, high_cd, 0x7632);
}

// Rounds the lane's bytes of a row, columns j and j + 8 in sums[j] with the low bytes of the weights and with the high
// ones, scaled so that they are the upper half of a word.
__device__ inline void store(const int (&sums)[kImageLaneBytes][4], unsigned scale, uint4* resized) {
  unsigned low[4], high[4];
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    unsigned values[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto& sum = sums[word % 2 * 4 + i];
      values[i] = static_cast<unsigned>(sum[word / 2]) * scale +
                  (static_cast<unsigned>(sum[word / 2 + 2]) * (scale << 8) + 0x8000U);
    }
    const unsigned two = __byte_perm(values[0], values[1], 0x7362);
    const unsigned others = __byte_perm(values[2], values[3], 0x7362);
    low[word] = __byte_perm(two, others, 0x5410);
    high[word] = __byte_perm(two, others, 0x7632);
  }
  resized[0] = {low[0], high[0], low[1], high[1]};
  resized[1] = {low[2], high[2], low[3], high[3]};
}

// A strip's source rows.
struct SourceRows {
  const uint8_t* data;
  int stride, rows, row_bytes;
};

__device__ inline void add_products(const unsigned (&columns)[2][4], uint2 weights, int (&sums)[kImageLaneBytes][4]) {
  const unsigned a[] = {weights.x, weights.y};
#pragma unroll
  for (int j = 0; j < kImageLaneBytes; ++j) {
    const unsigned b[] = {columns[j / 4][j % 4]};
    multiply_bytes(a, b, sums[j]);
  }
}

__device__ inline void transpose(const FourRows& bytes, unsigned (&columns)[2][4]) {
  const auto& row = bytes.of_row;
  transpose(row[0].x, row[1].x, row[2].x, row[3].x, columns[0]);
  transpose(row[0].y, row[1].y, row[2].y, row[3].y, columns[1]);
}

// A strip of output rows, of bytes `begin` to `end`. `weights` are the lane's of the first product, `resized` is where
// its first eight bytes go. What is past the last row or a row's end has weights of 0.
template <bool kAligned>
__device__ void resize_rows(const SourceRows& source, const uint2* weights, unsigned scale, int begin, int end,
                            int lane, uint4* resized) {
  const int lane_row = lane % 4 * 4, steps = divide_up(source.rows, kCudaImageRowStep);
  int byte = begin + lane / 4 * kImageLaneBytes, row = lane_row, step = steps;
  const uint8_t* from = advance(source.data + byte, lane_row, source.stride);
  int sums[kImageLaneBytes][4] = {};
  FourRows bytes{};
  uint2 weight = *weights;
  const auto load_rows = [&] {
    if constexpr (kAligned) {
      if (row < source.rows && byte < end) load(from, source.stride, bytes);
    } else {
      bytes = load_part(from, source.stride, byte, byte < end ? source.row_bytes - byte : 0, source.rows - row);
    }
  };
  load_rows();
#pragma unroll 1
  while (true) {
    unsigned columns[2][4];
    transpose(bytes, columns);
    // What comes next, perhaps of the next chunk.
    row += kCudaImageRowStep;
    from = advance(from, kCudaImageRowStep, source.stride);
    const bool ends = --step == 0;
    if (ends) {
      row = lane_row;
      byte += kCudaImageChunk;
      from = advance(from + kCudaImageChunk, -steps * kCudaImageRowStep, source.stride);
    }
    load_rows();
    add_products(columns, weight, sums);
    weight = weights[(ends ? 0 : steps - step) * kWarp];
    if (!ends) continue;
    step = steps;
    store(sums, scale, resized);
    begin += kCudaImageChunk;
    if (begin >= end) return;
    resized += kCudaImageChunk / kImageLaneBytes;
#pragma unroll
    for (auto& sum : sums) sum[0] = sum[1] = sum[2] = sum[3] = 0;
  }
}

// One channel of a group of output columns, of `steps` products, of `count` strips. `weights` are the lane's of the
// first product, and so are `eights` of the first strip.
__device__ inline void resize_columns(const uint4* eights, const uint4* weights, int steps, int count, bool more,
                                      ImageSums (*sums)[3][kWarp]) {
  int low[kImageWarps][4] = {}, high[kImageWarps][4] = {};  // with those bytes of the weights
#pragma unroll 1
  for (; steps > 0; --steps) {
    const uint4 b = *weights;
    weights += kWarp;
#pragma unroll
    for (int s = 0; s < kImageWarps; ++s) {
      if (s == count) break;
      const uint4 a = eights[s * (sizeof(ResizedStrip) / sizeof(uint4))];
      multiply_bytes({a.x, a.y, a.z, a.w}, {b.x, b.y}, low[s]);
      multiply_bytes({a.x, a.y, a.z, a.w}, {b.z, b.w}, high[s]);
    }
    eights += kImagePad;
  }
#pragma unroll
  for (int s = 0; s < kImageWarps; ++s) {
    if (s == count) break;
    ImageSums sum{};
    if (more) sum = sums[s][0][0];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Wraps, where a strip has nothing: then nobody asks.
      const auto bits = [&](const int (&of)[4], int row) { return static_cast<unsigned>(of[i + 2 * row]); };
      const unsigned more_bits =
          bits(low[s], 0) + ((bits(low[s], 1) + bits(high[s], 0)) << 8) + (bits(high[s], 1) << 16);
      sum.of_column[i] = static_cast<int>(static_cast<unsigned>(sum.of_column[i]) + more_bits);
    }
    sums[s][0][0] = sum;
  }
}

}  // namespace mmedge
