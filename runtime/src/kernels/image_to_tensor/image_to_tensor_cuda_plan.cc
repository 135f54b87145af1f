#include <algorithm>
#include <cfloat>
#include <climits>
#include <utility>

#include "kernels/image_to_tensor/image_to_tensor_cuda.h"

namespace mmedge {
namespace {

constexpr int kLanes = 32;
constexpr int kSector = 32, kEight = 8;  // bytes: what a GPU reads of memory, and a lane of resized rows

int divide_up(int a, int b) { return (a + b - 1) / b; }

// At a multiple of 16 bytes.
int append(std::vector<int32_t>& tables, const std::vector<int32_t>& table) {
  tables.resize((tables.size() + 3) / 4 * 4);
  const auto at = static_cast<int>(tables.size());
  tables.insert(tables.end(), table.begin(), table.end());
  return at;
}

// Sample x of a channel is byte first + x * step of a row.
struct ChannelBytes {
  int step, first;
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

// Of source rows or of bytes; of none, end is 0.
struct Range {
  int begin, end;

  int size() const { return end - begin; }
};

// Outputs `first` and on, `count` of them, of an axis whose picture begins at `offset`: those that have taps.
std::vector<std::pair<int, const Taps<int>*>> taps_of(const QuantisedTaps& axis, int offset, int first, int count) {
  std::vector<std::pair<int, const Taps<int>*>> found;
  for (int i = 0; i < count; ++i) {
    const int at = first + i - offset;
    if (at >= 0 && at < std::ssize(axis.taps)) found.emplace_back(i, &axis.taps[static_cast<size_t>(at)]);
  }
  return found;
}

// Weights as the lanes of some products need them: kWords of low bytes for each lane, then as many of high bytes.
template <int kWords>
class LaneWeights {
 public:
  explicit LaneWeights(int products) : words_(static_cast<size_t>(products) * kLanes * 2 * kWords) {}

  // `byte` of a lane's.
  void set(int product, int lane, int byte, int weight) {
    const size_t to = (static_cast<size_t>(product) * kLanes + static_cast<size_t>(lane)) * 2 * kWords;
    const auto word = static_cast<size_t>(byte / 4);
    words_[to + word] |= (weight & 0xff) << (8 * (byte % 4));
    words_[to + kWords + word] |= (weight >> 8) << (8 * (byte % 4));
  }

  const std::vector<int32_t>& words() const { return words_; }

 private:
  std::vector<int32_t> words_;
};

void add_rows(const QuantisedTaps& axis, int height, const CudaImageKernel& kernel, CudaImagePlane& plane,
              std::vector<int32_t>& tables) {
  const int strips = divide_up(kernel.full_rows, kCudaImageStrip);
  std::vector<int32_t> rows;
  int most = 0;
  for (int strip = 0; strip < strips; ++strip) {
    Range range{INT_MAX, 0};
    for (const auto& [row, taps] : taps_of(axis, kernel.top, strip * kCudaImageStrip, kCudaImageStrip)) {
      range = {std::min(range.begin, taps->first), std::max(range.end, taps->last())};
    }
    // A multiple of four, if the plane has as many.
    const int count = range.end == 0 ? 0 : std::min(divide_up(range.size(), 4) * 4, height);
    rows.push_back(range.end == 0 ? 0 : std::min(range.begin, height - count));
    rows.push_back(count);
    plane.whole = plane.whole && count % 4 == 0;
    most = std::max(most, count);
  }
  plane.row_steps = divide_up(most, kCudaImageRowStep);
  LaneWeights<1> weights(strips * plane.row_steps);
  for (int strip = 0; strip < strips; ++strip) {
    for (const auto& [row, taps] : taps_of(axis, kernel.top, strip * kCudaImageStrip, kCudaImageStrip)) {
      for (int y = taps->first; y < taps->last(); ++y) {
        const int offset = y - rows[2 * static_cast<size_t>(strip)];
        const int lane = row * 4 + offset % kCudaImageRowStep / 4;
        weights.set(strip * plane.row_steps + offset / kCudaImageRowStep, lane, offset % 4, taps->at(y));
      }
    }
  }
  plane.scale = 1U << (16 - (axis.bits - 7));
  plane.rows_table = append(tables, rows);
  plane.row_weight_table = append(tables, weights.words());
}

// The bytes of a plane's row that some groups of output columns need, from a multiple of `alignment` on.
Range bytes_of_groups(const ResizedPlane& plane, const CudaImageKernel& kernel, int first, int count, int alignment) {
  Range range{INT_MAX, 0};
  for (int c = 0; c < 3 && c < size_of(plane.layout).channels; ++c) {
    const auto [step, first_byte] = bytes_of(plane.layout, c);
    const int columns = count * kCudaImageGroup;
    for (const auto& [column, taps] : taps_of(plane.columns[c], kernel.left, first * kCudaImageGroup, columns)) {
      range.begin = std::min(range.begin, first_byte + taps->first * step);
      range.end = std::max(range.end, first_byte + (taps->last() - 1) * step + 1);
    }
  }
  return range.end == 0 ? Range{0, 0} : Range{range.begin / alignment * alignment, range.end};
}

void add_columns(const ResizedPlane& from, const CudaImageKernel& kernel, CudaImagePlane& plane,
                 std::vector<int32_t>& tables) {
  const int groups = divide_up(kernel.full_columns, kCudaImageGroup);
  std::vector<int32_t> first;
  int most = 0;
  for (int group = 0; group < groups; ++group) {
    const Range bytes = bytes_of_groups(from, kernel, group, 1, kEight);
    first.push_back(bytes.begin);
    most = std::max(most, bytes.size());
  }
  plane.column_steps = divide_up(most, kCudaImageColumnStep);
  plane.first_byte_table = append(tables, first);
  LaneWeights<2> weights(groups * plane.channels * plane.column_steps);
  for (int group = 0; group < groups; ++group) {
    for (int c = 0; c < plane.channels; ++c) {
      const auto [step, first_byte] = bytes_of(from.layout, c);
      const int product = (group * plane.channels + c) * plane.column_steps;
      for (const auto& [column, taps] :
           taps_of(from.columns[c], kernel.left, group * kCudaImageGroup, kCudaImageGroup)) {
        for (int x = taps->first; x < taps->last(); ++x) {
          const int offset = first_byte + x * step - first[static_cast<size_t>(group)];
          const int lane = column * 4 + offset % kCudaImageColumnStep / kEight;
          weights.set(product + offset / kCudaImageColumnStep, lane, offset % kEight, taps->at(x));
        }
      }
    }
  }
  plane.column_weight_table = append(tables, weights.words());
}

// Tiles of one group, and wider ones whose bytes are held at once, in each plane.
void add_tilings(const std::vector<ResizedPlane>& planes, CudaImagePlan& plan) {
  const int groups = divide_up(plan.kernel.full_columns, kCudaImageGroup);
  for (int size = 1; size <= kCudaImageTileGroups; size *= 2) {
    CudaImageTiling tiling{size, {}};
    std::vector<std::vector<int32_t>> tables(planes.size());
    for (size_t p = 0; p < planes.size(); ++p) {
      for (int group = 0; group < groups; group += size) {
        const Range bytes = bytes_of_groups(planes[p], plan.kernel, group, size, kSector);
        if (size > 1 && bytes.size() > kCudaImageSpan) return;
        tables[p].push_back(bytes.begin);
        tables[p].push_back(bytes.end);
      }
    }
    for (size_t p = 0; p < planes.size(); ++p) tiling.bytes_table[p] = append(plan.tables, tables[p]);
    plan.tilings.push_back(tiling);
  }
}

CudaImagePlane add_plane(const ResizedPlane& from, const CudaImageKernel& kernel, std::vector<int32_t>& tables) {
  CudaImagePlane plane{};
  const LayoutSize size = size_of(from.layout);
  plane.plane = from.plane;
  plane.channels = size.channels;
  plane.row_bytes = (from.width + size.group_pixels - 1) / size.group_pixels * size.group_bytes;
  plane.whole = plane.row_bytes % kEight == 0;
  add_rows(from.rows, from.height, kernel, plane, tables);
  add_columns(from, kernel, plane, tables);
  return plane;
}

}  // namespace

CudaImagePlan make_cuda_image_plan(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  const ImageConversion conversion = make_image_conversion(spec, geometry);
  CudaImagePlan plan;
  CudaImageKernel& kernel = plan.kernel;
  kernel.columns = conversion.columns;
  kernel.rows = conversion.rows;
  kernel.full_columns = conversion.turned ? spec.height : spec.width;
  kernel.full_rows = conversion.turned ? spec.width : spec.height;
  const int left = conversion.turned ? conversion.top : conversion.left;
  const int top = conversion.turned ? conversion.left : conversion.top;
  kernel.left = conversion.flip_columns ? kernel.full_columns - left - conversion.columns : left;
  kernel.top = conversion.flip_rows ? kernel.full_rows - top - conversion.rows : top;

  const bool planar = spec.layout == ImageLayout::kPlanar;
  kernel.channels = spec.channel_count();
  kernel.tensor_size = spec.width * spec.height * kernel.channels;
  const int pixel_step = planar ? 1 : kernel.channels, line_step = pixel_step * spec.width;
  const int row_step = conversion.turned ? pixel_step : line_step;
  const int column_step = conversion.turned ? line_step : pixel_step;
  kernel.row_step = conversion.flip_rows ? -row_step : row_step;
  kernel.column_step = conversion.flip_columns ? -column_step : column_step;
  kernel.origin = (conversion.flip_rows ? (kernel.full_rows - 1) * row_step : 0) +
                  (conversion.flip_columns ? (kernel.full_columns - 1) * column_step : 0);

  kernel.type = spec.type;
  kernel.zero_point = spec.zero_point;
  const bool clamps = conversion.color != ColorMode::kScale;
  for (int c = 0; c < 3; ++c) {
    kernel.channel_offset[c] = conversion.order[c] * (planar ? spec.width * spec.height : 1);
    std::copy_n(conversion.factor[c], 3, kernel.factor[c]);
    kernel.offset[c] = conversion.offset[c];
    kernel.least[c] = clamps ? conversion.least[c] : -FLT_MAX;
    kernel.most[c] = clamps ? conversion.most[c] : FLT_MAX;
    kernel.pad[c] = conversion.pad[conversion.order[c]];
  }
  kernel.inputs = conversion.inputs;
  add_tilings(conversion.planes, plan);
  for (const ResizedPlane& plane : conversion.planes) {
    kernel.planes[kernel.plane_count++] = add_plane(plane, kernel, plan.tables);
  }
  return plan;
}

}  // namespace mmedge
