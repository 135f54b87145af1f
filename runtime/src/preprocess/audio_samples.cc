#include "preprocess/audio_samples.h"

#include "error.h"
#include "kernels/log_mel/mono.h"

namespace mmedge {
namespace {

constexpr int kMostChannels = 8;
constexpr size_t kMostFrames = size_t{1} << 30;

// The start of the `length` samples with the most energy, the earliest of equals.
size_t loudest_window(std::span<const float> samples, size_t length) {
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

// Makes room for so many samples, and gives back what a clip that was far longer has left.
void fit(std::vector<float>& samples, size_t count) {
  constexpr size_t kept = size_t{1} << 20;
  if (samples.capacity() > kept && samples.capacity() / 8 > count) samples = {};
  samples.resize(count);
}

}  // namespace

void check_audio(const mme_audio& audio) {
  if (audio.channels < 1 || audio.channels > kMostChannels) {
    fail(MME_INVALID_ARGUMENT, "audio: ", audio.channels, " channels; expected 1 to ", kMostChannels);
  }
  if (audio.sample_rate < kLeastRate || audio.sample_rate > kMostRate) {
    fail(MME_INVALID_ARGUMENT, "audio: a sample rate of ", audio.sample_rate, " Hz; expected ", kLeastRate, " to ",
         kMostRate);
  }
  if (audio.format != MME_AUDIO_INT16 && audio.format != MME_AUDIO_FLOAT32) {
    fail(MME_INVALID_ARGUMENT, "audio: format ", audio.format, " is not one of mme_audio_format");
  }
  if (audio.frames > kMostFrames) {
    fail(MME_BAD_INPUT, "audio: ", audio.frames, " samples; expected at most ", kMostFrames);
  }
  if (audio.samples == nullptr && audio.frames > 0) fail(MME_INVALID_ARGUMENT, "audio: samples is NULL");
}

void read_mono(const mme_audio& audio, float* output) {
  const auto channels = static_cast<size_t>(audio.channels);
  if (audio.format == MME_AUDIO_INT16) {
    to_mono(static_cast<const int16_t*>(audio.samples), audio.frames, channels, output);
    return;
  }
  const auto* samples = static_cast<const float*>(audio.samples);
  const size_t good = to_mono(samples, audio.frames, channels, output);
  if (good == audio.frames) return;
  for (size_t c = 0; c < channels; ++c) {
    const float value = samples[good * channels + c];
    if (!(value >= -kMostAmplitude && value <= kMostAmplitude)) {
      fail(MME_BAD_INPUT, "audio: sample ", good, " is ", value, "; expected a finite number within +-1e9");
    }
  }
}

std::span<const float> ClipReader::read(const mme_audio& audio) {
  fit(mono_, audio.frames);
  read_mono(audio, mono_.data());
  std::span<const float> samples = mono_;
  if (audio.sample_rate != sample_rate_) {
    if (!resampler_ || resampler_->from() != audio.sample_rate) {
      resampler_ = std::make_unique<Resampler>(audio.sample_rate, sample_rate_);
    } else {
      resampler_->reset();
    }
    fit(resampled_, resampler_->most(audio.frames));
    resampled_.clear();
    resampler_->push(mono_, resampled_);
    resampler_->end(resampled_);
    samples = resampled_;
  }
  if (window_ && samples.size() > window_) samples = samples.subspan(loudest_window(samples, window_), window_);
  return samples;
}

std::span<const float> SampleStream::push(const mme_audio& audio) {
  check_audio(audio);
  if (as_ &&
      (as_->format != audio.format || as_->channels != audio.channels || as_->sample_rate != audio.sample_rate)) {
    fail(MME_INVALID_ARGUMENT, "audio: found format ", audio.format, ", ", audio.channels, " channel(s), ",
         audio.sample_rate, " Hz; this stream has format ", as_->format, ", ", as_->channels, " channel(s), ",
         as_->sample_rate, " Hz: begin a new stream to change them");
  }
  mono_.resize(audio.frames);
  read_mono(audio, mono_.data());
  std::span<const float> samples = mono_;
  if (audio.sample_rate != sample_rate_) {
    if (!resampler_ || resampler_->from() != audio.sample_rate) {
      resampler_ = std::make_unique<Resampler>(audio.sample_rate, sample_rate_);
    } else if (!as_) {
      resampler_->reset();
    }
    resampled_.clear();
    resampler_->push(mono_, resampled_);
    samples = resampled_;
  }
  as_ = audio;
  return samples;
}

std::span<const float> SampleStream::end() {
  resampled_.clear();
  if (as_ && as_->sample_rate != sample_rate_) resampler_->end(resampled_);
  return resampled_;
}

}  // namespace mmedge
