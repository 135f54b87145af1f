#include "region.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace mmedge {

RegionFinder::RegionFinder(size_t rows, size_t columns)
    : rows_(rows), columns_(columns), waiting_(rows * columns), seen_(rows * columns) {}

std::optional<CellBox> RegionFinder::find(std::span<const float> map, float threshold) {
  const auto largest = static_cast<size_t>(std::max_element(map.begin(), map.end()) - map.begin());
  if (map[largest] < threshold) return std::nullopt;

  // From a cell's centre to the box's edge; nothing towards a neighbour that is of the region too.
  const auto reach = [&](size_t cell, bool inner, ptrdiff_t step) {
    if (!inner) return 0.5;
    const double inside = map[cell], outside = map[cell + static_cast<size_t>(step)];
    return outside >= threshold ? 0.0 : (inside - threshold) / (inside - outside);
  };
  const auto centre = [](size_t index) { return static_cast<double>(index) + 0.5; };
  CellBox box{centre(columns_), centre(rows_), 0, 0}, whole = box;
  const auto across = static_cast<ptrdiff_t>(columns_);
  std::fill(seen_.begin(), seen_.end(), uint8_t{0});
  seen_[largest] = 1;
  waiting_[0] = largest;
  for (size_t count = 1; count > 0;) {
    const size_t cell = waiting_[--count], row = cell / columns_, column = cell % columns_;
    const double x = centre(column), y = centre(row);
    const bool first_column = column == 0, last_column = column + 1 == columns_;
    const bool first_row = row == 0, last_row = row + 1 == rows_;
    box.left = std::min(box.left, x - reach(cell, !first_column, -1));
    box.right = std::max(box.right, x + reach(cell, !last_column, 1));
    box.top = std::min(box.top, y - reach(cell, !first_row, -across));
    box.bottom = std::max(box.bottom, y + reach(cell, !last_row, across));
    whole = {std::min(whole.left, x - 0.5), std::min(whole.top, y - 0.5), std::max(whole.right, x + 0.5),
             std::max(whole.bottom, y + 0.5)};
    for (size_t r = row - !first_row; r <= row + !last_row; ++r) {
      for (size_t c = column - !first_column; c <= column + !last_column; ++c) {
        const size_t next = r * columns_ + c;
        if (seen_[next] != 0 || map[next] < threshold) continue;
        seen_[next] = 1;
        waiting_[count++] = next;
      }
    }
  }
  // Where every cell is exactly the threshold, the crossings leave no width: then whole cells do.
  if (box.right <= box.left) std::tie(box.left, box.right) = std::pair(whole.left, whole.right);
  if (box.bottom <= box.top) std::tie(box.top, box.bottom) = std::pair(whole.top, whole.bottom);
  return box;
}

}  // namespace mmedge
