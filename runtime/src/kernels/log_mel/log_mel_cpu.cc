#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "kernels/log_mel/log_mel.h"

namespace mmedge {
namespace {

constexpr double kSlaneyBreakHz = 1000.0;
constexpr double kSlaneyHzPerMel = 200.0 / 3.0;
constexpr double kSlaneyBreakMel = kSlaneyBreakHz / kSlaneyHzPerMel;
const double kSlaneyLogStep = std::log(6.4) / 27.0;

double hz_to_mel(double hz, MelScale scale) {
  if (scale == MelScale::kHtk) return 2595.0 * std::log10(1.0 + hz / 700.0);
  if (hz < kSlaneyBreakHz) return hz / kSlaneyHzPerMel;
  return kSlaneyBreakMel + std::log(hz / kSlaneyBreakHz) / kSlaneyLogStep;
}

double mel_to_hz(double mel, MelScale scale) {
  if (scale == MelScale::kHtk) return 700.0 * (std::pow(10.0, mel / 2595.0) - 1.0);
  if (mel < kSlaneyBreakMel) return mel * kSlaneyHzPerMel;
  return kSlaneyBreakHz * std::exp((mel - kSlaneyBreakMel) * kSlaneyLogStep);
}

}  // namespace

LogMel::LogMel(const LogMelSpec& spec)
    : spec_(spec),
      window_(static_cast<size_t>(spec.n_fft)),
      fft_(std::make_unique<kissfft<float>>(static_cast<size_t>(spec.n_fft) / 2, false)),
      frame_(static_cast<size_t>(spec.n_fft)),
      spectrum_(static_cast<size_t>(spec.n_fft) / 2 + 1),
      bins_(static_cast<size_t>(spec.n_fft) / 2) {
  const int lead = (spec.n_fft - spec.win_length) / 2;
  for (int i = 0; i < spec.win_length; ++i) {
    const double phase = 2.0 * std::numbers::pi * i / spec.win_length;
    window_[static_cast<size_t>(lead) + static_cast<size_t>(i)] = static_cast<float>(0.5 - 0.5 * std::cos(phase));
  }
  make_bands();
}

void LogMel::make_bands() {
  const double low = hz_to_mel(spec_.f_min, spec_.mel_scale);
  const double high = hz_to_mel(spec_.f_max, spec_.mel_scale);
  const auto edge = [&](int i) { return mel_to_hz(low + (high - low) * i / (spec_.n_mels + 1), spec_.mel_scale); };
  for (int m = 0; m < spec_.n_mels; ++m) {
    const double left = edge(m), centre = edge(m + 1), right = edge(m + 2);
    const double gain = spec_.mel_norm == MelNorm::kSlaney ? 2.0 / (right - left) : 1.0;
    Band band{0, {}};
    for (size_t bin = 0; bin < spectrum_.size(); ++bin) {
      const double hz = static_cast<double>(bin) * spec_.sample_rate / spec_.n_fft;
      const double weight = std::min((hz - left) / (centre - left), (right - hz) / (right - centre));
      if (weight <= 0.0) continue;
      if (band.weights.empty()) band.first = bin;
      band.weights.push_back(static_cast<float>(weight * gain));
    }
    bands_.push_back(std::move(band));
  }
}

size_t LogMel::least_samples() const {
  const auto half = static_cast<size_t>(spec_.n_fft) / 2;
  if (!spec_.center) return static_cast<size_t>(spec_.n_fft);
  const size_t for_frames = spec_.drop_last ? static_cast<size_t>(spec_.hop_length) : 1;
  return std::max(for_frames, spec_.padding == Padding::kReflect ? half + 1 : 1);
}

size_t LogMel::frame_count(size_t samples) const {
  if (samples < least_samples()) return 0;
  const auto hop = static_cast<size_t>(spec_.hop_length);
  if (!spec_.center) return 1 + (samples - static_cast<size_t>(spec_.n_fft)) / hop;
  return samples / hop + (spec_.drop_last ? 0 : 1);
}

void LogMel::pad(std::span<const float> samples) {
  const size_t half = spec_.center ? static_cast<size_t>(spec_.n_fft) / 2 : 0;
  padded_.assign(samples.size() + 2 * half, 0.0F);
  std::copy(samples.begin(), samples.end(), padded_.begin() + static_cast<ptrdiff_t>(half));
  if (spec_.padding == Padding::kReflect) {
    for (size_t i = 0; i < half; ++i) {
      padded_[half - 1 - i] = samples[i + 1];
      padded_[half + samples.size() + i] = samples[samples.size() - 2 - i];
    }
  }
}

void LogMel::run(std::span<const float> samples, float* output) {
  pad(samples);
  const size_t frames = frame_count(samples.size());
  const auto n_fft = static_cast<size_t>(spec_.n_fft);
  const auto floor = static_cast<float>(spec_.floor);
  for (size_t t = 0; t < frames; ++t) {
    const float* start = padded_.data() + t * static_cast<size_t>(spec_.hop_length);
    for (size_t i = 0; i < n_fft; ++i) frame_[i] = start[i] * window_[i];
    fft_->transform_real(frame_.data(), bins_.data());
    // The library packs the two purely real bins, 0 and n_fft / 2, into the first complex number.
    spectrum_.front() = bins_[0].real() * bins_[0].real();
    spectrum_.back() = bins_[0].imag() * bins_[0].imag();
    for (size_t bin = 1; bin < bins_.size(); ++bin) spectrum_[bin] = std::norm(bins_[bin]);
    if (spec_.power == 1) {
      for (float& value : spectrum_) value = std::sqrt(value);
    }
    for (size_t m = 0; m < bands_.size(); ++m) {
      const Band& band = bands_[m];
      const float energy = std::inner_product(band.weights.begin(), band.weights.end(),
                                              spectrum_.begin() + static_cast<ptrdiff_t>(band.first), 0.0F);
      const float kept = std::max(energy, floor);
      float& value = output[m * frames + t];
      switch (spec_.log) {
        case LogBase::kNatural:
          value = std::log(kept);
          break;
        case LogBase::kLog10:
          value = std::log10(kept);
          break;
        case LogBase::kDecibel:
          value = 10.0F * std::log10(kept);
          break;
      }
    }
  }
  const std::span<float> values(output, bands_.size() * frames);
  if (spec_.dynamic_range_db > 0.0) {
    const double unit = spec_.log == LogBase::kDecibel ? 1.0
                        : spec_.log == LogBase::kLog10 ? 0.1
                                                       : std::numbers::ln10 / 10.0;
    const float least =
        *std::max_element(values.begin(), values.end()) - static_cast<float>(spec_.dynamic_range_db * unit);
    for (float& value : values) value = std::max(value, least);
  }
  if (spec_.normalize) {
    const auto count = static_cast<double>(values.size());
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
    double squares = 0.0;
    for (const float value : values) squares += (value - mean) * (value - mean);
    const double deviation = std::max(std::sqrt(squares / count), 1e-5);
    for (float& value : values) value = static_cast<float>((value - mean) / deviation);
  }
}

}  // namespace mmedge
