#include <algorithm>
#include <cfloat>
#include <climits>

#include "kernels/image_to_tensor/image_to_tensor_cuda.h"

namespace mmedge {
namespace {

constexpr int kLaneBytes = 16, kLeastTile = 8;

// At an even place.
int append(std::vector<int32_t>& tables, const std::vector<int32_t>& table) {
  tables.resize((tables.size() + 1) / 2 * 2);
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

// Into so many parts a row is dealt, each of one channel, or of two whose samples take turns.
int interleaved(SurfaceLayout layout) { return bytes_of(layout, 0).step; }

// A chunk begins where each part of a row has an even number of bytes before it and 16 of the row's are aligned.
int alignment_of(SurfaceLayout layout) { return interleaved(layout) == 3 ? 3 * kLaneBytes : kLaneBytes; }

int chunk_of(SurfaceLayout layout) { return kCudaImageChunk / alignment_of(layout) * alignment_of(layout); }

void add_rows(const QuantisedTaps& rows, CudaImagePlane& plane, std::vector<int32_t>& tables) {
  std::vector<int32_t> first, pairs, weights;
  for (const auto& tap : rows.taps) {
    first.push_back(tap.first / 2);
    pairs.push_back((tap.last() + 1) / 2 - tap.first / 2);
  }
  plane.pairs = *std::max_element(pairs.begin(), pairs.end());
  for (const auto& tap : rows.taps) {
    const int begin = tap.first / 2 * 2;
    for (int y = begin; y < begin + 2 * plane.pairs; y += 2) weights.push_back(tap.at(y) | tap.at(y + 1) << 16);
  }
  plane.shift = rows.bits - 7;
  plane.first_pair_table = append(tables, first);
  plane.pairs_table = append(tables, pairs);
  plane.weight_table = append(tables, weights);
}

// Tiles of output columns; the picture's begin at `left` of the first tile and may begin before it.
struct Tiles {
  int count, columns, left;
};

struct ByteRange {
  int begin, end;
};

// What of a plane's row a tile needs, from where a chunk may begin.
ByteRange tile_bytes(const ResizedPlane& plane, const Tiles& tiles, int tile) {
  int least = INT_MAX, most = 0;
  for (int c = 0; c < 3 && c < size_of(plane.layout).channels; ++c) {
    const auto [step, first_byte] = bytes_of(plane.layout, c);
    const auto& taps = plane.columns[c].taps;
    const int columns = static_cast<int>(taps.size());
    const int first = std::clamp(tile * tiles.columns - tiles.left, 0, columns);
    const int last = std::clamp((tile + 1) * tiles.columns - tiles.left, 0, columns);
    for (int i = first; i < last; ++i) {
      const auto& tap = taps[static_cast<size_t>(i)];
      least = std::min(least, first_byte + tap.first * step);
      most = std::max(most, first_byte + (tap.last() - 1) * step + 1);
    }
  }
  const int alignment = alignment_of(plane.layout);
  return most == 0 ? ByteRange{0, 0} : ByteRange{least / alignment * alignment, most};
}

// As even as can be, none wider than `most`.
Tiles divide(int columns, int most, int left) {
  const int count = (columns + most - 1) / most;
  return {count, (columns + count - 1) / count, left};
}

// The widest whose bytes are one chunk of each plane.
Tiles make_tiles(const std::vector<ResizedPlane>& planes, int columns, int left) {
  const auto fits = [&](const Tiles& tiles) {
    return std::all_of(planes.begin(), planes.end(), [&](const ResizedPlane& plane) {
      for (int tile = 0; tile < tiles.count; ++tile) {
        const ByteRange bytes = tile_bytes(plane, tiles, tile);
        if (bytes.end - bytes.begin > chunk_of(plane.layout)) return false;
      }
      return true;
    });
  };
  int most = kCudaImageTileColumns;
  while (most > kLeastTile && !fits(divide(columns, most, left))) --most;
  return divide(columns, most, left);
}

// `begin[tile]`: the pair of a part where the tile's first chunk begins.
CudaImageChannel add_channel(const ResizedPlane& plane, int c, const Tiles& tiles, const std::vector<int32_t>& begin,
                             std::vector<int32_t>& tables) {
  const auto [step, first_byte] = bytes_of(plane.layout, c);
  const int parts = interleaved(plane.layout), part_pairs = chunk_of(plane.layout) / parts / 2;
  const auto pair_of = [&](int x) { return (first_byte + x * step) / parts / 2; };
  const auto& taps = plane.columns[c].taps;
  int pairs = 0;
  for (const auto& tap : taps) pairs = std::max(pairs, pair_of(tap.last() - 1) - pair_of(tap.first) + 1);
  pairs = (pairs + 1) / 2 * 2;

  const size_t columns = taps.size();
  std::vector<int32_t> first, weights(columns * static_cast<size_t>(pairs));
  for (size_t column = 0; column < columns; ++column) {
    // As many pairs as of any other column, and all in the chunk where there is one.
    const auto tile = (column + static_cast<size_t>(tiles.left)) / static_cast<size_t>(tiles.columns);
    const int chunk_end = std::max(begin[tile] + part_pairs, pair_of(taps[column].last() - 1) + 1);
    first.push_back(std::min(pair_of(taps[column].first), std::max(chunk_end - pairs, begin[tile])));
    for (int x = taps[column].first; x < taps[column].last(); ++x) {
      const int weight = taps[column].at(x), odd = (first_byte + x * step) / parts % 2;
      const auto pair = static_cast<size_t>(pair_of(x) - first[column]);
      weights[(pair / 2 * columns + column) * 2 + pair % 2] |= (weight & 0xff) << (8 * odd) | (weight >> 8)
                                                                                                  << (16 + 8 * odd);
    }
  }
  return {first_byte % parts, pairs, append(tables, first), append(tables, weights)};
}

CudaImagePlane add_plane(const ResizedPlane& from, const Tiles& tiles, std::vector<int32_t>& tables) {
  CudaImagePlane plane{};
  const LayoutSize size = size_of(from.layout);
  plane.plane = from.plane;
  plane.channels = size.channels;
  plane.interleaved = interleaved(from.layout);
  plane.chunk = chunk_of(from.layout);
  plane.row_bytes = (from.width + size.group_pixels - 1) / size.group_pixels * size.group_bytes;
  plane.height = from.height;
  add_rows(from.rows, plane, tables);
  plane.part_pairs = plane.chunk / plane.interleaved / 2;
  std::vector<int32_t> begin, chunks;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const ByteRange bytes = tile_bytes(from, tiles, tile);
    begin.push_back(bytes.begin / plane.interleaved / 2);
    chunks.push_back((bytes.end - bytes.begin + plane.chunk - 1) / plane.chunk);
  }
  plane.begin_table = append(tables, begin);
  plane.chunks_table = append(tables, chunks);
  for (int c = 0; c < size.channels; ++c) plane.channel[c] = add_channel(from, c, tiles, begin, tables);
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
  const Tiles tiles = make_tiles(conversion.planes, kernel.full_columns, kernel.left);
  kernel.tile_columns = tiles.columns;
  for (const ResizedPlane& plane : conversion.planes) {
    kernel.planes[kernel.plane_count++] = add_plane(plane, tiles, plan.tables);
  }
  return plan;
}

}  // namespace mmedge
