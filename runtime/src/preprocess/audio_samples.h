// The samples of an mme_audio, checked and brought to one channel of float32.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/resample/resample.h"
#include "mmedge.h"

namespace mmedge {

constexpr int kLeastRate = 1000, kMostRate = 768000;

// Throws MME_INVALID_ARGUMENT or MME_BAD_INPUT unless the description is usable. An empty clip passes.
void check_audio(const mme_audio& audio);
// Writes audio.frames floats; throws MME_BAD_INPUT naming a sample that is not finite.
void read_mono(const mme_audio& audio, float* output);

// Whole clips at the model's rate.
class ClipReader {
 public:
  // `window` in samples; 0: any length.
  ClipReader(int sample_rate, size_t window) : sample_rate_(sample_rate), window_(window) {}

  // Whether read_mono() alone gives the clip.
  bool is_plain(const mme_audio& audio) const {
    return audio.sample_rate == sample_rate_ && (window_ == 0 || audio.frames <= window_);
  }
  // The clip's one channel, cut to its loudest window where it is longer. Valid until the next call.
  std::span<const float> read(const mme_audio& audio);

 private:
  int sample_rate_;
  size_t window_;
  std::unique_ptr<Resampler> resampler_;
  std::vector<float> mono_, resampled_;
};

// A stream's samples at the model's rate. What is returned is valid until the next call.
class SampleStream {
 public:
  explicit SampleStream(int sample_rate) : sample_rate_(sample_rate) {}

  // Throws, and takes nothing, if a sample is not finite or the format is not that of the stream so far.
  std::span<const float> push(const mme_audio& audio);
  // No more samples: those the resampler still held.
  std::span<const float> end();
  // Begins a new stream.
  void reset() { as_.reset(); }

 private:
  int sample_rate_;
  std::optional<mme_audio> as_;  // the format of this stream
  std::unique_ptr<Resampler> resampler_;
  std::vector<float> mono_, resampled_;
};

}  // namespace mmedge
