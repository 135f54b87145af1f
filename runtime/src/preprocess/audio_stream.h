// Live samples to log-mel frames: pays for the new hops only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/log_mel/log_mel.h"
#include "mmedge.h"
#include "preprocess/audio_samples.h"

namespace mmedge {

// Where a stream's first frame begins, and what stands before its first sample.
enum class StreamStart {
  kClip,    // as in a whole clip: padding, and no frame before it
  kSilence  // silence without beginning: the first frame is the first that reaches into the samples
};

class AudioStream {
 public:
  AudioStream(LogMel& kernel, StreamStart start);

  // Takes samples; throws, and takes none, if one is not finite or the format is not that of the stream so far.
  void push(const mme_audio& audio);
  // Frames that are complete and were not taken yet.
  size_t ready() const;
  // The oldest `count` of them, n_mels floats each.
  void take(size_t count, float* columns);
  // Passes over the oldest `count` of them.
  void skip(size_t count) { taken_ += count; }
  // No more samples: what needed the clip's end is ready then. Throws MME_BAD_INPUT if the stream gives no frame at
  // all.
  void end();
  // Begins a new stream.
  void reset();

 private:
  // Where a frame begins; the stream's first sample is at 0.
  int64_t frame_start(size_t frame) const;
  void make_room(size_t count);
  void append(std::span<const float> samples);

  LogMel& kernel_;
  StreamStart start_;
  int64_t first_ = 0;  // where the first frame begins
  SampleStream samples_;
  std::vector<float> buffer_;  // from base_ on
  int64_t base_ = 0;
  size_t received_ = 0, taken_ = 0;
  bool mirrored_ = false, ended_ = false;
};

}  // namespace mmedge
