// Roots of unity, made by the compiler.
#pragma once

#include <cstddef>
#include <numbers>

namespace mmedge {

// exp(2 pi i k / n): the Taylor series in double, exact to a float's rounding.
struct Root {
  double re, im;
};
constexpr Root root(ptrdiff_t k, ptrdiff_t n) {
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(n);
  Root result{0.0, 0.0};
  double term = 1.0;
  for (int i = 0; i < 40; ++i) {
    const double sign = i % 4 < 2 ? 1.0 : -1.0;
    (i % 2 == 0 ? result.re : result.im) += sign * term;
    term *= angle / (i + 1);
  }
  return result;
}

}  // namespace mmedge
