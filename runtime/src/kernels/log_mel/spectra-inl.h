// Windowed frames to |X|^2, one frame at a time or one in each SIMD lane, for log_mel_cpu.cc. Included once per target;
// nothing of it is for HWY_SCALAR.
#include <hwy/highway.h>

#include <algorithm>

#include "kernels/log_mel/fft-inl.h"
#include "kernels/log_mel/log_mel_plan.h"

#if defined(MMEDGE_SPECTRA_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MMEDGE_SPECTRA_INL_H_
#undef MMEDGE_SPECTRA_INL_H_
#else
#define MMEDGE_SPECTRA_INL_H_
#endif

#if HWY_TARGET != HWY_SCALAR
HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {

// Four rows that are `stride` apart, and in every further block of four lanes those 4 * stride on.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* p, size_t stride) {
  if constexpr (hn::MaxLanes(d) == 4) {
    return hn::LoadU(d, p);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_blocks(half, p + hn::MaxLanes(half) * stride, stride), load_blocks(half, p, stride));
  }
}

// Transposes each block of 4 x 4.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void transpose_blocks(D d, V r0, V r1, V r2, V r3, V& c0, V& c1, V& c2, V& c3) {
  const hn::Repartition<uint64_t, D> pairs;
  const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, r0, r1));
  const auto low23 = hn::BitCast(pairs, hn::InterleaveLower(d, r2, r3));
  const auto high01 = hn::BitCast(pairs, hn::InterleaveUpper(d, r0, r1));
  const auto high23 = hn::BitCast(pairs, hn::InterleaveUpper(d, r2, r3));
  c0 = hn::BitCast(d, hn::InterleaveLower(pairs, low01, low23));
  c1 = hn::BitCast(d, hn::InterleaveUpper(pairs, low01, low23));
  c2 = hn::BitCast(d, hn::InterleaveLower(pairs, high01, high23));
  c3 = hn::BitCast(d, hn::InterleaveUpper(pairs, high01, high23));
}

// Columns p[0] to p[3] of as many rows as there are lanes.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void load_columns(D d, const float* p, size_t stride, V& c0, V& c1, V& c2, V& c3) {
  transpose_blocks(d, load_blocks(d, p, stride), load_blocks(d, p + stride, stride),
                   load_blocks(d, p + 2 * stride, stride), load_blocks(d, p + 3 * stride, stride), c0, c1, c2, c3);
}

// Row k of the transforms down the columns, times exp(2 pi i k c / n_fft).
template <ptrdiff_t kR, class D, class V = hn::Vec<D>>
HWY_INLINE void twiddle(D d, ptrdiff_t k, V re, V im, V w_re, V w_im, float* out_re, float* out_im) {
  if (k == 0) {
    hn::Store(re, d, out_re);
    hn::Store(hn::Zero(d), d, out_im);
  } else if (2 * k == kR) {  // a real row
    hn::Store(hn::Mul(w_re, re), d, out_re);
    hn::Store(hn::Mul(w_im, re), d, out_im);
  } else {
    hn::Store(hn::NegMulAdd(w_im, im, hn::Mul(w_re, re)), d, out_re);
    hn::Store(hn::MulAdd(w_im, re, hn::Mul(w_re, im)), d, out_im);
  }
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V squared(D /*d*/, V re, V im) {
  return hn::MulAdd(re, re, hn::Mul(im, im));
}

// One frame: first a column, then a row in each lane.
template <ptrdiff_t kR>
HWY_NOINLINE void spectrum_of(LogMelPlan& plan, const float* HWY_RESTRICT frame) {
  const hn::CappedTag<float, kMostLanes> d;
  using V = hn::Vec<decltype(d)>;
  constexpr ptrdiff_t lanes = static_cast<ptrdiff_t>(hn::MaxLanes(d)), rows = kR / 2 + 1;
  const float* HWY_RESTRICT window = plan.window.get();
  const float* HWY_RESTRICT twiddle_re = plan.twiddle_re.get();
  const float* HWY_RESTRICT twiddle_im = plan.twiddle_im.get();
  float* HWY_RESTRICT rows_re = plan.rows_re.get();
  float* HWY_RESTRICT rows_im = plan.rows_im.get();
  for (ptrdiff_t c = 0; c < 16; c += lanes) {
    V x[kR], re[rows], im[rows];
    unroll<0, kR>([&](auto j) MMEDGE_INLINE {
      x[j] = hn::Mul(hn::LoadU(d, frame + 16 * j + c), hn::Load(d, window + 16 * j + c));
    });
    real_dft<kR, 1>(d, x, re, im);
    unroll<0, rows>([&](auto k) MMEDGE_INLINE {
      const ptrdiff_t at = 16 * k + c;
      twiddle<kR>(d, k, re[k], im[k], hn::Load(d, twiddle_re + at), hn::Load(d, twiddle_im + at), rows_re + at,
                  rows_im + at);
    });
  }
  float* bins = plan.bins();
  for (ptrdiff_t k = 0; k < rows; k += lanes) {
    V x_re[16], x_im[16], re[16], im[16];
    unroll<0, 4>([&](auto q) MMEDGE_INLINE {
      constexpr ptrdiff_t at = 4 * q;
      load_columns(d, rows_re + 16 * k + at, 16, x_re[at], x_re[at + 1], x_re[at + 2], x_re[at + 3]);
      load_columns(d, rows_im + 16 * k + at, 16, x_im[at], x_im[at + 1], x_im[at + 2], x_im[at + 3]);
    });
    complex_dft<16, 1>(d, x_re, x_im, re, im);
    // Bin k + R q for q < 8; above n_fft / 2 its mirror, n_fft - k - R q, in descending order along the lanes. Row 0,
    // and R / 2 for even R, mirror themselves.
    const auto direct = hn::FirstN(d, static_cast<size_t>(rows - k));
    const ptrdiff_t mirror_end = std::min(lanes, (kR + 1) / 2 - k);
    unroll<0, 8>([&](auto q)
                     MMEDGE_INLINE { hn::BlendedStore(squared(d, re[q], im[q]), direct, d, bins + kR * q + k); });
    if (k == 0) bins[8 * kR] = hn::GetLane(squared(d, re[8], im[8]));
    if (mirror_end <= 0) continue;
    const auto mirrored = hn::AndNot(hn::FirstN(d, static_cast<size_t>(lanes - mirror_end)),
                                     hn::FirstN(d, static_cast<size_t>(k == 0 ? lanes - 1 : lanes)));
    unroll<8, 16>([&](auto q) MMEDGE_INLINE {
      hn::BlendedStore(hn::Reverse(d, squared(d, re[q], im[q])), mirrored, d, bins + kR * (16 - q) - k - (lanes - 1));
    });
  }
}

// A frame in each lane, from plan.transposed + first on.
template <ptrdiff_t kR>
HWY_NOINLINE void spectra_of(LogMelPlan& plan, size_t first) {
  const hn::CappedTag<float, kMostLanes> d;
  using V = hn::Vec<decltype(d)>;
  constexpr ptrdiff_t lanes = static_cast<ptrdiff_t>(hn::MaxLanes(d)), rows = kR / 2 + 1;
  const float* HWY_RESTRICT transposed = plan.transposed.get() + first;
  const float* HWY_RESTRICT window = plan.window.get();
  const float* HWY_RESTRICT twiddle_re = plan.twiddle_re.get();
  const float* HWY_RESTRICT twiddle_im = plan.twiddle_im.get();
  const size_t* HWY_RESTRICT offset = plan.transposed_offset.data();
  float* HWY_RESTRICT rows_re = plan.rows_re.get();
  float* HWY_RESTRICT rows_im = plan.rows_im.get();
  for (ptrdiff_t c = 0; c < 16; ++c) {
    V x[kR], re[rows], im[rows];
    unroll<0, kR>([&](auto j) MMEDGE_INLINE {
      x[j] = hn::Mul(hn::LoadU(d, transposed + offset[16 * j + c]), hn::Set(d, window[16 * j + c]));
    });
    real_dft<kR, 1>(d, x, re, im);
    unroll<0, rows>([&](auto k) MMEDGE_INLINE {
      const ptrdiff_t at = 16 * k + c;
      twiddle<kR>(d, k, re[k], im[k], hn::Set(d, twiddle_re[at]), hn::Set(d, twiddle_im[at]), rows_re + at * lanes,
                  rows_im + at * lanes);
    });
  }
  float* bins = plan.bins();
  for (ptrdiff_t k = 0; k < rows; ++k) {
    V x_re[16], x_im[16], re[16], im[16];
    unroll<0, 16>([&](auto c) MMEDGE_INLINE {
      x_re[c] = hn::Load(d, rows_re + (16 * k + c) * lanes);
      x_im[c] = hn::Load(d, rows_im + (16 * k + c) * lanes);
    });
    complex_dft<16, 1>(d, x_re, x_im, re, im);
    unroll<0, 8>([&](auto q) MMEDGE_INLINE { hn::Store(squared(d, re[q], im[q]), d, bins + (kR * q + k) * lanes); });
    if (k == 0) hn::Store(squared(d, re[8], im[8]), d, bins + 8 * kR * lanes);
    if (k == 0 || 2 * k == kR) continue;
    unroll<8, 16>([&](auto q)
                      MMEDGE_INLINE { hn::Store(squared(d, re[q], im[q]), d, bins + (kR * (16 - q) - k) * lanes); });
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments): Highway's macro
}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET != HWY_SCALAR

#endif
