// Which instructions the kernels are compiled to and dispatched to.
#include <gtest/gtest.h>

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
#endif

}  // namespace mmedge
#endif
