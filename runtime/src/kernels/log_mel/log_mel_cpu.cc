// Frames to log-mel bands with SIMD. Contraction of a * b + c by the compiler is off for this file: the two shapes of
// the arithmetic, `frame_spectrum` and `frame_rows`, must round alike.
#include <algorithm>
#include <numbers>

#include "kernels/log_mel/log_mel_plan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/log_mel/log_mel_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/log_mel/spectra-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {

// log(1 + z) = z - z^2 / 2 + z^3 P(z) for z in [sqrt(1/2) - 1, sqrt(2) - 1]; P fitted for the least relative error of
// the whole, 3.5e-8, by reweighted least squares.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V log_of(D d, V x) {
  constexpr float polynomial[] = {0.0870043039F, -0.142674863F, 0.149147689F, -0.16577585F,
                                  0.199630633F,  -0.250013381F, 0.333339095F};
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, x);
  const auto exponent = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3F3504F3)));  // of x / sqrt(1/2)
  const V z = hn::Sub(hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(exponent))), hn::Set(d, 1.0F));
  const V e = hn::ConvertTo(d, exponent);
  V p = hn::Set(d, polynomial[0]);
  for (size_t i = 1; i < 7; ++i) p = hn::MulAdd(p, z, hn::Set(d, polynomial[i]));
  const V y = hn::MulAdd(hn::Mul(z, z), hn::MulSub(z, p, hn::Set(d, 0.5F)), z);
  return hn::MulAdd(e, hn::Set(d, std::numbers::ln2_v<float>), y);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V log_energy(D d, const LogMelPlan& plan, V energy) {
  return hn::Mul(log_of(d, hn::Max(energy, hn::Set(d, plan.floor))), hn::Set(d, plan.log_scale));
}

#if HWY_TARGET != HWY_SCALAR
// Row p of plan.transposed: sample p of each hop from samples on.
void transpose_hops(const LogMelPlan& plan, const float* HWY_RESTRICT samples, size_t frames) {
  const hn::CappedTag<float, kMostLanes> d;
  using V = hn::Vec<decltype(d)>;
  const size_t width = plan.transposed_width, hop = plan.hop, lanes = hn::Lanes(d);
  const size_t needed = frames + (plan.n_fft - 1) / hop;
  for (size_t f = 0; f < needed; f += lanes) {
    for (size_t p = 0; p < plan.transposed_rows; p += 4) {
      V r0, r1, r2, r3;
      load_columns(d, samples + f * hop + p, hop, r0, r1, r2, r3);
      float* out = plan.transposed.get() + p * width + f;
      hn::Store(r0, d, out);
      hn::Store(r1, d, out + width);
      hn::Store(r2, d, out + 2 * width);
      hn::Store(r3, d, out + 3 * width);
    }
  }
}

// The energies of one frame's bands, as many as there are lanes.
template <class D>
HWY_INLINE hn::Vec<D> energies(D d, const MelQuad* quad, const float* bins, const float* weights) {
  if constexpr (hn::MaxLanes(d) == 4) {
    const float* weight = weights + quad->weights;
    hn::Vec<D> s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < quad->width; i += 4, weight += 16) {
      s0 = hn::MulAdd(hn::Load(d, weight), hn::LoadU(d, bins + quad->first[0] + i), s0);
      s1 = hn::MulAdd(hn::Load(d, weight + 4), hn::LoadU(d, bins + quad->first[1] + i), s1);
      s2 = hn::MulAdd(hn::Load(d, weight + 8), hn::LoadU(d, bins + quad->first[2] + i), s2);
      s3 = hn::MulAdd(hn::Load(d, weight + 12), hn::LoadU(d, bins + quad->first[3] + i), s3);
    }
    transpose_blocks(d, s0, s1, s2, s3, s0, s1, s2, s3);
    return hn::Add(hn::Add(s0, s1), hn::Add(s2, s3));
  } else {
    const hn::Half<D> half;
    const auto lower = energies(half, quad, bins, weights);
    return hn::Combine(d, energies(half, quad + hn::MaxLanes(half) / 4, bins, weights), lower);
  }
}

// Steps 3 to 5 of a frame in each lane.
void bands_of_lanes(LogMelPlan& plan, float* output, size_t stride) {
  const hn::CappedTag<float, kMostLanes> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  float* bins = plan.bins();
  if (plan.power == 1) {
    for (size_t i = 0; i <= plan.n_fft / 2; ++i)
      hn::Store(hn::Sqrt(hn::Load(d, bins + i * lanes)), d, bins + i * lanes);
  }
  for (size_t m = 0; m < plan.n_mels; ++m) {
    const MelBand& band = plan.mel.bands[m];
    const float* weight = plan.mel.weights.data() + band.weights;
    const float* bin = bins + band.first * lanes;
    V s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 4 <= band.width; i += 4, bin += 4 * lanes) {
      s0 = hn::MulAdd(hn::Set(d, weight[i]), hn::Load(d, bin), s0);
      s1 = hn::MulAdd(hn::Set(d, weight[i + 1]), hn::Load(d, bin + lanes), s1);
      s2 = hn::MulAdd(hn::Set(d, weight[i + 2]), hn::Load(d, bin + 2 * lanes), s2);
      s3 = hn::MulAdd(hn::Set(d, weight[i + 3]), hn::Load(d, bin + 3 * lanes), s3);
    }
    if (i < band.width) s0 = hn::MulAdd(hn::Set(d, weight[i]), hn::Load(d, bin), s0);
    if (i + 1 < band.width) s1 = hn::MulAdd(hn::Set(d, weight[i + 1]), hn::Load(d, bin + lanes), s1);
    if (i + 2 < band.width) s2 = hn::MulAdd(hn::Set(d, weight[i + 2]), hn::Load(d, bin + 2 * lanes), s2);
    hn::StoreU(log_energy(d, plan, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))), d, output + m * stride);
  }
}
#endif  // HWY_TARGET != HWY_SCALAR

// Calls body with R as a constant; whether there is a transform of this size.
template <class Body>
bool with_fft(size_t n_fft, Body body) {
#if HWY_TARGET != HWY_SCALAR
  switch (n_fft) {
    case 256:
      return body(std::integral_constant<ptrdiff_t, 16>()), true;
    case 320:
      return body(std::integral_constant<ptrdiff_t, 20>()), true;
    case 400:
      return body(std::integral_constant<ptrdiff_t, 25>()), true;
    case 512:
      return body(std::integral_constant<ptrdiff_t, 32>()), true;
    case 1024:
      return body(std::integral_constant<ptrdiff_t, 64>()), true;
    default:
      break;
  }
#else
  static_cast<void>(n_fft);
  static_cast<void>(body);
#endif
  return false;
}

bool has_fft(size_t n_fft) {
  return with_fft(n_fft, [](auto) {});
}

void frame_spectrum(LogMelPlan& plan, const float* frame) {
#if HWY_TARGET != HWY_SCALAR
  with_fft(plan.n_fft, [&](auto r) { spectrum_of<r>(plan, frame); });
#else
  static_cast<void>(plan);
  static_cast<void>(frame);
#endif
}

void frame_bands(LogMelPlan& plan, float* output) {
  const hn::CappedTag<float, kMostLanes> d;
  const size_t lanes = hn::Lanes(d);
  float* bins = plan.bins();
  if (plan.power == 1) {
    for (size_t i = 0; i <= plan.n_fft / 2; i += lanes) hn::StoreU(hn::Sqrt(hn::LoadU(d, bins + i)), d, bins + i);
  }
#if HWY_TARGET == HWY_SCALAR
  for (size_t m = 0; m < plan.n_mels; ++m) {
    const MelBand& band = plan.mel.bands[m];
    float sums[4] = {};
    for (size_t i = 0; i < band.width; ++i) sums[i % 4] += plan.mel.weights[band.weights + i] * bins[band.first + i];
    output[m] = log_energy(d, plan, hn::Set(d, (sums[0] + sums[1]) + (sums[2] + sums[3]))).raw;
  }
#else
  for (size_t m = 0; m < plan.n_mels; m += lanes) {
    hn::StoreU(log_energy(d, plan, energies(d, plan.quads.data() + m / 4, bins, plan.quad_weights.get())), d,
               output + m);
  }
#endif
}

void transpose(const float* input, size_t rows, size_t columns, float* output, size_t output_stride) {
  size_t whole_rows = 0, whole_columns = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::CappedTag<float, 4> d;
  hn::Vec<decltype(d)> c0, c1, c2, c3;
  whole_rows = rows / 4 * 4;
  whole_columns = columns / 4 * 4;
  for (size_t r = 0; r < whole_rows; r += 4) {
    for (size_t c = 0; c < whole_columns; c += 4) {
      load_columns(d, input + r * columns + c, columns, c0, c1, c2, c3);
      float* out = output + c * output_stride + r;
      hn::StoreU(c0, d, out);
      hn::StoreU(c1, d, out + output_stride);
      hn::StoreU(c2, d, out + 2 * output_stride);
      hn::StoreU(c3, d, out + 3 * output_stride);
    }
  }
#endif
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) {
      output[c * output_stride + r] = input[r * columns + c];
    }
  }
}

void frame_rows(LogMelPlan& plan, const float* samples, size_t count, float* output, size_t output_stride) {
#if HWY_TARGET != HWY_SCALAR
  const hn::CappedTag<float, kMostLanes> d;
  const size_t lanes = hn::Lanes(d);
  const auto lane_frames = [&](size_t first, size_t frames) {  // a multiple of the lanes
    transpose_hops(plan, samples + first * plan.hop, frames);
    for (size_t f = 0; f < frames; f += lanes) {
      with_fft(plan.n_fft, [&](auto r) { spectra_of<r>(plan, f); });
      bands_of_lanes(plan, output + first + f, output_stride);
    }
  };
  size_t done = 0;
  while (count - done >= lanes) {
    const size_t frames = std::min(kTransposedFrames, (count - done) / lanes * lanes);
    lane_frames(done, frames);
    done += frames;
  }
  const size_t left = count - done;
  if (2 * left > lanes && count >= lanes) {  // some frames once more cost less than the rest one by one
    lane_frames(count - lanes, lanes);
  } else if (left > 0) {
    float* columns = plan.columns.get();
    for (size_t f = 0; f < left; ++f) {
      HWY_NAMESPACE::frame_spectrum(plan, samples + (done + f) * plan.hop);
      HWY_NAMESPACE::frame_bands(plan, columns + f * plan.n_mels);
    }
    transpose(columns, left, plan.n_mels, output + done, output_stride);
  }
#else
  static_cast<void>(plan);
  static_cast<void>(samples);
  static_cast<void>(count);
  static_cast<void>(output);
  static_cast<void>(output_stride);
#endif
}

void multiply(std::span<const float> matrix, size_t inner, const float* input, size_t columns, float* output) {
  const hn::CappedTag<float, kMostLanes> d;
  const hn::CappedTag<float, 1> d1;
  const auto product = [&](auto tag, const float* row, size_t t) MMEDGE_INLINE {
    auto sum = hn::Zero(tag);
    for (size_t m = 0; m < inner; ++m) {
      sum = hn::MulAdd(hn::Set(tag, row[m]), hn::LoadU(tag, input + m * columns + t), sum);
    }
    return sum;
  };
  for (size_t n = 0; n * inner < matrix.size(); ++n) {
    const float* row = matrix.data() + n * inner;
    size_t t = 0;
    for (; t + hn::Lanes(d) <= columns; t += hn::Lanes(d)) hn::StoreU(product(d, row, t), d, output + n * columns + t);
    for (; t < columns; ++t) hn::StoreU(product(d1, row, t), d1, output + n * columns + t);
  }
}

void natural_log(std::span<float> values) {
  const hn::CappedTag<float, kMostLanes> d;
  const hn::CappedTag<float, 1> d1;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= values.size(); i += hn::Lanes(d)) {
    hn::StoreU(log_of(d, hn::LoadU(d, &values[i])), d, &values[i]);
  }
  for (; i < values.size(); ++i) hn::StoreU(log_of(d1, hn::LoadU(d1, &values[i])), d1, &values[i]);
}

// NOLINTNEXTLINE(google-readability-namespace-comments): Highway's macro
}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mmedge {

HWY_EXPORT(has_fft);
HWY_EXPORT(frame_spectrum);
HWY_EXPORT(frame_bands);
HWY_EXPORT(frame_rows);
HWY_EXPORT(transpose);
HWY_EXPORT(multiply);
HWY_EXPORT(natural_log);

// NOLINTBEGIN(misc-const-correctness): Highway's tables hide the writes
bool has_fft(size_t n_fft) { return HWY_DYNAMIC_DISPATCH(has_fft)(n_fft); }

void frame_spectrum(LogMelPlan& plan, const float* frame) { HWY_DYNAMIC_DISPATCH(frame_spectrum)(plan, frame); }

void frame_bands(LogMelPlan& plan, float* output) { HWY_DYNAMIC_DISPATCH(frame_bands)(plan, output); }

void frame_rows(LogMelPlan& plan, const float* samples, size_t count, float* output, size_t output_stride) {
  HWY_DYNAMIC_DISPATCH(frame_rows)(plan, samples, count, output, output_stride);
}

void transpose(const float* input, size_t rows, size_t columns, float* output, size_t output_stride) {
  HWY_DYNAMIC_DISPATCH(transpose)(input, rows, columns, output, output_stride);
}

void multiply(std::span<const float> matrix, size_t inner, const float* input, size_t columns, float* output) {
  HWY_DYNAMIC_DISPATCH(multiply)(matrix, inner, input, columns, output);
}

void natural_log(std::span<float> values) { HWY_DYNAMIC_DISPATCH(natural_log)(values); }
// NOLINTEND(misc-const-correctness)

}  // namespace mmedge
#endif  // HWY_ONCE
