// Samples as they are: "waveform", for encoders that listen to the sound itself.
#include <algorithm>
#include <cmath>
#include <memory>

#include "preprocess/audio_samples.h"
#include "preprocess/parameters.h"
#include "preprocess/preprocess.h"

namespace mmedge {
namespace {

// Zero mean and unit variance, as Wav2Vec2's feature extractor makes them.
void standardize(std::span<float> samples) {
  constexpr double least_variance = 1e-7;  // added, so that silence stays silence
  const auto count = static_cast<double>(samples.size());
  double sum = 0.0, squares = 0.0;
  for (const float value : samples) sum += value;
  const double mean = sum / count;
  for (const float value : samples) squares += (value - mean) * (value - mean);
  const double scale = 1.0 / std::sqrt(squares / count + least_variance);
  for (float& value : samples) value = static_cast<float>((value - mean) * scale);
}

class WaveformPreprocess : public Preprocess {
 public:
  WaveformPreprocess(int sample_rate, size_t window, bool normalize)
      : sample_rate_(sample_rate),
        window_(window),
        normalize_(normalize),
        reader_(sample_rate, window),
        live_(sample_rate),
        frames_(sample_rate) {}

  const char* modality() const override { return "audio"; }
  std::vector<int64_t> shape() const override { return {window_ ? static_cast<int64_t>(window_) : int64_t{-1}}; }

  void audio(const mme_audio& audio, Tensor& output) override {
    check_audio(audio);
    if (audio.frames == 0) fail(MME_BAD_INPUT, "audio: empty: 0 samples; expected at least 1");
    size_t count = audio.frames;
    std::span<float> values;
    if (reader_.is_plain(audio)) {
      values = resize(output, window_ ? window_ : count);
      read_mono(audio, values.data());
    } else {
      const auto samples = reader_.read(audio);
      count = samples.size();
      if (count == 0) {
        fail(MME_BAD_INPUT, "audio: too short: 0 samples at ", sample_rate_, " Hz; expected at least 1");
      }
      values = resize(output, window_ ? window_ : count);
      std::copy(samples.begin(), samples.end(), values.begin());
    }
    if (normalize_) standardize(values.first(count));
    std::fill(values.begin() + static_cast<ptrdiff_t>(count), values.end(), 0.0F);
  }

  void push_audio(const mme_audio& audio) override {
    if (ring_.empty()) begin_live();
    auto samples = live_.push(audio);
    if (samples.size() > window_) samples = samples.last(window_);
    for (const float sample : samples) {
      ring_[oldest_] = sample;
      oldest_ = oldest_ + 1 == window_ ? 0 : oldest_ + 1;
    }
  }

  void window(Tensor& output) override {
    if (ring_.empty()) begin_live();
    const auto values = resize(output, window_);
    std::rotate_copy(ring_.begin(), ring_.begin() + static_cast<ptrdiff_t>(oldest_), ring_.end(), values.begin());
    if (normalize_) standardize(values);
  }

  void push_frames(const mme_audio& audio, Tensor& output) override {
    if (normalize_) {
      fail(MME_INVALID_ARGUMENT, "preprocess: \"normalize\" needs the whole clip; a stream cannot have it");
    }
    give(frames_.push(audio), output);
  }

  void end_frames(Tensor& output) override {
    const auto rest = frames_.end();
    const bool none = received_ + rest.size() == 0;
    frames_.reset();
    received_ = 0;
    if (none)
      fail(MME_BAD_INPUT, "audio: the stream was too short: 0 samples at ", sample_rate_, " Hz; expected at least 1");
    give(rest, output);
    received_ = 0;
  }

  void reset_audio() override {
    if (!ring_.empty()) begin_live();
    frames_.reset();
    received_ = 0;
  }

 private:
  static std::span<float> resize(Tensor& output, size_t samples) {
    const auto count = static_cast<int64_t>(samples);
    output.resize(ElementType::kFloat32, {&count, 1});
    return output.values<float>();
  }

  // A stream of silence.
  void begin_live() {
    if (window_ == 0) {
      fail(MME_INVALID_ARGUMENT, "preprocess: \"samples\" is 0, any length; a live stream needs a fixed window");
    }
    live_.reset();
    ring_.assign(window_, 0.0F);
    oldest_ = 0;
  }

  void give(std::span<const float> samples, Tensor& output) {
    std::copy(samples.begin(), samples.end(), resize(output, samples.size()).begin());
    received_ += samples.size();
  }

  int sample_rate_;
  size_t window_;  // samples at the model's rate; 0: any length
  bool normalize_;
  ClipReader reader_;
  // A stream seen through its window: the last samples as a ring, and one seen as it comes.
  SampleStream live_, frames_;
  std::vector<float> ring_;
  size_t oldest_ = 0, received_ = 0;
};

}  // namespace

std::unique_ptr<Preprocess> make_waveform_preprocess(const nlohmann::json& json) {
  Parameters parameters(json);
  parameters.choice<bool>("type", {{"waveform", true}});
  const int sample_rate = parameters.integer("sample_rate", kLeastRate, kMostRate);
  const int window = parameters.integer("samples", 0, 1 << 26);
  const bool normalize = parameters.choice<bool>("normalize", {{"none", false}, {"clip", true}});
  parameters.finish();
  return std::make_unique<WaveformPreprocess>(sample_rate, static_cast<size_t>(window), normalize);
}

}  // namespace mmedge
