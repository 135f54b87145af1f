#include <algorithm>
#include <cfloat>
#include <cstddef>

#include "kernels/device.cuh"
#include "kernels/log_mel/log_mel_cuda.h"
#include "kernels/log_mel/log_mel_transforms.cuh"

namespace mmedge {
namespace {

constexpr size_t kMostShared = 48 * 1024;  // bytes that a block has without asking for more
constexpr int kFinishThreads = 256, kFinishClipThreads = 1024;

struct Clips {
  CudaLogMelClip clip[kCudaLogMelMostClips];
};

__device__ float scale_feature(const CudaLogMelKernel& kernel, float value) {
  return kernel.scales && !kernel.finishes ? (value - kernel.mean) / kernel.deviation : value;
}

// The energy of a band of one frame, in the order of MelBand.
template <int kFrames>
__device__ float sum_band(const float* bin, const float* weight, int width) {
  float sums[4] = {};
  int i = 0;
  for (; i + 4 <= width; i += 4) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[j] = fmaf(weight[i + j], bin[(i + j) * kFrames], sums[j]);
  }
#pragma unroll
  for (int j = 0; j < 3; ++j) {
    if (i + j < width) sums[j] = fmaf(weight[i + j], bin[(i + j) * kFrames], sums[j]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class Transform>
size_t shared_bytes(const CudaLogMelKernel& kernel) {
  const size_t bins = kernel.n_fft / 2 + 1, mels = kernel.features_are_cepstrum ? kernel.n_mels : 0;
  const size_t maxima = kernel.finds_range ? Transform::kThreads : 0;
  return std::max(Transform::shared_floats(kernel), (bins + mels) * Transform::kFrames + maxima) * sizeof(float);
}

// What step 5 gives and, if nothing before needs the whole clip, steps 7 and 8.
template <class Transform>
__global__ void __launch_bounds__(Transform::kThreads)
    find_features(const __grid_constant__ CudaLogMelKernel kernel, const CudaLogMelTables tables,
                  const __grid_constant__ Clips clips) {
  constexpr int frames = Transform::kFrames, groups = Transform::kThreads / frames;
  const CudaLogMelClip& clip = clips.clip[blockIdx.y];
  const int first = static_cast<int>(blockIdx.x) * frames;
  if (first >= clip.frames) return;
  auto* const bins = static_cast<float*>(dynamic_shared_memory());
  Transform::find_bins(kernel, tables.numbers, clip, first, bins);
  __syncthreads();

  const int thread = static_cast<int>(threadIdx.x), group = thread / frames, f = thread % frames;
  const bool used = first + f < clip.frames;
  float* const features = clip.features + first + f;
  float* const behind_bins = bins + (kernel.n_fft / 2 + 1) * frames;  // [n_mels][frame], or maxima: [group][frame]
  float most = -FLT_MAX;
  for (int m = group; used && m < kernel.n_mels; m += groups) {
    const int32_t* const band = tables.bands + 3 * m;
    const float energy =
        sum_band<frames>(bins + band[0] * frames + f, tables.numbers + kernel.weights + band[2], band[1]);
    const float value = logf(fmaxf(energy, kernel.floor)) * kernel.log_scale;
    most = fmaxf(most, value);
    if (kernel.features_are_cepstrum) {
      behind_bins[m * frames + f] = value;
    } else {
      features[ptrdiff_t{m} * clip.stride] = scale_feature(kernel, value);
    }
  }
  if (kernel.finds_range) {
    behind_bins[thread] = most;
    __syncthreads();
    if (group != 0 || !used) return;
    for (int g = 1; g < groups; ++g) most = fmaxf(most, behind_bins[g * frames + f]);
    features[ptrdiff_t{kernel.n_mels} * clip.stride] = most;
  } else if (kernel.features_are_cepstrum) {
    __syncthreads();
    for (int n = group; used && n < kernel.n_mfcc; n += groups) {
      const float* const row = tables.numbers + kernel.cepstrum + n * kernel.n_mels;
      float sum = 0.0F;
      for (int m = 0; m < kernel.n_mels; ++m) sum = fmaf(row[m], behind_bins[m * frames + f], sum);
      features[ptrdiff_t{n} * clip.stride] = scale_feature(kernel, sum);
    }
  }
}

// The greatest of a row, for a whole block. `parts`: one of each warp.
__device__ float find_most(const float* row, int count, float* parts) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  float most = -FLT_MAX;
  for (int t = thread; t < count; t += threads) most = fmaxf(most, row[t]);
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) most = fmaxf(most, __shfl_xor_sync(kWholeWarp, most, lanes));
  if (thread % kWarp == 0) parts[thread / kWarp] = most;
  __syncthreads();
  for (int warp = 0; warp < threads / kWarp; ++warp) most = fmaxf(most, parts[warp]);
  return most;
}

// For all threads of a warp, or of the block.
__device__ double find_total(double sum, bool of_block, double* parts) {
  const int thread = static_cast<int>(threadIdx.x);
  sum = sum_lanes<kWarp>(sum);
  if (!of_block) return sum;
  if (thread % kWarp == 0) parts[thread / kWarp] = sum;
  __syncthreads();
  sum = 0.0;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) sum += parts[warp];
  return sum;
}

struct FinishShared {
  float maxima[kFinishClipThreads / kWarp];
  double sums[kFinishClipThreads / kWarp], squares[kFinishClipThreads / kWarp];
};

// Steps 6 to 8: a row by each warp, or a clip by each block where that is what is normalized.
__global__ void __launch_bounds__(kFinishClipThreads)
    finish_clips(const __grid_constant__ CudaLogMelKernel kernel, const float* numbers,
                 const __grid_constant__ Clips clips) {
  auto& shared = shared_memory<FinishShared>();
  const CudaLogMelClip& clip = clips.clip[blockIdx.y];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  const int first_row = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / kWarp;
  const int rows = kernel.n_mfcc > 0 ? kernel.n_mfcc : kernel.n_mels, row_step = static_cast<int>(gridDim.x) * warps;
  float least = -FLT_MAX;
  if (kernel.finds_range) {
    least =
        find_most(clip.features + ptrdiff_t{kernel.n_mels} * clip.stride, clip.frames, shared.maxima) - kernel.range;
  }
  // What a thread writes in one pass it reads in the next.
  const auto for_each = [&](auto body) {
    for (int row = first_row; row < rows; row += row_step) {
      for (int t = lane; t < clip.frames; t += kWarp) body(row, t, clip.output[ptrdiff_t{row} * clip.frames + t]);
    }
  };
  double sum = 0.0, squares = 0.0;
  for_each([&](int row, int t, float& output) {
    const float* const features = clip.features + t;
    float value = 0.0F;
    if (kernel.n_mfcc > 0 && !kernel.features_are_cepstrum) {
      const float* const weights = numbers + kernel.cepstrum + row * kernel.n_mels;
      for (int m = 0; m < kernel.n_mels; ++m) {
        value = fmaf(weights[m], fmaxf(features[ptrdiff_t{m} * clip.stride], least), value);
      }
    } else {
      value = fmaxf(features[ptrdiff_t{row} * clip.stride], least);
    }
    if (kernel.normalize == Normalize::kNone && kernel.scales) value = (value - kernel.mean) / kernel.deviation;
    output = value;
    sum += static_cast<double>(value);
  });
  if (kernel.normalize == Normalize::kNone) return;

  const bool of_clip = kernel.normalize == Normalize::kClip;
  const double count = static_cast<double>(clip.frames) * (of_clip ? rows : 1);
  const double mean = find_total(sum, of_clip, shared.sums) / count;
  for_each([&](int, int, float& output) {
    const double from_mean = static_cast<double>(output) - mean;
    squares += from_mean * from_mean;
  });
  const double deviation = fmax(sqrt(find_total(squares, of_clip, shared.squares) / count), 1e-5);
  for_each([&](int, int, float& output) {
    const float value = (output - static_cast<float>(mean)) / static_cast<float>(deviation);
    output = kernel.scales ? (value - kernel.mean) / kernel.deviation : value;
  });
}

// Calls launch(clips, count, most frames) for as many clips as a launch takes, until all are done.
template <class Launch>
cudaError_t for_each_launch(std::span<const CudaLogMelClip> clips, Launch launch) {
  for (size_t first = 0; first < clips.size(); first += kCudaLogMelMostClips) {
    const auto part = clips.subspan(first, std::min<size_t>(clips.size() - first, kCudaLogMelMostClips));
    Clips batch{};
    std::copy(part.begin(), part.end(), batch.clip);
    int frames = 0;
    for (const CudaLogMelClip& clip : part) frames = std::max(frames, clip.frames);
    const cudaError_t error = launch(batch, static_cast<unsigned>(part.size()), frames);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

template <class Transform>
cudaError_t launch_features(const CudaLogMelKernel& kernel, const CudaLogMelTables& tables,
                            std::span<const CudaLogMelClip> clips, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(Transform::kThreads);
  config.dynamicSmemBytes = shared_bytes<Transform>(kernel);
  config.stream = stream;
  if (config.dynamicSmemBytes > kMostShared) return cudaErrorInvalidValue;
  return for_each_launch(clips, [&](const Clips& batch, unsigned count, int frames) {
    config.gridDim = dim3(divide_up(frames, Transform::kFrames), count);
    return cudaLaunchKernelEx(&config, find_features<Transform>, kernel, tables, batch);
  });
}

cudaError_t launch_features(const CudaLogMelKernel& kernel, const CudaLogMelTables& tables,
                            std::span<const CudaLogMelClip> clips, cudaStream_t stream) {
  switch (kernel.n_fft) {
    case 256:
      return launch_features<Split<16, 16, 8>>(kernel, tables, clips, stream);
    case 320:
      return launch_features<Split<16, 20, 8>>(kernel, tables, clips, stream);
    case 400:
      return launch_features<Split<16, 25, 8>>(kernel, tables, clips, stream);
    case 512:
      return launch_features<Split<16, 32, 8>>(kernel, tables, clips, stream);
    case 1024:
      return launch_features<Split<32, 32, 4>>(kernel, tables, clips, stream);
    case 2048:
      return launch_features<Split<32, 64, 4>>(kernel, tables, clips, stream);
    default:
      return launch_features<AnyTransform>(kernel, tables, clips, stream);
  }
}

bool fit(std::span<const CudaLogMelClip> clips) {
  return std::all_of(clips.begin(), clips.end(),
                     [](const CudaLogMelClip& clip) { return clip.frames > 0 && clip.stride >= clip.frames; });
}

// Also with the samples that the frames need.
bool fit(const LogMelSpec& spec, std::span<const CudaLogMelClip> clips) {
  return spec.n_fft <= kCudaLogMelMostFft && fit(clips) &&
         std::all_of(clips.begin(), clips.end(), [&](const CudaLogMelClip& clip) {
           return clip.sample_count >= 0 && clip.sample_count <= kCudaLogMelMostSamples &&
                  static_cast<size_t>(clip.frames) <= spec.frame_count(static_cast<size_t>(clip.sample_count));
         });
}

}  // namespace

cudaError_t log_mel_features(const CudaLogMelPlan& plan, const CudaLogMelTables& tables,
                             std::span<const CudaLogMelClip> clips, cudaStream_t stream) {
  LogMelSpec spec = plan.spec;
  spec.center = false;
  if (!fit(spec, clips)) return cudaErrorInvalidValue;
  CudaLogMelKernel kernel = plan.kernel;
  kernel.padding = 0;
  return launch_features(kernel, tables, clips, stream);
}

cudaError_t finish_log_mel(const CudaLogMelPlan& plan, const CudaLogMelTables& tables,
                           std::span<const CudaLogMelClip> clips, cudaStream_t stream) {
  if (!plan.kernel.finishes || !fit(clips)) return cudaErrorInvalidValue;
  const bool of_clip = plan.spec.normalize == Normalize::kClip;
  const int threads = of_clip ? kFinishClipThreads : kFinishThreads;
  return for_each_launch(clips, [&](const Clips& batch, unsigned count, int /*frames*/) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(of_clip ? 1 : divide_up(static_cast<int>(plan.spec.rows()), threads / kWarp), count);
    config.blockDim = dim3(threads);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, finish_clips, plan.kernel, tables.numbers, batch);
  });
}

cudaError_t log_mel(const CudaLogMelPlan& plan, const CudaLogMelTables& tables, std::span<const CudaLogMelClip> clips,
                    cudaStream_t stream) {
  if (!fit(plan.spec, clips)) return cudaErrorInvalidValue;
  const cudaError_t error = launch_features(plan.kernel, tables, clips, stream);
  if (error != cudaSuccess || !plan.kernel.finishes) return error;
  return finish_log_mel(plan, tables, clips, stream);
}

}  // namespace mmedge
