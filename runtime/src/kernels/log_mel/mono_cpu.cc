#include <cmath>

#include "kernels/log_mel/mono.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/log_mel/mono_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How many leading frames were converted and are all usable; the rest is left to the caller.
size_t float_to_mono(const float* input, size_t frames, size_t channels, float* output) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const auto most = hn::Set(d, kMostAmplitude), half = hn::Set(d, 0.5F);
  size_t i = 0;
  if (channels == 1) {
    for (; i + 2 * lanes <= frames; i += 2 * lanes) {
      const auto a = hn::LoadU(d, input + i), b = hn::LoadU(d, input + i + lanes);
      if (!hn::AllTrue(d, hn::And(hn::Le(hn::Abs(a), most), hn::Le(hn::Abs(b), most)))) return i;
      hn::StoreU(a, d, output + i);
      hn::StoreU(b, d, output + i + lanes);
    }
  } else if (channels == 2) {
    for (; i + lanes <= frames; i += lanes) {
      hn::Vec<decltype(d)> left, right;
      hn::LoadInterleaved2(d, input + 2 * i, left, right);
      if (!hn::AllTrue(d, hn::And(hn::Le(hn::Abs(left), most), hn::Le(hn::Abs(right), most)))) return i;
      hn::StoreU(hn::Mul(hn::Add(left, right), half), d, output + i);
    }
  }
  return i;
}

size_t int16_to_mono(const int16_t* input, size_t frames, size_t channels, float* output) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<int16_t, decltype(d)> d16;
  const hn::Rebind<int32_t, decltype(d)> d32;
  const auto scale = hn::Set(d, 1.0F / 32768.0F);
  size_t i = 0;
  if (channels == 1) {
    for (; i + hn::Lanes(d) <= frames; i += hn::Lanes(d)) {
      const auto v = hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d16, input + i)));
      hn::StoreU(hn::Mul(v, scale), d, output + i);
    }
  }
  return i;
}

// NOLINTNEXTLINE(google-readability-namespace-comments): Highway's macro
}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mmedge {

HWY_EXPORT(float_to_mono);
HWY_EXPORT(int16_to_mono);

size_t to_mono(const float* input, size_t frames, size_t channels, float* output) {
  const float scale = 1.0F / static_cast<float>(channels);
  for (size_t i = HWY_DYNAMIC_DISPATCH(float_to_mono)(input, frames, channels, output); i < frames; ++i) {
    float sum = 0.0F;
    for (size_t c = 0; c < channels; ++c) {
      const float value = input[i * channels + c];
      if (!(std::abs(value) <= kMostAmplitude)) return i;
      sum += value;
    }
    output[i] = sum * scale;
  }
  return frames;
}

void to_mono(const int16_t* input, size_t frames, size_t channels, float* output) {
  const float scale = 1.0F / (32768.0F * static_cast<float>(channels));
  for (size_t i = HWY_DYNAMIC_DISPATCH(int16_to_mono)(input, frames, channels, output); i < frames; ++i) {
    float sum = 0.0F;
    for (size_t c = 0; c < channels; ++c) sum += static_cast<float>(input[i * channels + c]);
    output[i] = sum * scale;
  }
}

}  // namespace mmedge
#endif  // HWY_ONCE
