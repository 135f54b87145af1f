#include "preprocess/audio_samples.h"

#include "error.h"
#include "kernels/log_mel/mono.h"

namespace mmedge {
namespace {

constexpr int kMostChannels = 8;
constexpr size_t kMostFrames = size_t{1} << 30;

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

}  // namespace mmedge
