// Which instructions the kernels are compiled to and dispatched to.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "kernels/instruction_set.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "test_instruction_set.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {

const char* compiled_for() { return hwy::TargetName(HWY_TARGET); }

}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mmedge {

HWY_EXPORT(compiled_for);

TEST(InstructionSet, TheNameIsOfTheCodeThatIsDispatchedTo) {
  choose_instruction_set();
  EXPECT_STREQ(HWY_DYNAMIC_DISPATCH(compiled_for)(), instruction_set());
  EXPECT_STREQ(HWY_DYNAMIC_DISPATCH(compiled_for)(), instruction_set()) << "asking for the name changed the code";
}

#if defined(__aarch64__)
TEST(InstructionSet, OnAarch64ItIsNeon) { EXPECT_STREQ(instruction_set(), "NEON"); }

TEST(InstructionSet, OnAarch64NoSumIsOf16Bits) { EXPECT_FALSE(sums_bytes_in_16_bits()); }
#else
TEST(InstructionSet, SumsAreOf16BitsWhereTheKernelSeesNoVnni) {
  std::ifstream file("/proc/cpuinfo");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  ASSERT_NE(text.find("flags"), std::string::npos);
  const bool has_vnni = text.find("avx512_vnni") != std::string::npos || text.find("avx_vnni") != std::string::npos;
  EXPECT_EQ(sums_bytes_in_16_bits(), !has_vnni);
}
#endif

}  // namespace mmedge
#endif
