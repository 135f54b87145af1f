// Discrete Fourier transforms of short, fixed lengths, one by each thread, in registers. As in fft-inl.h exponents are
// positive, X[k] = sum of x[n] exp(+2 pi i k n / N), and transforms are split in the same way; the roots are constants
// within the instructions.
#pragma once

#include <cuda_runtime.h>

#include "kernels/log_mel/roots.h"

namespace mmedge {

// exp(2 pi i k / kN) for k < kN.
template <int kN>
struct Roots {
  float re[kN], im[kN];
};
template <int kN>
constexpr Roots<kN> make_roots() {
  Roots<kN> roots{};
  for (int k = 0; k < kN; ++k) {
    const Root w = root(k, kN);
    roots.re[k] = static_cast<float>(w.re);
    roots.im[k] = static_cast<float>(w.im);
  }
  return roots;
}
// To be copied to a constant of a function: nvcc knows no address of this one on the device.
template <int kN>
constexpr Roots<kN> kRoots = make_roots<kN>();

// p = a + wb, m = a - wb.
__device__ __forceinline__ void butterfly(float w_re, float w_im, float a_re, float a_im, float b_re, float b_im,
                                          float& p_re, float& p_im, float& m_re, float& m_im) {
  p_re = fmaf(w_re, b_re, fmaf(-w_im, b_im, a_re));
  p_im = fmaf(w_re, b_im, fmaf(w_im, b_re, a_im));
  m_re = fmaf(2.0F, a_re, -p_re);
  m_im = fmaf(2.0F, a_im, -p_im);
}

// Length 5, by Rader's symmetry: sums meet the cosines, differences the sines.
__device__ __forceinline__ void complex_dft5(const float* x_re, const float* x_im, float* re, float* im) {
  constexpr Roots<5> w = kRoots<5>;
  const float a_re = x_re[1] + x_re[4], a_im = x_im[1] + x_im[4], b_re = x_re[2] + x_re[3], b_im = x_im[2] + x_im[3];
  const float c_re = x_re[1] - x_re[4], c_im = x_im[1] - x_im[4], e_re = x_re[2] - x_re[3], e_im = x_im[2] - x_im[3];
  re[0] = x_re[0] + (a_re + b_re);
  im[0] = x_im[0] + (a_im + b_im);
#pragma unroll
  for (int k = 1; k <= 2; ++k) {
    const float m_re = fmaf(w.re[k], a_re, fmaf(w.re[3 - k], b_re, x_re[0]));
    const float m_im = fmaf(w.re[k], a_im, fmaf(w.re[3 - k], b_im, x_im[0]));
    // im[2 * k] is that of the root 2k: the second sine, or minus the first.
    re[k] = fmaf(-w.im[k], c_im, fmaf(-w.im[2 * k], e_im, m_re));
    im[k] = fmaf(w.im[k], c_re, fmaf(w.im[2 * k], e_re, m_im));
    re[5 - k] = fmaf(2.0F, m_re, -re[k]);
    im[5 - k] = fmaf(2.0F, m_im, -im[k]);
  }
}

__device__ __forceinline__ void real_dft5(const float* x, int stride, float* re, float* im) {
  constexpr Roots<5> w = kRoots<5>;
  const float a = x[stride] + x[4 * stride], b = x[2 * stride] + x[3 * stride];
  const float c = x[stride] - x[4 * stride], e = x[2 * stride] - x[3 * stride];
  re[0] = x[0] + (a + b);
#pragma unroll
  for (int k = 1; k <= 2; ++k) {
    re[k] = fmaf(w.re[k], a, fmaf(w.re[3 - k], b, x[0]));
    im[k] = fmaf(w.im[k], c, w.im[2 * k] * e);
  }
}

__device__ __forceinline__ void real_dft25(const float* x, int stride, float* re, float* im) {
  constexpr Roots<25> w = kRoots<25>;
  float y_re[5][3], y_im[5][3], first[5], f_re[3], f_im[3];
#pragma unroll
  for (int b = 0; b < 5; ++b) {
    real_dft5(x + b * stride, 5 * stride, y_re[b], y_im[b]);
    first[b] = y_re[b][0];
  }
  real_dft5(first, 1, f_re, f_im);
  re[0] = f_re[0];
#pragma unroll
  for (int k = 1; k <= 2; ++k) {
    re[5 * k] = f_re[k];
    im[5 * k] = f_im[k];
    float t_re[5], t_im[5], z_re[5], z_im[5];
    t_re[0] = y_re[0][k];
    t_im[0] = y_im[0][k];
#pragma unroll
    for (int b = 1; b < 5; ++b) {
      t_re[b] = fmaf(-w.im[k * b], y_im[b][k], w.re[k * b] * y_re[b][k]);
      t_im[b] = fmaf(w.im[k * b], y_re[b][k], w.re[k * b] * y_im[b][k]);
    }
    complex_dft5(t_re, t_im, z_re, z_im);
#pragma unroll
    for (int q = 0; q < 5; ++q) {
      const int bin = k + 5 * q;
      re[bin <= 12 ? bin : 25 - bin] = z_re[q];
      im[bin <= 12 ? bin : 25 - bin] = bin <= 12 ? z_im[q] : -z_im[q];
    }
  }
}

// The bins 0 to kN / 2 of kN real numbers x[0], x[stride], ...; kN = 2^a, 2^a 5 or 2^a 25. im[0], and im[kN / 2] for
// even kN, are zero by definition and not written.
template <int kN>
__device__ __forceinline__ void real_dft(const float* x, int stride, float* re, float* im) {
  if constexpr (kN == 2) {
    re[0] = x[0] + x[stride];
    re[1] = x[0] - x[stride];
  } else if constexpr (kN == 5) {
    real_dft5(x, stride, re, im);
  } else if constexpr (kN == 25) {
    real_dft25(x, stride, re, im);
  } else {
    constexpr Roots<kN> w = kRoots<kN>;
    constexpr int half = kN / 2;
    float e_re[half / 2 + 1], e_im[half / 2 + 1], o_re[half / 2 + 1], o_im[half / 2 + 1];
    real_dft<half>(x, 2 * stride, e_re, e_im);
    real_dft<half>(x + stride, 2 * stride, o_re, o_im);
    re[0] = e_re[0] + o_re[0];
    re[half] = e_re[0] - o_re[0];
#pragma unroll
    for (int k = 1; 2 * k < half; ++k) {
      float m_im = 0.0F;
      butterfly(w.re[k], w.im[k], e_re[k], e_im[k], o_re[k], o_im[k], re[k], im[k], re[half - k], m_im);
      im[half - k] = -m_im;
    }
    if constexpr (half % 2 == 0) {
      re[half / 2] = e_re[half / 2];
      im[half / 2] = o_re[half / 2];
    }
  }
}

// kN complex numbers x[0], x[stride], ...; kN a power of two.
template <int kN>
__device__ __forceinline__ void complex_dft(const float* x_re, const float* x_im, int stride, float* re, float* im) {
  if constexpr (kN == 1) {
    re[0] = x_re[0];
    im[0] = x_im[0];
  } else {
    constexpr Roots<kN> w = kRoots<kN>;
    constexpr int half = kN / 2;
    float e_re[half], e_im[half], o_re[half], o_im[half];
    complex_dft<half>(x_re, x_im, 2 * stride, e_re, e_im);
    complex_dft<half>(x_re + stride, x_im + stride, 2 * stride, o_re, o_im);
#pragma unroll
    for (int k = 0; k < half; ++k) {
      if (k == 0) {
        re[0] = e_re[0] + o_re[0];
        im[0] = e_im[0] + o_im[0];
        re[half] = e_re[0] - o_re[0];
        im[half] = e_im[0] - o_im[0];
      } else if (4 * k == kN) {
        re[k] = e_re[k] - o_im[k];
        im[k] = e_im[k] + o_re[k];
        re[k + half] = e_re[k] + o_im[k];
        im[k + half] = e_im[k] - o_re[k];
      } else {
        butterfly(w.re[k], w.im[k], e_re[k], e_im[k], o_re[k], o_im[k], re[k], im[k], re[k + half], im[k + half]);
      }
    }
  }
}

}  // namespace mmedge
