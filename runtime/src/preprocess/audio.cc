#include <algorithm>
#include <memory>

#include "kernels/log_mel/log_mel.h"
#include "preprocess/audio_samples.h"
#include "preprocess/audio_stream.h"
#include "preprocess/parameters.h"
#include "preprocess/preprocess.h"

namespace mmedge {
namespace {

class AudioPreprocess : public Preprocess {
 public:
  AudioPreprocess(const LogMelSpec& spec, size_t window)
      : kernel_(spec), window_(window), reader_(spec.sample_rate, window) {}

  const char* modality() const override { return "audio"; }

  std::vector<int64_t> shape() const override {
    return {static_cast<int64_t>(kernel_.rows()),
            window_ ? static_cast<int64_t>(kernel_.frame_count(window_)) : int64_t{-1}};
  }

  void audio(const mme_audio& audio, Tensor& output) override {
    check_audio(audio);
    if (audio.frames == 0) fail(MME_BAD_INPUT, "audio: empty: 0 samples; expected at least 1");
    const size_t count = load_clip(audio);
    const size_t frames = kernel_.frame_count(count);
    if (frames == 0) {
      fail(MME_BAD_INPUT, "audio: too short: ", count, " samples at ", kernel_.spec().sample_rate,
           " Hz; expected at least ", kernel_.least_samples());
    }
    kernel_.run(resize(output, frames));
  }

  void push_audio(const mme_audio& audio) override {
    if (!live_) begin_live();
    live_->push(audio);
    const size_t ring = ring_frames(), n_mels = columns_of_a_frame();
    if (live_->ready() > ring) live_->skip(live_->ready() - ring);
    while (const size_t ready = live_->ready()) {
      const size_t count = std::min(ready, ring - oldest_);
      live_->take(count, ring_.data() + oldest_ * n_mels);
      oldest_ = (oldest_ + count) % ring;
    }
  }

  void window(Tensor& output) override {
    if (!live_) begin_live();
    const size_t frames = ring_frames(), n_mels = columns_of_a_frame();
    float* values = resize(output, frames);
    if (kernel_.spec().n_mfcc > 0) log_mel_.resize(n_mels * frames);
    float* log_mel = kernel_.spec().n_mfcc > 0 ? log_mel_.data() : values;
    transpose(ring_.data() + oldest_ * n_mels, frames - oldest_, n_mels, log_mel, frames);
    transpose(ring_.data(), oldest_, n_mels, log_mel + (frames - oldest_), frames);
    kernel_.finish(log_mel, frames, values);
  }

  void push_frames(const mme_audio& audio, Tensor& output) override {
    if (const char* step = kernel_.whole_clip_step()) {
      fail(MME_INVALID_ARGUMENT, "preprocess: \"", step, "\" needs the whole clip; a stream cannot have it");
    }
    if (!frames_) frames_ = std::make_unique<AudioStream>(kernel_, StreamStart::kClip);
    frames_->push(audio);
    take_frames(output);
  }

  void end_frames(Tensor& output) override {
    if (!frames_) frames_ = std::make_unique<AudioStream>(kernel_, StreamStart::kClip);
    frames_->end();
    take_frames(output);
    frames_->reset();
  }

  void reset_audio() override {
    if (live_) begin_live();
    if (frames_) frames_->reset();
  }

 private:
  size_t ring_frames() const { return kernel_.frame_count(window_); }
  size_t columns_of_a_frame() const { return static_cast<size_t>(kernel_.spec().n_mels); }

  float* resize(Tensor& output, size_t frames) {
    const int64_t shape[] = {static_cast<int64_t>(kernel_.rows()), static_cast<int64_t>(frames)};
    output.resize(ElementType::kFloat32, shape);
    return output.values<float>().data();
  }

  // The clip's one channel at the model's rate, cut or filled up to the window; gives its length.
  size_t load_clip(const mme_audio& audio) {
    if (reader_.is_plain(audio)) {
      const auto clip = kernel_.clip(window_ ? window_ : audio.frames);
      read_mono(audio, clip.data());
      std::fill(clip.begin() + static_cast<ptrdiff_t>(audio.frames), clip.end(), 0.0F);
      return clip.size();
    }
    const auto samples = reader_.read(audio);
    const auto clip = kernel_.clip(window_ ? window_ : samples.size());
    const auto filled = std::copy(samples.begin(), samples.end(), clip.begin());
    std::fill(filled, clip.end(), 0.0F);
    return clip.size();
  }

  // A stream of silence.
  void begin_live() {
    if (window_ == 0) {
      fail(MME_INVALID_ARGUMENT, "preprocess: \"samples\" is 0, any length; a live stream needs a fixed window");
    }
    const size_t n_mels = columns_of_a_frame();
    ring_.resize(ring_frames() * n_mels);
    const std::vector<float> silence(static_cast<size_t>(kernel_.spec().n_fft));
    kernel_.columns(silence.data(), 1, ring_.data());
    for (size_t t = 1; t < ring_frames(); ++t) std::copy_n(ring_.data(), n_mels, ring_.data() + t * n_mels);
    oldest_ = 0;
    if (live_) {
      live_->reset();
    } else {
      live_ = std::make_unique<AudioStream>(kernel_, StreamStart::kSilence);
    }
  }

  void take_frames(Tensor& output) {
    const size_t frames = frames_->ready(), n_mels = columns_of_a_frame();
    float* values = resize(output, frames);
    columns_.resize(n_mels * frames);
    frames_->take(frames, columns_.data());
    if (kernel_.spec().n_mfcc > 0) log_mel_.resize(n_mels * frames);
    float* log_mel = kernel_.spec().n_mfcc > 0 ? log_mel_.data() : values;
    transpose(columns_.data(), frames, n_mels, log_mel, frames);
    kernel_.finish(log_mel, frames, values);
  }

  LogMel kernel_;
  size_t window_;  // samples at the model's rate; 0: any length
  // A whole clip.
  ClipReader reader_;
  // A stream seen through its window: the last frames as a ring of columns.
  std::unique_ptr<AudioStream> live_;
  std::vector<float> ring_;
  size_t oldest_ = 0;
  // A stream seen frame by frame.
  std::unique_ptr<AudioStream> frames_;
  std::vector<float> columns_, log_mel_;
};

}  // namespace

std::unique_ptr<Preprocess> make_audio_preprocess(const nlohmann::json& json) {
  Parameters parameters(json);
  LogMelSpec spec{};
  const bool mfcc = parameters.choice<bool>("type", {{"log_mel", false}, {"mfcc", true}});
  spec.sample_rate = parameters.integer("sample_rate", kLeastRate, kMostRate);
  const int window = parameters.integer("samples", 0, 1 << 26);
  spec.n_fft = parameters.integer("n_fft", 2, 1 << 16);
  spec.win_length = parameters.integer("win_length", 2, spec.n_fft);  // a window of one sample is 0
  spec.hop_length = parameters.integer("hop_length", 1, 1 << 16);
  spec.n_mels = parameters.integer("n_mels", 1, 1024);
  spec.f_min = parameters.number("f_min", 0.0, spec.sample_rate / 2.0);
  spec.f_max = parameters.number("f_max", 0.0, spec.sample_rate / 2.0);
  spec.mel_scale = parameters.choice<MelScale>("mel_scale", {{"htk", MelScale::kHtk}, {"slaney", MelScale::kSlaney}});
  spec.mel_norm = parameters.choice<MelNorm>("mel_norm", {{"none", MelNorm::kNone}, {"slaney", MelNorm::kSlaney}});
  spec.power = parameters.number("power", 1.0, 2.0) == 1.0 ? 1 : 2;
  spec.center = parameters.boolean("center");
  // Without "center" both may be left out; bundles made when they could not be have the first value of each.
  if (spec.center || parameters.has("pad_mode")) {
    spec.padding =
        parameters.choice<Padding>("pad_mode", {{"reflect", Padding::kReflect}, {"constant", Padding::kConstant}});
    parameters.only_with("pad_mode", spec.center || spec.padding == Padding::kReflect, R"("center": true)");
  }
  if (spec.center || parameters.has("drop_last")) {
    spec.drop_last = parameters.boolean("drop_last");
    parameters.only_with("drop_last", spec.center || !spec.drop_last, R"("center": true)");
  }
  spec.log = parameters.choice<LogBase>(
      "log", {{"natural", LogBase::kNatural}, {"log10", LogBase::kLog10}, {"db", LogBase::kDecibel}});
  spec.floor = parameters.number("floor", 1e-30, 1.0);
  spec.dynamic_range_db = parameters.number("dynamic_range_db", 0.0, 1000.0);
  spec.normalize = parameters.choice<Normalize>(
      "normalize", {{"none", Normalize::kNone}, {"clip", Normalize::kClip}, {"per_feature", Normalize::kPerFeature}});
  const bool fixed = parameters.has("mean") || parameters.has("std");
  if (fixed) {
    spec.mean = parameters.number("mean", -1e9, 1e9);
    spec.std = parameters.number("std", 1e-9, 1e9);
  }
  if (mfcc) {
    spec.n_mfcc = parameters.integer("n_mfcc", 1, spec.n_mels);
    if (parameters.has("lifter")) spec.lifter = parameters.number("lifter", 0.0, 1e6);
  }
  parameters.finish();
  if (fixed && spec.normalize != Normalize::kNone) {
    fail(MME_INVALID_ARGUMENT, R"(preprocess: "mean" and "std" with "normalize" )", json.at("normalize").dump(),
         "; expected one or the other");
  }
  if (spec.n_fft % 2 != 0)
    fail(MME_INVALID_ARGUMENT, "preprocess: \"n_fft\" is ", spec.n_fft, "; expected an even number");
  if (json.at("power") != 1.0 && json.at("power") != 2.0) {
    fail(MME_INVALID_ARGUMENT, "preprocess: \"power\" is ", json.at("power").dump(), "; expected 1 or 2");
  }
  if (spec.f_max < spec.f_min + 1.0) {
    fail(MME_INVALID_ARGUMENT, "preprocess: \"f_max\" is ", spec.f_max, "; expected at least f_min + 1 Hz, ",
         spec.f_min + 1.0);
  }
  auto preprocess = std::make_unique<AudioPreprocess>(spec, static_cast<size_t>(window));
  if (window && preprocess->shape()[1] == 0) {
    fail(MME_INVALID_ARGUMENT, "preprocess: \"samples\" is ", window, "; too short for one frame");
  }
  return preprocess;
}

}  // namespace mmedge
