#include <algorithm>
#include <cfloat>

#include "kernels/image_to_tensor/image_to_tensor_cuda.h"

namespace mmedge {
namespace {

constexpr int kTileColumns = 32;  // a warp's

int append(std::vector<int32_t>& tables, const std::vector<int32_t>& table) {
  const auto at = static_cast<int>(tables.size());
  tables.insert(tables.end(), table.begin(), table.end());
  return at;
}

struct ChannelBytes {
  int pixel_bytes, first_byte;
};

ChannelBytes bytes_of(SurfaceLayout layout, int channel) {
  switch (layout) {
    case SurfaceLayout::kPlane:
      return {1, 0};
    case SurfaceLayout::kUv:
      return {2, channel};
    case SurfaceLayout::kYuyv:
      return channel == 0 ? ChannelBytes{2, 0} : ChannelBytes{4, 2 * channel - 1};
    case SurfaceLayout::kUyvy:
      return channel == 0 ? ChannelBytes{2, 1} : ChannelBytes{4, 2 * channel - 2};
    case SurfaceLayout::kRgb:
      return {3, channel};
    default:
      return {4, channel};
  }
}

CudaImageChannel add_channel(const ResizedPlane& plane, int c, std::vector<int32_t>& tables) {
  const auto& taps = plane.columns[c].taps;
  std::vector<int32_t> first, count, weights;
  for (const auto& tap : taps) {
    first.push_back(tap.first);
    count.push_back(static_cast<int>(tap.weights.size()));
  }
  for (int i = 0; i < *std::max_element(count.begin(), count.end()); ++i) {
    for (const auto& tap : taps) weights.push_back(tap.at(tap.first + i));
  }
  const auto [pixel_bytes, first_byte] = bytes_of(plane.layout, c);
  return {pixel_bytes, first_byte, append(tables, first), append(tables, count), append(tables, weights)};
}

void add_rows(const QuantisedTaps& rows, CudaImagePlane& plane, std::vector<int32_t>& tables) {
  std::vector<int32_t> first, pairs, weights;
  for (const auto& tap : rows.taps) {
    first.push_back(tap.first);
    pairs.push_back((static_cast<int>(tap.weights.size()) + 1) / 2);
  }
  plane.pairs = *std::max_element(pairs.begin(), pairs.end());
  for (const auto& tap : rows.taps) {
    for (int y = tap.first; y < tap.first + 2 * plane.pairs; y += 2) weights.push_back(tap.at(y) | tap.at(y + 1) << 16);
  }
  plane.shift = rows.bits - 7;
  plane.first_row_table = append(tables, first);
  plane.pairs_table = append(tables, pairs);
  plane.weight_table = append(tables, weights);
}

CudaImagePlane add_plane(const ResizedPlane& from, int tile_offset, int tiles, std::vector<int32_t>& tables) {
  CudaImagePlane plane{};
  const LayoutSize size = size_of(from.layout);
  plane.plane = from.plane;
  plane.channels = size.channels;
  plane.row_bytes = (from.width + size.group_pixels - 1) / size.group_pixels * size.group_bytes;
  plane.height = from.height;
  add_rows(from.rows, plane, tables);
  std::vector<int32_t> begin, end;
  for (int tile = 0; tile < tiles; ++tile) {
    int least = plane.row_bytes, most = 0;
    for (int c = 0; c < size.channels; ++c) {
      const auto [pixel_bytes, first_byte] = bytes_of(from.layout, c);
      const auto& taps = from.columns[c].taps;
      const int columns = static_cast<int>(taps.size());
      const int first = std::clamp(tile * kTileColumns - tile_offset, 0, columns);
      const int last = std::clamp((tile + 1) * kTileColumns - tile_offset, 0, columns);
      for (int i = first; i < last; ++i) {
        const auto& tap = taps[static_cast<size_t>(i)];
        least = std::min(least, tap.first * pixel_bytes + first_byte);
        most = std::max(most, (tap.last() - 1) * pixel_bytes + first_byte + 1);
      }
    }
    begin.push_back(least / 4 * 4);
    end.push_back(most);
  }
  plane.begin_table = append(tables, begin);
  plane.end_table = append(tables, end);
  for (int c = 0; c < size.channels; ++c) plane.channel[c] = add_channel(from, c, tables);
  return plane;
}

}  // namespace

CudaImagePlan make_cuda_image_plan(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  const ImageConversion conversion = make_image_conversion(spec, geometry);
  CudaImagePlan plan;
  CudaImageKernel& kernel = plan.kernel;
  kernel.inputs = conversion.inputs;
  kernel.turned = conversion.turned;
  kernel.flip_columns = conversion.flip_columns;
  kernel.flip_rows = conversion.flip_rows;
  kernel.columns = conversion.columns;
  kernel.rows = conversion.rows;
  kernel.full_columns = conversion.turned ? spec.height : spec.width;
  kernel.full_rows = conversion.turned ? spec.width : spec.height;
  const int left = conversion.turned ? conversion.top : conversion.left;
  const int top = conversion.turned ? conversion.left : conversion.top;
  kernel.left = conversion.flip_columns ? kernel.full_columns - left - conversion.columns : left;
  kernel.top = conversion.flip_rows ? kernel.full_rows - top - conversion.rows : top;
  kernel.width = spec.width;
  kernel.height = spec.height;
  kernel.channels = spec.channel_count();
  kernel.layout = spec.layout;
  kernel.type = spec.type;
  kernel.zero_point = spec.zero_point;
  const bool clamps = conversion.color != ColorMode::kScale;
  for (int c = 0; c < 3; ++c) {
    kernel.order[c] = conversion.order[c];
    std::copy_n(conversion.factor[c], 3, kernel.factor[c]);
    kernel.offset[c] = conversion.offset[c];
    kernel.least[c] = clamps ? conversion.least[c] : -FLT_MAX;
    kernel.most[c] = clamps ? conversion.most[c] : FLT_MAX;
    kernel.pad[c] = conversion.pad[c];
  }
  const int tiles = (kernel.full_columns + kTileColumns - 1) / kTileColumns;
  for (const ResizedPlane& plane : conversion.planes) {
    kernel.planes[kernel.plane_count++] = add_plane(plane, kernel.left, tiles, plan.tables);
  }
  return plan;
}

}  // namespace mmedge
