// Cells of exactly the threshold; the rest is seen through sessions, in test_tasks.cc.
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "region.h"

namespace mmedge {
namespace {

constexpr float kThreshold = 0.5F;

// Left, top, right, bottom.
std::vector<double> box_of(size_t rows, size_t columns, const std::vector<float>& map) {
  const std::optional<CellBox> box = RegionFinder(rows, columns).find(map, kThreshold);
  if (!box) return {};
  return {box->left, box->top, box->right, box->bottom};
}

TEST(Region, ReachesTheCentreOfACellThatIsExactlyTheThreshold) {
  EXPECT_EQ(box_of(1, 3, {1, 0.5F, 0}), (std::vector<double>{0, 0, 1.5, 1}));
  EXPECT_EQ(box_of(3, 1, {0, 0.5F, 1}), (std::vector<double>{0, 1.5, 1, 3}));
  // By a corner too.
  EXPECT_EQ(box_of(3, 3, {1, 0, 0, 0, 0.5F, 0, 0, 0, 0}), (std::vector<double>{0, 0, 1.5, 1.5}));
  EXPECT_EQ(box_of(1, 3, {1, 0.25F, 0.5F}), (std::vector<double>{0, 0, 0.5 + 2.0 / 3, 1})) << "not over a gap";
}

TEST(Region, OfNoMoreThanTheThresholdIsItsWholeCells) {
  EXPECT_EQ(box_of(3, 4, {0, 0, 0, 0, 0, 0.5F, 0, 0, 0, 0, 0, 0}), (std::vector<double>{1, 1, 2, 2}));
  // Of two cells the crossings leave a width, and no height.
  EXPECT_EQ(box_of(3, 4, {0, 0, 0, 0, 0, 0.5F, 0.5F, 0, 0, 0, 0, 0}), (std::vector<double>{1.5, 1, 2.5, 2}));
  EXPECT_EQ(box_of(4, 3, {0, 0, 0, 0, 0.5F, 0, 0, 0.5F, 0, 0, 0, 0}), (std::vector<double>{1, 1.5, 2, 2.5}));
}

TEST(Region, BelowTheThresholdIsNone) { EXPECT_EQ(box_of(1, 2, {0.4999F, 0}), std::vector<double>()); }

}  // namespace
}  // namespace mmedge
