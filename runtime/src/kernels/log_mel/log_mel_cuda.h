// log_mel on a CUDA device: the steps of log_mel.h for a batch of clips, or of streams, in one launch; a second for
// those that need the whole clip.
//
// | input   | output                                                                     |
// |---------|----------------------------------------------------------------------------|
// | float32 | float32 [n_mels, frames] or [n_mfcc, frames], row-major, of each clip      |
//
// Sizes: every even n_fft up to 4096. 256, 320, 400, 512, 1024 and 2048 are fast.
//
// Rounding: a frame's values depend on its own samples only, to the bit, as in log_mel.h. The arithmetic is that of the
// CPU kernel but for the order of some sums, and for logf, which is within 1 unit in the last place.
//
// Roofline, 64 clips of 1 s at 16 kHz, n_fft 400, hop 160, 64 bands: reads 4.1 MB and writes 1.7 MB, 1.7 us at the
// 3.35 TB/s of an H100's memory and 28 us at the 205 GB/s of an Orin's. 6464 frames of some 13,000 instructions of a
// thread each, loads among them: 20,000 of a warp for each of the H100's multiprocessors, 2.8 us at four per cycle.
//
// Launch: a block computes a few neighbouring frames. The transform is split as on the CPU into C columns of
// R = n_fft / C: a thread loads a column's samples straight from the clip (what neighbouring frames share comes from
// L1), and transforms it in registers; the block exchanges columns, times their twiddle factors, for rows in shared
// memory, once; a thread transforms a row. There bins lie [bin, frame], so that neighbouring lanes sum the same band of
// neighbouring frames, without conflicts of banks, and write neighbours. Padding is by index, and only where a frame
// reaches outside. Other sizes: a frame by each block, any radix, in shared memory after each.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/log_mel/log_mel_spec.h"

namespace mmedge {

constexpr int kCudaLogMelMostClips = 64;  // of one launch
constexpr int kCudaLogMelMostFft = 4096;
constexpr int kCudaLogMelMostSamples = 1 << 29;  // of a clip

// All pointers are to device memory.
struct CudaLogMelClip {
  const float* samples;
  int sample_count;
  int frames;
  int stride;       // of a row of features, at least `frames`
  float* features;  // [feature_rows, stride]
  float* output;    // [rows, frames]; unused where no step needs the whole clip
};

// What the kernels are told, but for the tables.
struct CudaLogMelKernel {
  int n_fft, hop, n_mels, n_mfcc, power, padding;
  bool mirrors;
  bool finds_range, finishes;  // whether there is step 6, and a step over the whole clip
  Normalize normalize;
  float floor, log_scale, range;
  bool scales;
  float mean, deviation;
  bool features_are_cepstrum;
  // Of the transform: its columns and the twiddle factors [R / 2 + 1, C], or 0 and all roots of n_fft, as (re, im).
  int columns;
  int radix[12], radix_count;
  // Where in CudaLogMelPlan::numbers.
  int window, roots, weights, cepstrum;
};

// `numbers` and `bands` must be copied to the device before a launch.
struct CudaLogMelPlan {
  LogMelSpec spec{};
  CudaLogMelKernel kernel{};
  std::vector<float> numbers;
  std::vector<int32_t> bands;  // of each: first bin, width, first weight

  // Rows of the features: of steps 1 to 5, and of 7 where step 6 is off; with step 6 one more, the frames' maxima.
  int feature_rows() const {
    return (kernel.features_are_cepstrum ? kernel.n_mfcc : kernel.n_mels) + (kernel.finds_range ? 1 : 0);
  }
};

// The device's copies.
struct CudaLogMelTables {
  const float* numbers;
  const int32_t* bands;
};

CudaLogMelPlan make_cuda_log_mel_plan(const LogMelSpec& spec);

// All return cudaErrorInvalidValue where n_fft or a clip is too large, the bands of a cepstrum do not fit the block's
// shared memory, a clip's frames are not 1 to as many as its samples give, or its rows overlap. Clips past
// kCudaLogMelMostClips take launches of their own.

// Whole clips: all steps. Where none needs the whole clip the features are the output.
cudaError_t log_mel(const CudaLogMelPlan& plan, const CudaLogMelTables& tables, std::span<const CudaLogMelClip> clips,
                    cudaStream_t stream);

// Streams: the features of frames that begin at samples, samples + hop, ..., without padding.
cudaError_t log_mel_features(const CudaLogMelPlan& plan, const CudaLogMelTables& tables,
                             std::span<const CudaLogMelClip> clips, cudaStream_t stream);

// The steps that need the whole clip, and what follows them, from features to output; cudaErrorInvalidValue where
// there are none. Reads no samples.
cudaError_t finish_log_mel(const CudaLogMelPlan& plan, const CudaLogMelTables& tables,
                           std::span<const CudaLogMelClip> clips, cudaStream_t stream);

}  // namespace mmedge
