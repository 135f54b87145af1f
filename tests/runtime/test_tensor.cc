// Tensors where memory runs out.
#include <gtest/gtest.h>

#include <algorithm>

#include "error.h"
#include "tensor.h"

namespace mmedge {
namespace {

class Scarce : public HostMemory {
 public:
  explicit Scarce(bool throws) : throws_(throws) {}
  void* allocate(size_t bytes) override {
    if (bytes <= 64) return std::aligned_alloc(64, bytes);
    if (throws_) fail(MME_OUT_OF_MEMORY, "no more");
    return nullptr;
  }
  void release(void* memory) noexcept override { std::free(memory); }

 private:
  bool throws_;
};

TEST(TensorTest, KeepsWhatItHasWhereThereIsNoMoreMemory) {
  for (const bool throws : {false, true}) {
    Scarce memory(throws);
    Tensor tensor(ElementType::kFloat32, &memory);
    const int64_t small[] = {2, 3}, large[] = {1000};
    tensor.resize(ElementType::kFloat32, small);
    std::ranges::fill(tensor.values<float>(), 1.5F);
    for (int again = 0; again < 2; ++again) {
      EXPECT_ANY_THROW(tensor.resize(ElementType::kUint8, large));
      EXPECT_TRUE(std::ranges::equal(tensor.shape(), small));
      EXPECT_EQ(tensor.bytes(), 24U);
      EXPECT_EQ(std::ranges::count(tensor.values<float>(), 1.5F), 6);
    }
  }
}

}  // namespace
}  // namespace mmedge
