// What log_mel.cc works out once and log_mel_cpu.cc computes with, and the memory it computes in.
#pragma once

#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/log_mel/log_mel_spec.h"

namespace mmedge {

constexpr size_t kFftColumns = 16;        // of n_fft / 16 samples each
constexpr size_t kMostLanes = 16;         // floats in a SIMD vector, at most
constexpr size_t kTransposedFrames = 96;  // frames whose samples frame_rows() transposes at once

using AlignedFloats = hwy::AlignedFreeUniquePtr<float[]>;

inline AlignedFloats zeros(size_t count) {
  AlignedFloats memory = hwy::AllocateAligned<float>(std::max(count, size_t{1}));  // it aborts on 0
  if (memory == nullptr) throw std::bad_alloc();
  std::fill_n(memory.get(), count, 0.0F);
  return memory;
}

// Four bands side by side: at weights, four weights of each, four more of each, ... up to the widest of them.
struct MelQuad {
  size_t first[4];
  size_t width;
  size_t weights;
};

struct LogMelPlan {
  size_t n_fft = 0, hop = 0, n_mels = 0;
  int power = 2;
  float floor = 0.0F, log_scale = 1.0F;
  MelBands mel;
  std::vector<MelQuad> quads;  // as many as fill the lanes
  AlignedFloats quad_weights;
  AlignedFloats window;    // [n_fft]
  AlignedFloats spectrum;  // the bins of a frame in each lane, with room for 16 floats before and behind
  AlignedFloats columns;   // [16, n_mels] and room for 16 floats behind

  // Where the FFT is ours; empty otherwise. R = n_fft / 16.
  AlignedFloats twiddle_re, twiddle_im;  // [R / 2 + 1, 16]
  AlignedFloats rows_re, rows_im;        // [R / 2 + 1, 16] of a frame in each lane
  size_t transposed_rows = 0, transposed_width = 0;
  AlignedFloats transposed;               // [transposed_rows, transposed_width]: sample p of each frame's hop
  std::vector<size_t> transposed_offset;  // where sample n of a frame is there

  bool has_fft() const { return twiddle_re != nullptr; }
  float* bins() { return spectrum.get() + kMostLanes; }
  // Samples behind the last frame that frame_rows() may read without using them.
  size_t slack() const { return has_fft() ? (kMostLanes + 2) * hop + 4 : 0; }
};

// Whether the FFT of this size is ours on this processor.
bool has_fft(size_t n_fft);
// Step 2 and |X|^2 of step 3 for one frame, into plan.bins(). Only with plan.has_fft().
void frame_spectrum(LogMelPlan& plan, const float* frame);
// The rest of steps 3 to 5 from plan.bins(): n_mels floats, and room for 16 more behind.
void frame_bands(LogMelPlan& plan, float* output);
// Steps 2 to 5 of many frames: [n_mels, output_stride]. Only with plan.has_fft(); reads up to plan.slack() samples
// behind the last frame.
void frame_rows(LogMelPlan& plan, const float* samples, size_t count, float* output, size_t output_stride);

// [rows, columns] to [columns, rows].
void transpose(const float* input, size_t rows, size_t columns, float* output, size_t output_stride);
// output[n, t] = sum over m of matrix[n, m] * input[m, t], for a matrix of [n, inner] and inputs of [inner, columns].
void multiply(std::span<const float> matrix, size_t inner, const float* input, size_t columns, float* output);
// The natural logarithm of positive normal numbers, in place.
void natural_log(std::span<float> values);

}  // namespace mmedge
