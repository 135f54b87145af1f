#include "kernels/image_to_tensor/image_to_tensor_plan.h"

#include <algorithm>
#include <utility>

namespace mmedge {
namespace {

uint32_t pack(int low, int high) { return static_cast<uint32_t>(low) | static_cast<uint32_t>(high) << 16; }

// Rows are visited once and given to both outputs that share them. Where a third shares one (upscaling), the step is
// repeated for it.
RowSchedule schedule_rows(const QuantisedTaps& quantised) {
  RowSchedule schedule;
  schedule.bits = quantised.bits;
  const auto& taps = quantised.taps;
  for (size_t begin = 0; begin < taps.size(); begin += kStripRows) {
    const size_t end = std::min<size_t>(begin + kStripRows, taps.size());
    int done = 0;  // rows before it have been given to output i
    int first_row = taps[begin].first, last_row = taps[begin].last();
    for (size_t i = begin; i < end; ++i) {
      schedule.ends.push_back(static_cast<int>(schedule.steps.size()));
      const Taps<int> none{taps[i].last(), {}};
      const Taps<int>&current = taps[i], &next = i + 1 < end ? taps[i + 1] : none;
      const auto step_weights = [&](int y) { return std::pair{y < done ? 0 : current.at(y), next.at(y)}; };
      const int start = std::min(std::max(current.first, done), next.first);
      for (int y = start; y < current.last(); y += 2) {
        const int second = y + 1 < current.last() ? 1 : 0;
        const auto [current_low, next_low] = step_weights(y);
        const auto [current_high, next_high] = second != 0 ? step_weights(y + 1) : std::pair{0, 0};
        schedule.steps.push_back({y, second, pack(current_low, current_high), pack(next_low, next_high)});
      }
      done = std::max(start, current.last());
      first_row = std::min(first_row, current.first);
      last_row = std::max(last_row, current.last());
    }
    schedule.first_row.push_back(first_row);
    schedule.last_row.push_back(last_row);
  }
  schedule.ends.push_back(static_cast<int>(schedule.steps.size()));
  return schedule;
}

ColumnTaps pair_columns(const QuantisedTaps& quantised, int origin, int block_pairs) {
  ColumnTaps columns;
  columns.bits = quantised.bits;
  const auto& taps = quantised.taps;
  for (const auto& tap : taps) {
    columns.first.push_back((tap.first - origin) / 2);
    columns.pairs = std::max(columns.pairs, (tap.last() - 1 - origin) / 2 + 1 - columns.first.back());
  }
  for (size_t i = 0; i < taps.size(); ++i) {
    for (int pair = 0; pair < columns.pairs; ++pair) {
      const int x = origin + 2 * (columns.first[i] + pair);
      columns.weights.push_back(pack(taps[i].at(x), taps[i].at(x + 1)));
    }
  }
  for (size_t begin = 0; begin < taps.size(); begin += kTileColumns) {
    int last = 0;
    for (size_t i = begin; i < std::min<size_t>(begin + kTileColumns, taps.size()); ++i) {
      last = std::max(last, (taps[i].last() - 1 - origin) / 2 + 1);
    }
    columns.tile_first.push_back(
        *std::min_element(columns.first.begin() + static_cast<ptrdiff_t>(begin), columns.first.end()));
    columns.tile_last.push_back(last);
    columns.capacity = std::max(columns.capacity, last - columns.tile_first.back() + block_pairs);
  }
  // Room for a few blocks between two moves of the window's live part to its front.
  columns.capacity = std::max(columns.capacity, 4 * block_pairs);
  return columns;
}

// Pairs of columns of channel `channel` in one block of the row pass.
int pairs_per_block(SurfaceLayout layout, int channel) {
  switch (layout) {
    case SurfaceLayout::kPlane:
    case SurfaceLayout::kRgb:
      return kMostBlockBytes / 2;
    case SurfaceLayout::kUv:
      return kMostBlockBytes / 4;
    case SurfaceLayout::kYuyv:
    case SurfaceLayout::kUyvy:
      return kMostBlockBytes / (channel == 0 ? 4 : 8);
    default:
      return kMostBlockBytes / 8;
  }
}

Surface make_surface(const ResizedPlane& plane) {
  Surface surface;
  surface.plane = plane.plane;
  surface.layout = plane.layout;
  surface.rows = schedule_rows(plane.rows);
  const LayoutSize size = size_of(plane.layout);
  surface.channels = size.channels;
  const int first_group = plane.first / size.group_pixels;
  surface.first_byte = first_group * size.group_bytes;
  surface.row_bytes = (plane.width + size.group_pixels - 1) / size.group_pixels * size.group_bytes - surface.first_byte;
  surface.used_bytes = ((plane.last - 1) / size.group_pixels + 1 - first_group) * size.group_bytes;
  for (int c = 0; c < size.channels; ++c) {
    const bool subsampled = size.group_pixels == 2 && c > 0;
    surface.block_pairs[c] = pairs_per_block(plane.layout, c);
    surface.columns[c] = pair_columns(plane.columns[c], subsampled ? first_group : first_group * size.group_pixels,
                                      surface.block_pairs[c]);
  }
  return surface;
}

void lay_out_workspace(ImagePlan& plan) {
  const auto take = [&plan](size_t count) {
    return std::exchange(plan.workspace, plan.workspace + (count + 15) / 16 * 16);
  };
  int input = 0;
  for (Surface& surface : plan.surfaces) {
    for (int c = 0; c < surface.channels; ++c) {
      const ColumnTaps& columns = surface.columns[c];
      // An output's taps are padded to `pairs`: they may look past what was computed, at zero weight.
      plan.windows[input++] = take(static_cast<size_t>((columns.capacity + columns.pairs) * kStripRows));
    }
    int rows = 0;
    for (size_t i = 0; i < surface.rows.first_row.size(); ++i) {
      rows = std::max(rows, surface.rows.last_row[i] - surface.rows.first_row[i]);
    }
    const int block_bytes = surface.layout == SurfaceLayout::kRgb ? 3 * kMostBlockBytes : kMostBlockBytes;
    surface.tail = take(static_cast<size_t>(rows) * static_cast<size_t>(block_bytes) / sizeof(int32_t));
  }
}

}  // namespace

ImagePlan make_image_plan(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  ImagePlan plan{make_image_conversion(spec, geometry), {}, {}, 0};
  for (const ResizedPlane& plane : plan.planes) plan.surfaces.push_back(make_surface(plane));
  lay_out_workspace(plan);
  return plan;
}

}  // namespace mmedge
