// The CUDA kernel, emulated or on a GPU, judged by the CPU kernel.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "device_memory.h"
#include "kernels/log_mel/log_mel.h"
#include "kernels/log_mel/log_mel_cuda.h"
#include "orders.h"

namespace {

using mmedge::CudaLogMelClip;
using mmedge::LogBase;
using mmedge::LogMelSpec;
using mmedge::MelNorm;
using mmedge::MelScale;
using mmedge::Normalize;
using mmedge::Padding;

using Values = std::vector<float>;

// Of a natural logarithm, and so of an energy, relative: float32's 6e-8, times ten for the sums of a transform, times
// another ten for bins of little energy beside the tone.
constexpr double kTolerance = 1e-5;

LogMelSpec spec_of(int n_fft, int hop) {
  LogMelSpec spec{};
  spec.sample_rate = 16000;
  spec.n_fft = spec.win_length = n_fft;
  spec.hop_length = hop;
  spec.n_mels = std::clamp(n_fft / 8, 1, 40);
  spec.f_min = 20.0;
  spec.f_max = 8000.0;
  spec.mel_scale = MelScale::kHtk;
  spec.mel_norm = MelNorm::kNone;
  spec.power = 2;
  spec.center = true;
  spec.padding = Padding::kReflect;
  spec.log = LogBase::kNatural;
  spec.floor = 1e-10;
  return spec;
}

// Noise with a tone.
Values make_samples(size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  Values samples(count);
  for (size_t i = 0; i < count; ++i)
    samples[i] = 0.3F * uniform(random) + 0.5F * std::sin(0.3F * static_cast<float>(i));
  return samples;
}

Values on_cpu(const LogMelSpec& spec, const Values& samples) {
  mmedge::LogMel kernel(spec);
  std::copy(samples.begin(), samples.end(), kernel.clip(samples.size()).begin());
  Values output(kernel.rows() * kernel.frame_count(samples.size()));
  kernel.run(output.data());
  return output;
}

// A plan with its tables on the device.
class Kernel {
 public:
  explicit Kernel(const LogMelSpec& spec)
      : plan_(make_cuda_log_mel_plan(spec)), numbers_(plan_.numbers), bands_(plan_.bands) {}

  const LogMelSpec& spec() const { return plan_.spec; }
  int feature_rows() const { return plan_.feature_rows(); }
  int frame_count(size_t samples) const { return static_cast<int>(spec().frame_count(samples)); }

  // Of one clip or of a batch.
  std::vector<Values> run(const std::vector<Values>& batch) const {
    std::vector<DeviceVector<float>> samples, features, outputs;
    std::vector<CudaLogMelClip> clips;
    for (const Values& clip : batch) {
      const int frames = frame_count(clip.size());
      samples.emplace_back(clip);
      features.emplace_back(static_cast<size_t>(feature_rows() * frames));
      outputs.emplace_back(spec().rows() * static_cast<size_t>(frames));
      clips.push_back({samples.back().data(), static_cast<int>(clip.size()), frames, frames, features.back().data(),
                       outputs.back().data()});
    }
    EXPECT_EQ(run(clips), cudaSuccess);
    std::vector<Values> result;
    for (const auto& output : plan_.kernel.finishes ? outputs : features) result.push_back(output.read());
    return result;
  }
  cudaError_t run(const std::vector<CudaLogMelClip>& clips) const {
    return on_own_stream([&](cudaStream_t stream) { return log_mel(plan_, tables(), clips, stream); });
  }

  // [feature_rows, stride] of frames from `first` on.
  Values features(const Values& samples, size_t first, int frames, int stride) const {
    const DeviceVector<float> input(Values(samples.begin() + static_cast<ptrdiff_t>(first), samples.end()));
    const DeviceVector<float> output(static_cast<size_t>(feature_rows() * stride));
    EXPECT_EQ(features({input.data(), static_cast<int>(input.size()), frames, stride, output.data(), nullptr}),
              cudaSuccess);
    return output.read();
  }
  cudaError_t features(const CudaLogMelClip& clip) const {
    return on_own_stream([&](cudaStream_t stream) { return log_mel_features(plan_, tables(), {&clip, 1}, stream); });
  }

  Values finish(const Values& features, int frames, int stride) const {
    const DeviceVector<float> input(features), output(spec().rows() * static_cast<size_t>(frames));
    const CudaLogMelClip clip{nullptr, 0, frames, stride, input.data(), output.data()};
    const auto launch = [&](cudaStream_t stream) { return finish_log_mel(plan_, tables(), {&clip, 1}, stream); };
    EXPECT_EQ(on_own_stream(launch), cudaSuccess);
    return output.read();
  }

 private:
  mmedge::CudaLogMelTables tables() const { return {numbers_.data(), bands_.data()}; }

  mmedge::CudaLogMelPlan plan_;
  DeviceVector<float> numbers_;
  DeviceVector<int32_t> bands_;
};

void expect_near(const Values& found, const Values& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], tolerance) << "value " << i;
}

// Clips of these lengths, each as the CPU has it. `tolerance` is of an output.
void check(const LogMelSpec& spec, const std::vector<size_t>& lengths, double tolerance) {
  SCOPED_TRACE("n_fft " + std::to_string(spec.n_fft));
  std::vector<Values> batch;
  for (const size_t length : lengths) batch.push_back(make_samples(length));
  const auto found = Kernel(spec).run(batch);
  for (size_t i = 0; i < batch.size(); ++i) expect_near(found[i], on_cpu(spec, batch[i]), tolerance);
}

bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// With a transform of their own, and without: products of small primes, primes, and one without stages.
const int kFastSizes[] = {256, 320, 400, 512, 1024, 2048};
const int kOtherSizes[] = {2, 4, 6, 62, 480, 550, 4096};

TEST(CudaLogMel, IsTheCpusForEverySize) {
  for (const int n_fft : kFastSizes) {
    const auto length = static_cast<size_t>(n_fft);
    check(spec_of(n_fft, n_fft / 3 | 1), {4 * length, length / 2 + 1, 2 * length + 7}, kTolerance);
  }
  for (const int n_fft : kOtherSizes) {
    const auto length = static_cast<size_t>(n_fft);
    check(spec_of(n_fft, n_fft / 2), {2 * length, length / 2 + 1}, kTolerance);
  }
}

TEST(CudaLogMel, IsTheCpusForEveryOption) {
  LogMelSpec spec = spec_of(400, 160);
  spec.win_length = 333;
  spec.mel_scale = MelScale::kSlaney;
  spec.mel_norm = MelNorm::kSlaney;
  spec.padding = Padding::kConstant;
  spec.log = LogBase::kLog10;
  in_every_order([&] { check(spec, {2000, 1}, kTolerance * spec.log_scale()); });
  spec.power = 1;
  spec.center = false;
  spec.log = LogBase::kDecibel;
  check(spec, {400, 2001}, kTolerance * spec.log_scale());
  spec = spec_of(512, 1000);
  spec.drop_last = true;
  spec.n_mels = 80;  // narrower than bins: some are empty
  spec.mean = -4.0;
  spec.std = 4.5;
  check(spec, {1000, 3999}, kTolerance);
}

TEST(CudaLogMel, IsTheCpusForCepstra) {
  for (const int n_fft : {256, 480}) {
    LogMelSpec spec = spec_of(n_fft, 100);
    spec.n_mfcc = 13;
    spec.lifter = 22.0;
    spec.mean = 1.0;
    spec.std = 2.0;
    // A coefficient is multiplied by at most 12, and sums errors as an orthonormal row does: over 2, no more than this.
    in_every_order(
        [&] { check(spec, {1234, static_cast<size_t>(n_fft) + 129}, 6.0 * std::sqrt(spec.n_mels) * kTolerance); });
  }
}

TEST(CudaLogMel, IsTheCpusForStepsOverTheClip) {
  for (const double range : {0.0, 5.0}) {
    for (const int n_mfcc : {0, 40}) {
      for (const Normalize normalize : {Normalize::kNone, Normalize::kClip, Normalize::kPerFeature}) {
        LogMelSpec spec = spec_of(400, 160);
        spec.dynamic_range_db = range;
        spec.n_mfcc = n_mfcc;
        spec.normalize = normalize;
        spec.mean = 1.0;
        spec.std = 0.5;
        // Over 0.5, over deviations that are at least 0.1 here, and a cepstrum's row sums errors.
        in_every_order([&] { check(spec, {7001, 401}, 2.0 * 10.0 * std::sqrt(spec.n_mels) * kTolerance); });
      }
    }
  }
}

TEST(CudaLogMel, SilenceIsTheFloor) {
  const auto found = Kernel(spec_of(400, 160)).run({Values(800)});
  for (const float value : found[0]) EXPECT_FLOAT_EQ(value, std::log(1e-10F));
}

TEST(CudaLogMel, AStreamIsTheClipToTheBit) {
  for (const int n_fft : {256, 320, 400, 512, 1024, 2048, 480}) {
    SCOPED_TRACE(n_fft);
    const int hop = n_fft / 4 + 1, lead = n_fft / 2;
    const Kernel kernel(spec_of(n_fft, hop));
    const Values samples = make_samples(static_cast<size_t>(n_fft) * 4);
    const Values clip = kernel.run({samples})[0];
    const int frames = kernel.frame_count(samples.size()), rows = kernel.feature_rows();
    // Frames 2 to the last but 2 of the clip, some at a time; the columns behind them stay as they were.
    for (int first = 2, count = 1; first + count <= frames - 2; first += count++) {
      const int stride = count + 3;
      const Values stream = kernel.features(samples, static_cast<size_t>(first * hop - lead), count, stride);
      for (int row = 0; row < rows; ++row) {
        for (int t = 0; t < count; ++t) {
          ASSERT_EQ(stream[static_cast<size_t>(row * stride + t)], clip[static_cast<size_t>(row * frames + first + t)]);
        }
        ASSERT_TRUE(std::isnan(stream[static_cast<size_t>(row * stride + count)]));
      }
    }
  }
}

TEST(CudaLogMel, StepsOverAWindowOfAStreamAreThoseOfAClip) {
  LogMelSpec spec = spec_of(256, 128);
  spec.center = false;
  spec.dynamic_range_db = 6.0;
  spec.normalize = Normalize::kPerFeature;
  const Kernel kernel(spec);
  const Values samples = make_samples(2000);
  const int frames = kernel.frame_count(samples.size());
  EXPECT_TRUE(same_bits(kernel.finish(kernel.features(samples, 0, frames, frames + 2), frames, frames + 2),
                        kernel.run({samples})[0]));
}

TEST(CudaLogMel, ABatchIsItsClipsToTheBit) {
  LogMelSpec spec = spec_of(256, 100);
  const auto check_batch = [&](size_t count, size_t step) {
    const Kernel kernel(spec);
    std::vector<Values> batch;
    for (size_t i = 0; i < count; ++i) batch.push_back(make_samples(129 + i * 997 % 1500));
    const auto together = kernel.run(batch);
    for (size_t i = 0; i < count; i += step) ASSERT_TRUE(same_bits(together[i], kernel.run({batch[i]})[0])) << i;
  };
  check_batch(mmedge::kCudaLogMelMostClips + 1, 8);  // two launches
  spec.dynamic_range_db = 6.0;
  spec.normalize = Normalize::kClip;
  check_batch(4, 1);
}

TEST(CudaLogMel, WhatDoesNotFitIsInvalid) {
  const DeviceVector<float> memory(4000);
  const auto run = [&](const LogMelSpec& spec, int samples, int frames, int stride) {
    return Kernel(spec).run({{memory.data(), samples, frames, stride, memory.data(), nullptr}});
  };
  LogMelSpec spec = spec_of(400, 160);
  EXPECT_EQ(run(spec, 200, 1, 1), cudaErrorInvalidValue);  // too short to mirror
  EXPECT_EQ(run(spec, 320, 4, 4), cudaErrorInvalidValue);  // frames that the samples do not give
  EXPECT_EQ(run(spec, 320, 3, 2), cudaErrorInvalidValue);  // rows that overlap
  EXPECT_EQ(run(spec, 320, 0, 0), cudaErrorInvalidValue);
  EXPECT_EQ(run(spec, (1 << 29) + 1, 1, 1), cudaErrorInvalidValue);  // twice as many must fit an int, and a frame
  const CudaLogMelClip stream{memory.data(), 399, 1, 1, memory.data(), nullptr};
  EXPECT_EQ(Kernel(spec).features(stream), cudaErrorInvalidValue);  // not all of a frame
  EXPECT_EQ(run(spec_of(4098, 160), 4000, 1, 1), cudaErrorInvalidValue);
  spec.n_mels = spec.n_mfcc = 2000;
  EXPECT_EQ(run(spec, 320, 1, 1), cudaErrorInvalidValue);
  EXPECT_EQ(Kernel(spec).run(std::vector<CudaLogMelClip>()), cudaErrorInvalidValue);
  spec.n_mels = spec.n_mfcc = 20;
  EXPECT_EQ(Kernel(spec).run(std::vector<CudaLogMelClip>()), cudaSuccess);
}

}  // namespace
