// The box around the most relevant region of a map.
//
// The region is the 8-connected component of cells at or above the threshold that contains the largest.
// Values stand at the centres of cells, so the box ends between a cell of the region (value a) and its neighbour
// outside (value b), where the line from one to the other crosses the threshold t: at (a - t) / (a - b) of the way, as
// marching squares does (Lorensen and Cline 1987). That is exact, not to the cell, where a cell holds the share of it
// that a straight-edged thing covers and t is a half, but for an error of 0.09 cells. At the map's edge it is the edge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace mmedge {

struct CellBox {
  double left, top, right, bottom;  // in cells, from the map's upper left corner; right > left, bottom > top
};

class RegionFinder {
 public:
  RegionFinder(size_t rows, size_t columns);

  // `map` holds finite values, rows * columns of them. Nothing where no cell reaches the threshold. Allocates nothing.
  std::optional<CellBox> find(std::span<const float> map, float threshold);

 private:
  size_t rows_, columns_;
  std::vector<size_t> waiting_;  // cells found and not yet looked around
  std::vector<uint8_t> seen_;
};

}  // namespace mmedge
