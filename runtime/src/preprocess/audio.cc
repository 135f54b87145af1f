#include <soxr.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/log_mel/log_mel.h"
#include "preprocess/parameters.h"
#include "preprocess/preprocess.h"

namespace mmedge {
namespace {

constexpr int kLeastRate = 1000, kMostRate = 768000, kMostChannels = 8;
constexpr float kMostAmplitude = 1e9F;  // its power spectrum still fits float32
constexpr size_t kMostFrames = size_t{1} << 30;

// The start of the `length` samples with the most energy, the earliest of equals.
size_t loudest_window(const std::vector<float>& samples, size_t length) {
  double energy = 0.0, most = 0.0;
  size_t best = 0;
  for (size_t end = 0; end < samples.size(); ++end) {
    energy += static_cast<double>(samples[end]) * samples[end];
    if (end >= length) energy -= static_cast<double>(samples[end - length]) * samples[end - length];
    // What is left of a loud stretch after it was taken off again is rounding, not energy.
    if (end + 1 >= length && energy > most * (1.0 + 1e-9) + 1e-12) {
      most = energy;
      best = end + 1 - length;
    }
  }
  return best;
}

class AudioPreprocess : public Preprocess {
 public:
  AudioPreprocess(const LogMelSpec& spec, size_t window) : kernel_(spec), window_(window) {}

  const char* modality() const override { return "audio"; }

  std::vector<int64_t> shape() const override {
    return {kernel_.spec().n_mels, window_ ? static_cast<int64_t>(kernel_.frame_count(window_)) : -1};
  }

  void audio(const mme_audio& audio, Tensor& output) override {
    to_mono(audio);
    resample(audio.sample_rate);
    if (window_ && samples_.size() > window_) {
      const size_t start = loudest_window(samples_, window_);
      samples_.erase(samples_.begin(), samples_.begin() + static_cast<ptrdiff_t>(start));
    }
    if (window_) samples_.resize(window_, 0.0F);
    const size_t frames = kernel_.frame_count(samples_.size());
    if (frames == 0) {
      fail(MME_BAD_INPUT, "audio: too short: ", samples_.size(), " samples at ", kernel_.spec().sample_rate,
           " Hz; expected at least ", kernel_.least_samples());
    }
    const int64_t output_shape[] = {kernel_.spec().n_mels, static_cast<int64_t>(frames)};
    output.resize(ElementType::kFloat32, output_shape);
    kernel_.run(samples_, output.values<float>().data());
  }

 private:
  void to_mono(const mme_audio& audio) {
    if (audio.channels < 1 || audio.channels > kMostChannels) {
      fail(MME_INVALID_ARGUMENT, "audio: ", audio.channels, " channels; expected 1 to ", kMostChannels);
    }
    if (audio.sample_rate < kLeastRate || audio.sample_rate > kMostRate) {
      fail(MME_INVALID_ARGUMENT, "audio: a sample rate of ", audio.sample_rate, " Hz; expected ", kLeastRate, " to ",
           kMostRate);
    }
    if (audio.frames == 0) fail(MME_BAD_INPUT, "audio: empty: 0 samples; expected at least 1");
    if (audio.frames > kMostFrames) {
      fail(MME_BAD_INPUT, "audio: ", audio.frames, " samples; expected at most ", kMostFrames);
    }
    if (audio.samples == nullptr) fail(MME_INVALID_ARGUMENT, "audio: samples is NULL");
    const auto channels = static_cast<size_t>(audio.channels);
    const auto average = [&](const auto* source, float scale) {
      samples_.resize(audio.frames);
      for (size_t i = 0; i < audio.frames; ++i) {
        float sum = 0.0F;
        for (size_t c = 0; c < channels; ++c) {
          const auto value = static_cast<float>(source[i * channels + c]);
          if (!(std::abs(value) <= kMostAmplitude)) {
            fail(MME_BAD_INPUT, "audio: sample ", i, " is ", value, "; expected a finite number within +-1e9");
          }
          sum += value;
        }
        samples_[i] = sum * scale;
      }
    };
    switch (audio.format) {
      case MME_AUDIO_INT16:
        return average(static_cast<const int16_t*>(audio.samples), 1.0F / (32768.0F * static_cast<float>(channels)));
      case MME_AUDIO_FLOAT32:
        return average(static_cast<const float*>(audio.samples), 1.0F / static_cast<float>(channels));
    }
    fail(MME_INVALID_ARGUMENT, "audio: format ", audio.format, " is not one of mme_audio_format");
  }

  void resample(int from) {
    const int to = kernel_.spec().sample_rate;
    if (from == to) return;
    const double ratio = static_cast<double>(to) / from;
    resampled_.resize(static_cast<size_t>(std::lround(static_cast<double>(samples_.size()) * ratio)) + 1);
    size_t used = 0, made = 0;
    const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
    const soxr_runtime_spec_t one_thread = soxr_runtime_spec(1);
    const soxr_error_t error = soxr_oneshot(from, to, 1, samples_.data(), samples_.size(), &used, resampled_.data(),
                                            resampled_.size(), &made, nullptr, &quality, &one_thread);
    if (error != nullptr) fail(MME_INTERNAL, "audio: resampling ", from, " to ", to, " Hz failed: ", error);
    resampled_.resize(made);
    std::swap(samples_, resampled_);
  }

  LogMel kernel_;
  size_t window_;  // samples at the model's rate; 0: any length
  std::vector<float> samples_, resampled_;
};

}  // namespace

std::unique_ptr<Preprocess> make_audio_preprocess(const nlohmann::json& json) {
  Parameters parameters(json);
  LogMelSpec spec{};
  parameters.choice<bool>("type", {{"log_mel", true}});
  spec.sample_rate = parameters.integer("sample_rate", kLeastRate, kMostRate);
  const int window = parameters.integer("samples", 0, 1 << 26);
  spec.n_fft = parameters.integer("n_fft", 2, 1 << 16);
  spec.win_length = parameters.integer("win_length", 1, spec.n_fft);
  spec.hop_length = parameters.integer("hop_length", 1, 1 << 16);
  spec.n_mels = parameters.integer("n_mels", 1, 1024);
  spec.f_min = parameters.number("f_min", 0.0, spec.sample_rate / 2.0);
  spec.f_max = parameters.number("f_max", 0.0, spec.sample_rate / 2.0);
  spec.mel_scale = parameters.choice<MelScale>("mel_scale", {{"htk", MelScale::kHtk}, {"slaney", MelScale::kSlaney}});
  spec.mel_norm = parameters.choice<MelNorm>("mel_norm", {{"none", MelNorm::kNone}, {"slaney", MelNorm::kSlaney}});
  spec.power = parameters.number("power", 1.0, 2.0) == 1.0 ? 1 : 2;
  spec.center = parameters.boolean("center");
  spec.padding =
      parameters.choice<Padding>("pad_mode", {{"reflect", Padding::kReflect}, {"constant", Padding::kConstant}});
  spec.drop_last = parameters.boolean("drop_last");
  spec.log = parameters.choice<LogBase>(
      "log", {{"natural", LogBase::kNatural}, {"log10", LogBase::kLog10}, {"db", LogBase::kDecibel}});
  spec.floor = parameters.number("floor", 1e-30, 1.0);
  spec.dynamic_range_db = parameters.number("dynamic_range_db", 0.0, 1000.0);
  spec.normalize = parameters.choice<bool>("normalize", {{"none", false}, {"clip", true}});
  parameters.finish();
  if (spec.n_fft % 2 != 0)
    fail(MME_INVALID_ARGUMENT, "preprocess: \"n_fft\" is ", spec.n_fft, "; expected an even number");
  if (json.at("power") != 1.0 && json.at("power") != 2.0) {
    fail(MME_INVALID_ARGUMENT, "preprocess: \"power\" is ", json.at("power").dump(), "; expected 1 or 2");
  }
  if (spec.f_max <= spec.f_min) {
    fail(MME_INVALID_ARGUMENT, "preprocess: \"f_max\" is ", spec.f_max, "; expected more than f_min, ", spec.f_min);
  }
  auto preprocess = std::make_unique<AudioPreprocess>(spec, static_cast<size_t>(window));
  if (window && preprocess->shape()[1] == 0) {
    fail(MME_INVALID_ARGUMENT, "preprocess: \"samples\" is ", window, "; too short for one frame");
  }
  return preprocess;
}

}  // namespace mmedge
