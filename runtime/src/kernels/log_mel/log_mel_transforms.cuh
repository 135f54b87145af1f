// Steps 1 to 3 of log_mel by a block, for a few neighbouring frames of a clip: samples to the bins of its shared
// memory, [bin][frame].
#pragma once

#include <cstddef>

#include "kernels/device.cuh"
#include "kernels/log_mel/fft.cuh"
#include "kernels/log_mel/log_mel_cuda.h"

namespace mmedge {

// Sample `at` of a clip with its padding.
__device__ float load_padded(const CudaLogMelKernel& kernel, const CudaLogMelClip& clip, int at) {
  const int mirrored = min(abs(at), 2 * (clip.sample_count - 1) - at);
  return kernel.mirrors || mirrored == at ? clip.samples[mirrored] : 0.0F;
}

// The transform of n_fft = C * R samples as one of R down each of C columns and one of C along each row of the first
// half, which in turn is all that a real transform needs.
template <int kColumns, int kLength, int kBlockFrames>
struct Split {
  static constexpr int kFrames = kBlockFrames, kRows = kLength / 2 + 1;
  static constexpr int kThreads = divide_up(kFrames * (kColumns > kRows ? kColumns : kRows), kWarp) * kWarp;
  // Of the rows in shared memory, [row][column][frame]: 16 lanes that write neighbouring columns, or read neighbouring
  // frames of neighbouring rows, meet no bank twice.
  static constexpr int kPitch = kFrames + 1, kRowPitch = kColumns * kPitch + kFrames % 16;

  static size_t shared_floats(const CudaLogMelKernel& /*kernel*/) { return size_t{2} * kRows * kRowPitch; }

  // Steps 1 to 3 of the block's frames. To be called by all of it, and to be followed by a barrier.
  static __device__ void find_bins(const CudaLogMelKernel& kernel, const float* numbers, const CudaLogMelClip& clip,
                                   int first, float* bins) {
    const int thread = static_cast<int>(threadIdx.x);
    auto* const rows = reinterpret_cast<float2*>(bins);
    const int column = thread % kColumns, column_frame = thread / kColumns;
    if (column_frame < kFrames && first + column_frame < clip.frames) {
      transform_column(kernel, numbers, clip, first + column_frame, column, rows + column * kPitch + column_frame);
    }
    __syncthreads();
    const int frame = thread % kFrames, row = thread / kFrames;
    const bool used = row < kRows && first + frame < clip.frames;
    float x_re[kColumns], x_im[kColumns];
    if (used) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float2 x = rows[row * kRowPitch + c * kPitch + frame];
        x_re[c] = x.x;
        x_im[c] = x.y;
      }
    }
    __syncthreads();  // the bins take the place of the rows
    if (used) transform_row(kernel, x_re, x_im, row, bins + frame);
  }

 private:
  static __device__ void transform_column(const CudaLogMelKernel& kernel, const float* numbers,
                                          const CudaLogMelClip& clip, int frame, int column, float2* rows) {
    const int start = frame * kernel.hop - kernel.padding;
    float x[kLength], re[kRows], im[kRows];
    if (start >= 0 && start + kColumns * kLength <= clip.sample_count) {
      const float* const samples = clip.samples + start + column;
#pragma unroll
      for (int j = 0; j < kLength; ++j) x[j] = samples[kColumns * j];
    } else {
#pragma unroll
      for (int j = 0; j < kLength; ++j) x[j] = load_padded(kernel, clip, start + column + kColumns * j);
    }
    const float* const window = numbers + kernel.window + column;
#pragma unroll
    for (int j = 0; j < kLength; ++j) x[j] *= window[kColumns * j];
    real_dft<kLength>(x, 1, re, im);
    im[0] = 0.0F;
    if constexpr (kLength % 2 == 0) im[kLength / 2] = 0.0F;
    const auto* const twiddle = reinterpret_cast<const float2*>(numbers + kernel.roots) + column;
    rows[0] = {re[0], 0.0F};
#pragma unroll
    for (int k = 1; k < kRows; ++k) {
      const float2 w = twiddle[k * kColumns];
      rows[k * kRowPitch] = {fmaf(-w.y, im[k], w.x * re[k]), fmaf(w.y, re[k], w.x * im[k])};
    }
  }

  static __device__ void transform_row(const CudaLogMelKernel& kernel, const float* x_re, const float* x_im, int row,
                                       float* bins) {
    float re[kColumns], im[kColumns];
    complex_dft<kColumns>(x_re, x_im, 1, re, im);
    float power[kColumns];
#pragma unroll
    for (int q = 0; q < kColumns; ++q) power[q] = fmaf(re[q], re[q], im[q] * im[q]);
    if (kernel.power == 1) {
#pragma unroll
      for (float& value : power) value = sqrtf(value);
    }
    // Bin row + R q; above n_fft / 2 its mirror. Row 0, and R / 2 for even R, mirror themselves.
    constexpr int half = kColumns / 2;
    const bool mirrors_itself = row == 0 || 2 * row == kLength;
#pragma unroll
    for (int q = 0; q < half; ++q) bins[(kLength * q + row) * kFrames] = power[q];
    if (row == 0) bins[kLength * half * kFrames] = power[half];
    if (mirrors_itself) return;
#pragma unroll
    for (int q = half; q < kColumns; ++q) {
      bins[(kLength * (kColumns - q) - row) * kFrames] = power[q];
    }
  }
};

// Of any even n_fft: as a complex transform of half the length, of even samples and odd ones, by Stockham's algorithm
// with any radix.
struct AnyTransform {
  static constexpr int kFrames = 1, kThreads = 128;

  static size_t shared_floats(const CudaLogMelKernel& kernel) { return size_t{2} * kernel.n_fft; }

  static __device__ void find_bins(const CudaLogMelKernel& kernel, const float* numbers, const CudaLogMelClip& clip,
                                   int first, float* bins) {
    const int thread = static_cast<int>(threadIdx.x), length = kernel.n_fft / 2;
    const auto* const roots = reinterpret_cast<const float2*>(numbers + kernel.roots);
    auto *from = reinterpret_cast<float2*>(bins), *to = from + length;
    // The last stage's output must be the second buffer: the bins take the place of the first.
    if (kernel.radix_count % 2 == 0) swap(from, to);
    const int start = first * kernel.hop - kernel.padding;
    for (int n = thread; n < kernel.n_fft; n += kThreads) {
      reinterpret_cast<float*>(from)[n] = load_padded(kernel, clip, start + n) * numbers[kernel.window + n];
    }
    __syncthreads();
    for (int i = 0, stride = 1; i < kernel.radix_count; stride *= kernel.radix[i++]) {
      for (int at = thread; at < length; at += kThreads) {
        to[at] = find_output(from, roots, length, stride, kernel.radix[i], at);
      }
      __syncthreads();
      swap(from, to);
    }
    for (int k = thread; k <= length; k += kThreads) {
      const float2 a = from[k % length], b = from[(length - k) % length], w = roots[k];
      const float even_re = 0.5F * (a.x + b.x), even_im = 0.5F * (a.y - b.y);
      const float odd_re = 0.5F * (a.y + b.y), odd_im = 0.5F * (b.x - a.x);
      const float re = fmaf(w.x, odd_re, fmaf(-w.y, odd_im, even_re));
      const float im = fmaf(w.x, odd_im, fmaf(w.y, odd_re, even_im));
      const float squared = fmaf(re, re, im * im);
      bins[k] = kernel.power == 1 ? sqrtf(squared) : squared;
    }
  }

 private:
  static __device__ void swap(float2*& a, float2*& b) {
    float2* const before = a;
    a = b;
    b = before;
  }

  // Number `at` after a stage: [p][j][q], for j < radix and q < stride, is a sum over i < radix of [i][p][q].
  static __device__ float2 find_output(const float2* from, const float2* roots, int length, int stride, int radix,
                                       int at) {
    const int q = at % stride, j = at / stride % radix, p = at / stride / radix;
    const int parts = length / radix;
    const int step = parts * j;  // of the root's index, below `length`
    int turn = stride * j * p;
    float2 sum = {0.0F, 0.0F};
    for (int i = 0; i < radix; ++i) {
      const float2 x = from[q + stride * p + parts * i], w = roots[2 * turn];
      sum.x = fmaf(w.x, x.x, fmaf(-w.y, x.y, sum.x));
      sum.y = fmaf(w.x, x.y, fmaf(w.y, x.x, sum.y));
      turn += step;
      if (turn >= length) turn -= length;
    }
    return sum;
  }
};

}  // namespace mmedge
