// Discrete Fourier transforms of short, fixed lengths, one transform per SIMD lane. Compiled once per instruction set:
// include from a file that foreach_target.h includes again and again, inside no namespace.
//
// All transforms have a positive exponent, X[k] = sum of x[n] exp(+2 pi i k n / N): for real input the conjugate of the
// usual one, of equal magnitude, and cheaper by the negations.
//
// Sources: Cooley and Tukey (1965) for the halving; the 3-multiply-add butterfly is Linzer and Feig, "Implementation of
// efficient FFT algorithms on fused multiply-add architectures" (1993), in the plain form a + wb, then 2a - (a + wb).
#include <hwy/highway.h>

#include <cstddef>
#include <utility>

#include "kernels/log_mel/roots.h"

#if defined(MMEDGE_FFT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MMEDGE_FFT_INL_H_
#undef MMEDGE_FFT_INL_H_
#else
#define MMEDGE_FFT_INL_H_
#endif

// For lambdas: one that is called instead passes its vectors through memory.
#undef MMEDGE_INLINE
#define MMEDGE_INLINE HWY_ATTR __attribute__((always_inline))

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// body(0), body(1), ... with the index as a constant.
template <class Body, size_t... I>
HWY_INLINE void unrolled(Body body, std::index_sequence<I...> /*indices*/) {
  (body(std::integral_constant<ptrdiff_t, static_cast<ptrdiff_t>(I)>()), ...);
}
template <ptrdiff_t kFirst, ptrdiff_t kEnd, class Body>
HWY_INLINE void unroll(Body body) {
  if constexpr (kFirst < kEnd) {
    unrolled([&](auto i) MMEDGE_INLINE { body(std::integral_constant<ptrdiff_t, kFirst + i>()); },
             std::make_index_sequence<static_cast<size_t>(kEnd - kFirst)>());
  }
}

// p = a + wb, m = a - wb or its conjugate, for w = exp(2 pi i kK / kN); 6 operations.
template <ptrdiff_t kK, ptrdiff_t kN, bool kConjugate, class D, class V = hn::Vec<D>>
HWY_INLINE void butterfly(D d, V a_re, V a_im, V b_re, V b_im, V& p_re, V& p_im, V& m_re, V& m_im) {
  constexpr Root w = root(kK, kN);
  const V w_re = hn::Set(d, static_cast<float>(w.re)), w_im = hn::Set(d, static_cast<float>(w.im));
  const V two = hn::Set(d, 2.0F);
  p_re = hn::MulAdd(w_re, b_re, hn::NegMulAdd(w_im, b_im, a_re));
  p_im = hn::MulAdd(w_re, b_im, hn::MulAdd(w_im, b_re, a_im));
  m_re = hn::MulSub(two, a_re, p_re);
  m_im = kConjugate ? hn::NegMulAdd(two, a_im, p_im) : hn::MulSub(two, a_im, p_im);
}

// Length 5 of complex numbers, by Rader's symmetry: sums meet the cosines, differences the sines.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void complex_dft5(D d, const V* x_re, const V* x_im, V* re, V* im) {
  const V c1 = hn::Set(d, static_cast<float>(root(1, 5).re)), c2 = hn::Set(d, static_cast<float>(root(2, 5).re));
  const V s1 = hn::Set(d, static_cast<float>(root(1, 5).im)), s2 = hn::Set(d, static_cast<float>(root(2, 5).im));
  const V two = hn::Set(d, 2.0F);
  const V a_re = hn::Add(x_re[1], x_re[4]), a_im = hn::Add(x_im[1], x_im[4]);
  const V b_re = hn::Add(x_re[2], x_re[3]), b_im = hn::Add(x_im[2], x_im[3]);
  const V c_re = hn::Sub(x_re[1], x_re[4]), c_im = hn::Sub(x_im[1], x_im[4]);
  const V e_re = hn::Sub(x_re[2], x_re[3]), e_im = hn::Sub(x_im[2], x_im[3]);
  re[0] = hn::Add(x_re[0], hn::Add(a_re, b_re));
  im[0] = hn::Add(x_im[0], hn::Add(a_im, b_im));
  const V m1_re = hn::MulAdd(c1, a_re, hn::MulAdd(c2, b_re, x_re[0]));
  const V m1_im = hn::MulAdd(c1, a_im, hn::MulAdd(c2, b_im, x_im[0]));
  const V m2_re = hn::MulAdd(c2, a_re, hn::MulAdd(c1, b_re, x_re[0]));
  const V m2_im = hn::MulAdd(c2, a_im, hn::MulAdd(c1, b_im, x_im[0]));
  re[1] = hn::NegMulAdd(s1, c_im, hn::NegMulAdd(s2, e_im, m1_re));
  im[1] = hn::MulAdd(s1, c_re, hn::MulAdd(s2, e_re, m1_im));
  re[4] = hn::MulSub(two, m1_re, re[1]);
  im[4] = hn::MulSub(two, m1_im, im[1]);
  re[2] = hn::NegMulAdd(s2, c_im, hn::MulAdd(s1, e_im, m2_re));
  im[2] = hn::MulAdd(s2, c_re, hn::NegMulAdd(s1, e_re, m2_im));
  re[3] = hn::MulSub(two, m2_re, re[2]);
  im[3] = hn::MulSub(two, m2_im, im[2]);
}

// The bins 0 to kN / 2 of kN real numbers x[0], x[kStride], ...; kN = 2^a, 2^a 5 or 2^a 25. im[0], and im[kN / 2] for
// even kN, are zero by definition and not written.
template <ptrdiff_t kN, ptrdiff_t kStride, class D, class V = hn::Vec<D>>
HWY_INLINE void real_dft(D d, const V* x, V* re, V* im) {
  if constexpr (kN == 2) {
    re[0] = hn::Add(x[0], x[kStride]);
    re[1] = hn::Sub(x[0], x[kStride]);
  } else if constexpr (kN == 5) {
    const V c1 = hn::Set(d, static_cast<float>(root(1, 5).re)), c2 = hn::Set(d, static_cast<float>(root(2, 5).re));
    const V s1 = hn::Set(d, static_cast<float>(root(1, 5).im)), s2 = hn::Set(d, static_cast<float>(root(2, 5).im));
    const V a = hn::Add(x[kStride], x[4 * kStride]), b = hn::Add(x[2 * kStride], x[3 * kStride]);
    const V c = hn::Sub(x[kStride], x[4 * kStride]), e = hn::Sub(x[2 * kStride], x[3 * kStride]);
    re[0] = hn::Add(x[0], hn::Add(a, b));
    re[1] = hn::MulAdd(c1, a, hn::MulAdd(c2, b, x[0]));
    re[2] = hn::MulAdd(c2, a, hn::MulAdd(c1, b, x[0]));
    im[1] = hn::MulAdd(s1, c, hn::Mul(s2, e));
    im[2] = hn::NegMulAdd(s1, e, hn::Mul(s2, c));
  } else if constexpr (kN == 25) {
    V y_re[5][3], y_im[5][3];
    unroll<0, 5>([&](auto b) MMEDGE_INLINE { real_dft<5, 5 * kStride>(d, x + b * kStride, y_re[b], y_im[b]); });
    V first[5], f_re[3], f_im[3];
    unroll<0, 5>([&](auto b) MMEDGE_INLINE { first[b] = y_re[b][0]; });
    real_dft<5, 1>(d, first, f_re, f_im);
    unroll<0, 3>([&](auto k) MMEDGE_INLINE { re[5 * k] = f_re[k]; });
    unroll<1, 3>([&](auto k) MMEDGE_INLINE { im[5 * k] = f_im[k]; });
    unroll<1, 3>([&](auto k) MMEDGE_INLINE {
      V t_re[5], t_im[5], z_re[5], z_im[5];
      t_re[0] = y_re[0][k];
      t_im[0] = y_im[0][k];
      unroll<1, 5>([&](auto b) MMEDGE_INLINE {
        constexpr Root w = root(k * b, 25);
        const V w_re = hn::Set(d, static_cast<float>(w.re)), w_im = hn::Set(d, static_cast<float>(w.im));
        t_re[b] = hn::NegMulAdd(w_im, y_im[b][k], hn::Mul(w_re, y_re[b][k]));
        t_im[b] = hn::MulAdd(w_im, y_re[b][k], hn::Mul(w_re, y_im[b][k]));
      });
      complex_dft5(d, t_re, t_im, z_re, z_im);
      unroll<0, 5>([&](auto q) MMEDGE_INLINE {
        constexpr ptrdiff_t bin = k + 5 * q;
        re[bin <= 12 ? bin : 25 - bin] = z_re[q];
        im[bin <= 12 ? bin : 25 - bin] = bin <= 12 ? z_im[q] : hn::Neg(z_im[q]);
      });
    });
  } else {
    constexpr ptrdiff_t half = kN / 2;
    V e_re[half / 2 + 1], e_im[half / 2 + 1], o_re[half / 2 + 1], o_im[half / 2 + 1];
    real_dft<half, 2 * kStride>(d, x, e_re, e_im);
    real_dft<half, 2 * kStride>(d, x + kStride, o_re, o_im);
    re[0] = hn::Add(e_re[0], o_re[0]);
    re[half] = hn::Sub(e_re[0], o_re[0]);
    unroll<1, (half + 1) / 2>([&](auto k) MMEDGE_INLINE {
      butterfly<k, kN, true>(d, e_re[k], e_im[k], o_re[k], o_im[k], re[k], im[k], re[half - k], im[half - k]);
    });
    if constexpr (half % 2 == 0) {
      re[half / 2] = e_re[half / 2];
      im[half / 2] = o_re[half / 2];
    }
  }
}

// kN complex numbers x[0], x[kStride], ...; kN a power of two.
template <ptrdiff_t kN, ptrdiff_t kStride, class D, class V = hn::Vec<D>>
HWY_INLINE void complex_dft(D d, const V* x_re, const V* x_im, V* re, V* im) {
  if constexpr (kN == 1) {
    re[0] = x_re[0];
    im[0] = x_im[0];
  } else {
    constexpr ptrdiff_t half = kN / 2;
    V e_re[half], e_im[half], o_re[half], o_im[half];
    complex_dft<half, 2 * kStride>(d, x_re, x_im, e_re, e_im);
    complex_dft<half, 2 * kStride>(d, x_re + kStride, x_im + kStride, o_re, o_im);
    unroll<0, half>([&](auto k) MMEDGE_INLINE {
      if constexpr (k == 0) {
        re[0] = hn::Add(e_re[0], o_re[0]);
        im[0] = hn::Add(e_im[0], o_im[0]);
        re[half] = hn::Sub(e_re[0], o_re[0]);
        im[half] = hn::Sub(e_im[0], o_im[0]);
      } else if constexpr (4 * k == kN) {
        re[k] = hn::Sub(e_re[k], o_im[k]);
        im[k] = hn::Add(e_im[k], o_re[k]);
        re[k + half] = hn::Add(e_re[k], o_im[k]);
        im[k + half] = hn::Sub(e_im[k], o_re[k]);
      } else {
        butterfly<k, kN, false>(d, e_re[k], e_im[k], o_re[k], o_im[k], re[k], im[k], re[k + half], im[k + half]);
      }
    });
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments): Highway's macro
}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
