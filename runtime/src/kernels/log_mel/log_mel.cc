#include "kernels/log_mel/log_mel.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mmedge {
namespace {

void subtract_and_divide(std::span<float> values, float mean, float deviation) {
  for (float& value : values) value = (value - mean) / deviation;
}

// To mean 0 and standard deviation 1. In double, in eight sums: one sum's additions would wait for each other.
void standardize(std::span<float> values) {
  constexpr size_t lanes = 8;
  const auto total = [&](auto term) {
    double parts[lanes] = {};
    size_t i = 0;
    for (; i + lanes <= values.size(); i += lanes) {
      for (size_t p = 0; p < lanes; ++p) parts[p] += term(static_cast<double>(values[i + p]));
    }
    for (; i < values.size(); ++i) parts[0] += term(static_cast<double>(values[i]));
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  };
  const auto count = static_cast<double>(values.size());
  const double mean = total([](double value) { return value; }) / count;
  const double squares = total([&](double value) { return (value - mean) * (value - mean); });
  subtract_and_divide(values, static_cast<float>(mean), static_cast<float>(std::max(std::sqrt(squares / count), 1e-5)));
}

}  // namespace

LogMel::LogMel(const LogMelSpec& spec) : spec_(spec) {
  const auto n_fft = static_cast<size_t>(spec.n_fft);
  plan_.n_fft = n_fft;
  plan_.hop = static_cast<size_t>(spec.hop_length);
  plan_.n_mels = static_cast<size_t>(spec.n_mels);
  plan_.power = spec.power;
  plan_.floor = static_cast<float>(spec.floor);
  plan_.log_scale = static_cast<float>(spec.log_scale());
  plan_.window = zeros(n_fft);
  const std::vector<float> window = make_window(spec);
  std::copy(window.begin(), window.end(), plan_.window.get());
  plan_.mel = make_mel_bands(spec);
  make_quads();
  plan_.spectrum = zeros((n_fft / 2 + 3) * kMostLanes);
  plan_.columns = zeros(kMostLanes * plan_.n_mels + kMostLanes);
  column_.resize(plan_.n_mels + kMostLanes);
  if (has_fft(n_fft)) {
    make_fft();
  } else {
    fft_ = std::make_unique<kissfft<float>>(n_fft / 2, false);
    frame_.resize(n_fft);
    packed_bins_.resize(n_fft / 2);
  }
  cepstrum_ = make_cepstrum(spec);
}

void LogMel::make_quads() {
  size_t count = 0;
  for (size_t m = 0; m < (plan_.n_mels + kMostLanes - 1) / kMostLanes * kMostLanes; m += 4) {
    MelQuad quad{{}, 0, count};
    for (size_t b = m; b < std::min(m + 4, plan_.n_mels); ++b) {
      quad.first[b - m] = plan_.mel.bands[b].first;
      quad.width = std::max(quad.width, plan_.mel.bands[b].width);
    }
    count += (quad.width + 3) / 4 * 16;
    plan_.quads.push_back(quad);
  }
  plan_.quad_weights = zeros(count);
  for (size_t m = 0; m < plan_.n_mels; ++m) {
    float* weights = plan_.quad_weights.get() + plan_.quads[m / 4].weights + m % 4 * 4;
    for (size_t i = 0; i < plan_.mel.bands[m].width; ++i) {
      weights[i / 4 * 16 + i % 4] = plan_.mel.weights[plan_.mel.bands[m].weights + i];
    }
  }
}

void LogMel::make_fft() {
  const size_t length = plan_.n_fft / kFftColumns, rows = length / 2 + 1;
  const size_t padded_rows = (rows + kMostLanes - 1) / kMostLanes * kMostLanes;
  plan_.twiddle_re = zeros(rows * kFftColumns);
  plan_.twiddle_im = zeros(rows * kFftColumns);
  for (size_t k = 0; k < rows; ++k) {
    for (size_t c = 0; c < kFftColumns; ++c) {
      const double phase = 2.0 * std::numbers::pi * static_cast<double>(k * c) / static_cast<double>(plan_.n_fft);
      plan_.twiddle_re[k * kFftColumns + c] = static_cast<float>(std::cos(phase));
      plan_.twiddle_im[k * kFftColumns + c] = static_cast<float>(std::sin(phase));
    }
  }
  plan_.rows_re = zeros(padded_rows * kFftColumns * kMostLanes);
  plan_.rows_im = zeros(padded_rows * kFftColumns * kMostLanes);
  const size_t used = std::min(plan_.hop, plan_.n_fft);
  plan_.transposed_rows = (used + 3) / 4 * 4;
  plan_.transposed_width = (kTransposedFrames + (plan_.n_fft - 1) / plan_.hop + kMostLanes) / kMostLanes * kMostLanes;
  plan_.transposed = zeros(plan_.transposed_rows * plan_.transposed_width);
  for (size_t n = 0; n < plan_.n_fft; ++n) {
    plan_.transposed_offset.push_back(n % plan_.hop * plan_.transposed_width + n / plan_.hop);
  }
}

const char* LogMel::whole_clip_step() const {
  if (spec_.dynamic_range_db > 0.0) return "dynamic_range_db";
  return spec_.normalize == Normalize::kNone ? nullptr : "normalize";
}

std::span<float> LogMel::clip(size_t count) {
  clip_size_ = count;
  padded_.resize(count + 2 * padding() + plan_.slack() + kMostLanes);
  // Aligned for whoever writes the clip; nobody minds where the padding begins.
  const auto misplaced = reinterpret_cast<uintptr_t>(padded_.data() + padding()) / sizeof(float) % kMostLanes;
  clip_ = padded_.data() + padding() + (kMostLanes - misplaced) % kMostLanes;
  return {clip_, count};
}

void LogMel::run(float* output) {
  const size_t half = padding(), frames = frame_count(clip_size_), n_mels = plan_.n_mels;
  float* end = clip_ + clip_size_;
  for (size_t i = 0; i < half; ++i) {
    const bool mirror = spec_.padding == Padding::kReflect;
    clip_[-1 - static_cast<ptrdiff_t>(i)] = mirror ? clip_[i + 1] : 0.0F;
    end[i] = mirror ? end[-2 - static_cast<ptrdiff_t>(i)] : 0.0F;
  }
  if (spec_.n_mfcc > 0) log_mel_.resize(n_mels * frames);
  float* log_mel = spec_.n_mfcc > 0 ? log_mel_.data() : output;
  if (plan_.has_fft()) {
    frame_rows(plan_, clip_ - half, frames, log_mel, frames);
  } else {
    for (size_t done = 0; done < frames; done += kMostLanes) {
      const size_t count = std::min(kMostLanes, frames - done);
      columns(clip_ - half + done * plan_.hop, count, plan_.columns.get());
      transpose(plan_.columns.get(), count, n_mels, log_mel + done, frames);
    }
  }
  finish(log_mel, frames, output);
}

void LogMel::columns(const float* samples, size_t count, float* output) {
  for (size_t t = 0; t < count; ++t) {
    const float* frame = samples + t * plan_.hop;
    if (plan_.has_fft()) {
      frame_spectrum(plan_, frame);
    } else {
      for (size_t i = 0; i < plan_.n_fft; ++i) frame_[i] = frame[i] * plan_.window[i];
      fft_->transform_real(frame_.data(), packed_bins_.data());
      // The library packs the two purely real bins, 0 and n_fft / 2, into the first complex number.
      float* bins = plan_.bins();
      bins[0] = packed_bins_[0].real() * packed_bins_[0].real();
      bins[packed_bins_.size()] = packed_bins_[0].imag() * packed_bins_[0].imag();
      for (size_t bin = 1; bin < packed_bins_.size(); ++bin) bins[bin] = std::norm(packed_bins_[bin]);
    }
    frame_bands(plan_, column_.data());
    std::copy_n(column_.data(), plan_.n_mels, output + t * plan_.n_mels);
  }
}

void LogMel::finish(float* log_mel, size_t frames, float* output) {
  const std::span<float> bands(log_mel, plan_.n_mels * frames);
  if (spec_.dynamic_range_db > 0.0 && frames > 0) {
    const float least = *std::max_element(bands.begin(), bands.end()) - static_cast<float>(spec_.range());
    for (float& value : bands) value = std::max(value, least);
  }
  if (spec_.n_mfcc > 0) multiply(cepstrum_, plan_.n_mels, log_mel, frames, output);
  const std::span<float> values(output, rows() * frames);
  if (spec_.normalize == Normalize::kClip) standardize(values);
  if (spec_.normalize == Normalize::kPerFeature) {
    for (size_t row = 0; row < rows(); ++row) standardize(values.subspan(row * frames, frames));
  }
  if (spec_.mean != 0.0 || spec_.std != 1.0) {
    subtract_and_divide(values, static_cast<float>(spec_.mean), static_cast<float>(spec_.std));
  }
}

}  // namespace mmedge
