#include "kernels/log_mel/log_mel_spec.h"

#include <algorithm>
#include <cmath>
#include <numbers>

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

size_t LogMelSpec::least_samples() const {
  if (!center) return static_cast<size_t>(n_fft);
  const size_t for_frames = drop_last ? static_cast<size_t>(hop_length) : 1;
  return std::max(for_frames, padding == Padding::kReflect ? padded() + 1 : 1);
}

size_t LogMelSpec::frame_count(size_t samples) const {
  if (samples < least_samples()) return 0;
  const auto hop = static_cast<size_t>(hop_length);
  if (!center) return 1 + (samples - static_cast<size_t>(n_fft)) / hop;
  return samples / hop + (drop_last ? 0 : 1);
}

double LogMelSpec::log_scale() const {
  if (log == LogBase::kNatural) return 1.0;
  return (log == LogBase::kDecibel ? 20.0 / power : 1.0) / std::numbers::ln10;
}

double LogMelSpec::range() const { return dynamic_range_db * std::numbers::ln10 * power / 20.0 * log_scale(); }

MelBands make_mel_bands(const LogMelSpec& spec) {
  const double low = hz_to_mel(spec.f_min, spec.mel_scale), high = hz_to_mel(spec.f_max, spec.mel_scale);
  const auto edge = [&](int i) { return mel_to_hz(low + (high - low) * i / (spec.n_mels + 1), spec.mel_scale); };
  MelBands result;
  for (int m = 0; m < spec.n_mels; ++m) {
    const double left = edge(m), centre = edge(m + 1), right = edge(m + 2);
    const double gain = spec.mel_norm == MelNorm::kSlaney ? 2.0 / (right - left) : 1.0;
    MelBand band{0, 0, result.weights.size()};
    for (int bin = 0; bin <= spec.n_fft / 2; ++bin) {
      const double hz = static_cast<double>(bin) * spec.sample_rate / spec.n_fft;
      const double weight = std::min((hz - left) / (centre - left), (right - hz) / (right - centre));
      if (weight <= 0.0) continue;
      if (band.width++ == 0) band.first = static_cast<size_t>(bin);
      result.weights.push_back(static_cast<float>(weight * gain));
    }
    result.bands.push_back(band);
  }
  return result;
}

std::vector<float> make_window(const LogMelSpec& spec) {
  std::vector<float> window(static_cast<size_t>(spec.n_fft));
  const auto lead = static_cast<size_t>(spec.n_fft - spec.win_length) / 2;
  for (int i = 0; i < spec.win_length; ++i) {
    const double phase = 2.0 * std::numbers::pi * i / spec.win_length;
    window[lead + static_cast<size_t>(i)] = static_cast<float>(0.5 - 0.5 * std::cos(phase));
  }
  return window;
}

std::vector<float> make_cepstrum(const LogMelSpec& spec) {
  const auto inner = static_cast<double>(spec.n_mels);
  std::vector<float> cepstrum;
  for (int n = 0; n < spec.n_mfcc; ++n) {
    const double lift =
        spec.lifter > 0.0 ? 1.0 + spec.lifter / 2.0 * std::sin(std::numbers::pi * (n + 1) / spec.lifter) : 1.0;
    const double gain = lift * std::sqrt((n == 0 ? 1.0 : 2.0) / inner);
    for (int m = 0; m < spec.n_mels; ++m) {
      cepstrum.push_back(static_cast<float>(gain * std::cos(std::numbers::pi * n * (m + 0.5) / inner)));
    }
  }
  return cepstrum;
}

}  // namespace mmedge
