#include "preprocess/audio_stream.h"

#include <algorithm>

#include "error.h"

namespace mmedge {

AudioStream::AudioStream(LogMel& kernel, StreamStart start)
    : kernel_(kernel), start_(start), samples_(kernel.spec().sample_rate) {
  const auto padding = static_cast<int64_t>(kernel.padding());
  // A frame reaches into the samples if it begins less than n_fft before them.
  const int64_t earlier =
      start == StreamStart::kSilence ? (kernel.spec().n_fft - 1 - padding) / kernel.spec().hop_length : 0;
  first_ = -padding - earlier * kernel.spec().hop_length;
  reset();
}

void AudioStream::reset() {
  samples_.reset();
  base_ = first_;
  buffer_.assign(static_cast<size_t>(-first_), 0.0F);
  received_ = taken_ = 0;
  mirrored_ = ended_ = false;
}

int64_t AudioStream::frame_start(size_t frame) const {
  return first_ + static_cast<int64_t>(frame) * kernel_.spec().hop_length;
}

// Where there is no room, forgets what neither the next frame nor a mirrored end will read. Twice the room that is
// needed makes that rare.
void AudioStream::make_room(size_t count) {
  if (buffer_.size() + count <= buffer_.capacity()) return;
  const int64_t mirrored_end = static_cast<int64_t>(received_) - static_cast<int64_t>(kernel_.padding()) - 1;
  const int64_t unused =
      std::clamp<int64_t>(std::min(frame_start(taken_), mirrored_end) - base_, 0, static_cast<int64_t>(buffer_.size()));
  buffer_.erase(buffer_.begin(), buffer_.begin() + unused);
  base_ += unused;
  buffer_.reserve(2 * (buffer_.size() + count));
}

void AudioStream::append(std::span<const float> samples) {
  make_room(samples.size());
  buffer_.insert(buffer_.end(), samples.begin(), samples.end());
  received_ += samples.size();
  const size_t padding = kernel_.padding();
  if (start_ == StreamStart::kClip && !mirrored_ && received_ > padding) {
    mirrored_ = true;
    if (kernel_.spec().padding == Padding::kReflect) {
      for (size_t i = 0; i < padding; ++i) buffer_[padding - 1 - i] = buffer_[padding + 1 + i];
    }
  }
}

void AudioStream::push(const mme_audio& audio) { append(samples_.push(audio)); }

size_t AudioStream::ready() const {
  if (ended_) return kernel_.frame_count(received_) - taken_;
  const int64_t behind_first = static_cast<int64_t>(received_) - first_ - kernel_.spec().n_fft;
  if (behind_first < 0) return 0;
  size_t complete = 1 + static_cast<size_t>(behind_first / kernel_.spec().hop_length);
  // The mirrored beginning may need one sample more than the first frame, and the last frame may be dropped.
  if (start_ == StreamStart::kClip) complete = std::min(complete, kernel_.frame_count(received_));
  return complete - taken_;
}

void AudioStream::take(size_t count, float* columns) {
  kernel_.columns(buffer_.data() + (frame_start(taken_) - base_), count, columns);
  taken_ += count;
}

void AudioStream::end() {
  append(samples_.end());
  if (kernel_.frame_count(received_) == 0) {
    const size_t received = received_;
    reset();
    fail(MME_BAD_INPUT, "audio: the stream was too short: ", received, " samples at ", kernel_.spec().sample_rate,
         " Hz; expected at least ", kernel_.least_samples());
  }
  const size_t padding = kernel_.padding();
  const bool mirror = kernel_.spec().padding == Padding::kReflect;
  make_room(padding);
  const size_t end = buffer_.size();
  for (size_t i = 0; i < padding; ++i) buffer_.push_back(mirror ? buffer_[end - 2 - i] : 0.0F);
  ended_ = true;
}

}  // namespace mmedge
