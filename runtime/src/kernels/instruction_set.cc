#include "kernels/instruction_set.h"

#include <hwy/targets.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string_view>

#include "error.h"

namespace mmedge {
namespace {

struct Limit {
  std::string_view name;
  int64_t target;
};

// From the least to the best; in a target mask a better one is a lower bit.
constexpr Limit kLimits[] = {{"ssse3", HWY_SSSE3}, {"sse4", HWY_SSE4},       {"avx2", HWY_AVX2},
                             {"avx3", HWY_AVX3},   {"avx3_dl", HWY_AVX3_DL}, {"neon", HWY_NEON}};

bool limit_from_environment() {
  const char* wanted = std::getenv("MMEDGE_MAX_ISA");
  if (wanted == nullptr || *wanted == '\0') return true;
  for (const auto& [name, target] : kLimits) {
    if (name != wanted) continue;
    hwy::DisableTargets(target - 1);
    return true;
  }
  fail(MME_INVALID_ARGUMENT, "MMEDGE_MAX_ISA is \"", wanted, "\"; expected ssse3, sse4, avx2, avx3, avx3_dl or neon");
}

}  // namespace

void choose_instruction_set() {
  static const bool chosen = limit_from_environment();
  static_cast<void>(chosen);
}

const char* instruction_set() {
  choose_instruction_set();
  const int64_t supported = hwy::SupportedTargets();
  // Asking made the next dispatch forget the limit.
  hwy::GetChosenTarget().Update(supported);
  const int64_t targets = supported & HWY_TARGETS;
  return hwy::TargetName(targets & -targets);
}

bool sums_bytes_in_16_bits() {
#if defined(__x86_64__) || defined(__i386__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  // AVX-VNNI is bit 4 of leaf 7, 1; compilers before clang 19 have no name for it.
  const bool has_avx_vnni = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
  return !has_avx_vnni && !__builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

}  // namespace mmedge
