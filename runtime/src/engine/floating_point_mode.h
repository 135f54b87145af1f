// Denormals as zero for one scope, in this thread only: the caller's own mode is put back, whatever was set inside.
#pragma once

#include <cfenv>
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mmedge {

class FloatingPointMode {
 public:
  explicit FloatingPointMode(bool flush_denormals) {
    std::fegetenv(&saved_);
    if (!flush_denormals) return;
#if defined(__x86_64__)
    constexpr unsigned flush_to_zero = 0x8000, denormals_are_zero = 0x0040;
    _mm_setcsr(_mm_getcsr() | flush_to_zero | denormals_are_zero);
#elif defined(__aarch64__)
    constexpr uint64_t flush_to_zero = uint64_t{1} << 24;
    uint64_t control = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    __asm__ volatile("msr fpcr, %0" : : "r"(control | flush_to_zero));
#endif
  }
  FloatingPointMode(const FloatingPointMode&) = delete;
  FloatingPointMode& operator=(const FloatingPointMode&) = delete;
  ~FloatingPointMode() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
};

}  // namespace mmedge
