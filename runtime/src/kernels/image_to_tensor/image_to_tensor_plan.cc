#include "kernels/image_to_tensor/image_to_tensor_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/image_to_tensor/image_to_tensor_math.h"

namespace mmedge {
namespace {

// The taps of one output coordinate along a stored axis.
template <class Weight>
struct Taps {
  int first;
  std::vector<Weight> weights;

  int last() const { return first + static_cast<int>(weights.size()); }
  Weight at(int x) const { return x < first || x >= last() ? Weight{0} : weights[static_cast<size_t>(x - first)]; }
};
using ExactTaps = std::vector<Taps<double>>;

struct QuantisedTaps {
  int bits;
  std::vector<Taps<int>> taps;
};

// Where one upright axis lies along a stored axis.
struct StoredAxis {
  int origin, extent;  // of the region in the upright frame; of the frame
  bool flip;
};

// In the order of the stored axis. Flipping the taps, not the picture, keeps the upright picture's taps exactly.
ExactTaps stored_taps(const ResizeAxis& axis, const StoredAxis& stored) {
  const int outputs = axis.outputs;
  ExactTaps result(static_cast<size_t>(outputs));
  for (int i = 0; i < outputs; ++i) {
    const auto [first, last] = tap_range(axis, i);
    std::vector<double> weights;
    double sum = 0.0;
    for (int x = first; x < last; ++x) sum += weights.emplace_back(tap_weight(axis, i, x));
    for (double& weight : weights) weight /= sum;
    if (stored.flip) std::reverse(weights.begin(), weights.end());
    const int upright = stored.origin + (stored.flip ? last : first);
    result[static_cast<size_t>(stored.flip ? outputs - 1 - i : i)] = {stored.flip ? stored.extent - upright : upright,
                                                                      std::move(weights)};
  }
  return result;
}

// Onto a grid of half the resolution: sample i covers pixels 2 i and 2 i + 1.
ExactTaps fold(const ExactTaps& taps) {
  ExactTaps result;
  for (const auto& tap : taps) {
    const int first = tap.first / 2, last = (tap.last() - 1) / 2 + 1;
    auto& folded = result.emplace_back(Taps<double>{first, std::vector<double>(static_cast<size_t>(last - first))});
    for (int x = tap.first; x < tap.last(); ++x) folded.weights[static_cast<size_t>(x / 2 - first)] += tap.at(x);
  }
  return result;
}

// 16-bit weights with as many bits as the largest leaves room for. The rounding error is carried on, so that the
// weights of each output sum to 1 << bits.
QuantisedTaps quantise(const ExactTaps& exact, int most_bits) {
  double largest = 0.0;
  for (const auto& tap : exact) largest = std::max(largest, *std::max_element(tap.weights.begin(), tap.weights.end()));
  QuantisedTaps result{14, {}};
  while (result.bits < most_bits && std::ldexp(largest, result.bits + 1) < 32767.0) ++result.bits;
  for (const auto& tap : exact) {
    Taps<int> quantised{tap.first, {}};
    double carry = 0.0;
    for (const double weight : tap.weights) {
      const double wanted = std::ldexp(weight, result.bits) + carry;
      const double rounded = std::floor(wanted + 0.5);
      carry = wanted - rounded;
      quantised.weights.push_back(static_cast<int>(rounded));
    }
    while (quantised.weights.back() == 0) quantised.weights.pop_back();
    const auto leading = std::find_if(quantised.weights.begin(), quantised.weights.end(), [](int w) { return w != 0; });
    quantised.first += static_cast<int>(leading - quantised.weights.begin());
    quantised.weights.erase(quantised.weights.begin(), leading);
    result.taps.push_back(std::move(quantised));
  }
  return result;
}

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

struct LayoutSize {
  int channels, group_bytes, group_pixels;
};

LayoutSize size_of(SurfaceLayout layout) {
  switch (layout) {
    case SurfaceLayout::kPlane:
      return {1, 1, 1};
    case SurfaceLayout::kUv:
      return {2, 2, 1};
    case SurfaceLayout::kYuyv:
    case SurfaceLayout::kUyvy:
      return {3, 4, 2};
    case SurfaceLayout::kRgb:
      return {3, 3, 1};
    default:
      return {3, 4, 1};
  }
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

// `width` is the frame's, in pixels of the surface's first channel.
Surface make_surface(int plane, SurfaceLayout layout, int width, const ExactTaps& columns, const ExactTaps& rows) {
  Surface surface;
  surface.plane = plane;
  surface.layout = layout;
  surface.rows = schedule_rows(quantise(rows, 22));
  const LayoutSize size = size_of(layout);
  surface.channels = size.channels;
  int first = columns.front().first, last = 0;
  for (const auto& tap : columns) {
    first = std::min(first, tap.first);
    last = std::max(last, tap.last());
  }
  const int first_group = first / size.group_pixels;
  surface.first_byte = first_group * size.group_bytes;
  surface.row_bytes = (width + size.group_pixels - 1) / size.group_pixels * size.group_bytes - surface.first_byte;
  surface.used_bytes = ((last - 1) / size.group_pixels + 1 - first_group) * size.group_bytes;
  for (int c = 0; c < size.channels; ++c) {
    const bool subsampled = size.group_pixels == 2 && c > 0;
    surface.block_pairs[c] = pairs_per_block(layout, c);
    surface.columns[c] =
        pair_columns(quantise(subsampled ? fold(columns) : columns, 16),
                     subsampled ? first_group : first_group * size.group_pixels, surface.block_pairs[c]);
  }
  return surface;
}

struct Placement {
  ResizeAxis x, y;
  int width, height, left, top;  // of the resized picture in the output
};

Placement place(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  const double width = geometry.region_width, height = geometry.region_height;
  Placement result{{}, {}, spec.width, spec.height, 0, 0};
  double used_width = width, used_height = height;
  if (spec.fit == ImageFit::kLetterbox) {
    const double grow = std::min(spec.width / width, spec.height / height);
    result.width = std::max(1, static_cast<int>(width * grow + 0.5));
    result.height = std::max(1, static_cast<int>(height * grow + 0.5));
    result.left = (spec.width - result.width) / 2;
    result.top = (spec.height - result.height) / 2;
  } else if (spec.fit == ImageFit::kCrop) {
    const double scale = spec.crop_fraction * std::min(width / spec.width, height / spec.height);
    used_width = scale * spec.width;
    used_height = scale * spec.height;
  }
  const auto axis = [&spec](double length, double used, int outputs) {
    const double scale = used / outputs;
    const double reach = spec.nearest ? 0.0 : spec.antialias ? std::max(scale, 1.0) : 1.0;
    return ResizeAxis{(length - used) / 2, used, outputs, static_cast<int>(length), reach};
  };
  result.x = axis(width, used_width, result.width);
  result.y = axis(height, used_height, result.height);
  return result;
}

ImageArea area_of(const ImageToTensorSpec& spec, const ImageGeometry& geometry, const Placement& placement) {
  const double column = placement.x.span / placement.x.outputs, row = placement.y.span / placement.y.outputs;
  return {geometry.region_x + placement.x.begin - placement.left * column,
          geometry.region_y + placement.y.begin - placement.top * row,
          spec.width * column,
          spec.height * row,
          geometry.region_x,
          geometry.region_y,
          geometry.region_width,
          geometry.region_height};
}

void add_surfaces(ImagePlan& plan, bool with_chroma, const ExactTaps& columns, const ExactTaps& rows) {
  const int width = plan.geometry.width, half = (width + 1) / 2;
  const auto add = [&](int plane, SurfaceLayout layout) {
    const bool chroma = plane > 0;
    plan.surfaces.push_back(make_surface(plane, layout, chroma ? half : width, chroma ? fold(columns) : columns,
                                         chroma ? fold(rows) : rows));
  };
  switch (plan.geometry.format) {
    case MME_IMAGE_GREY8:
      return add(0, SurfaceLayout::kPlane);
    case MME_IMAGE_RGB8:
    case MME_IMAGE_BGR8:
      return add(0, SurfaceLayout::kRgb);
    case MME_IMAGE_RGBA8:
    case MME_IMAGE_BGRA8:
      return add(0, SurfaceLayout::kRgba);
    case MME_IMAGE_YUYV:
      return add(0, SurfaceLayout::kYuyv);
    case MME_IMAGE_UYVY:
      return add(0, SurfaceLayout::kUyvy);
    case MME_IMAGE_NV12:
      add(0, SurfaceLayout::kPlane);
      if (with_chroma) add(1, SurfaceLayout::kUv);
      return;
    case MME_IMAGE_I420:
      add(0, SurfaceLayout::kPlane);
      for (int plane = 1; with_chroma && plane < 3; ++plane) add(plane, SurfaceLayout::kPlane);
      return;
  }
}

bool is_yuv(mme_image_format format) { return format >= MME_IMAGE_NV12; }

bool is_bgr(mme_image_format format) { return format == MME_IMAGE_BGR8 || format == MME_IMAGE_BGRA8; }

// In levels: what each output channel is made of. Without YUV and grey, the channels as they lie.
ColorTransform levels(const ImageToTensorSpec& spec, const ImageGeometry& geometry) {
  if (geometry.format == MME_IMAGE_GREY8) return {{{1, 0, 0, 0}, {1, 0, 0, 0}, {1, 0, 0, 0}}};
  const ColorTransform rgb = is_yuv(geometry.format) ? yuv_to_rgb(geometry.color_matrix, geometry.color_range)
                                                     : ColorTransform{{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}}};
  if (spec.channels != ImageChannels::kGrey) return rgb;
  ColorTransform grey{};
  for (int c = 0; c < 3; ++c) {
    for (int k = 0; k < 4; ++k) grey.rows[0][k] += kGreyOfRgb[c] * rgb.rows[c][k];
  }
  if (is_bgr(geometry.format)) std::swap(grey.rows[0][0], grey.rows[0][2]);
  return grey;
}

void set_color(ImagePlan& plan, const ImageToTensorSpec& spec, const ColorTransform& transform) {
  plan.color = is_yuv(plan.geometry.format) && spec.channels != ImageChannels::kGrey              ? ColorMode::kYuv
               : spec.channels == ImageChannels::kGrey && plan.geometry.format != MME_IMAGE_GREY8 ? ColorMode::kMix
                                                                                                  : ColorMode::kScale;
  if ((spec.channels == ImageChannels::kBgr) != is_bgr(plan.geometry.format) && spec.channel_count() == 3) {
    std::swap(plan.order[0], plan.order[2]);
  }
  int bits[3] = {};
  int input = 0;
  for (const Surface& surface : plan.surfaces) {
    for (int c = 0; c < surface.channels && input < plan.inputs; ++c) bits[input++] = surface.columns[c].bits;
  }
  for (int c = 0; c < spec.channel_count(); ++c) {
    const auto out = static_cast<size_t>(plan.order[c]);
    const double unit = spec.type == ElementType::kInt8 ? spec.scale : 1.0;
    const double gain = 1.0 / (255.0 * spec.stddev[out] * unit), shift = -spec.mean[out] / (spec.stddev[out] * unit);
    for (int k = 0; k < plan.inputs; ++k) {
      plan.factor[c][k] = static_cast<float>(gain * transform.rows[c][k] / std::ldexp(128.0, bits[k]));
    }
    plan.offset[c] = static_cast<float>(gain * transform.rows[c][3] + shift);
    plan.least[c] = static_cast<float>(shift);
    plan.most[c] = static_cast<float>(255.0 * gain + shift);
    plan.pad[out] = static_cast<float>(spec.pad_level * gain + shift);
  }
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
  ImagePlan plan;
  plan.geometry = geometry;
  plan.turned = geometry.rotation % 180 == 90;
  const Placement placement = place(spec, geometry);
  // Turning clockwise by 90 degrees makes the stored left column, read upwards, the upright top row.
  const bool flip_x = (geometry.rotation == 90 || geometry.rotation == 180) != geometry.mirror;
  const bool flip_y = geometry.rotation == 180 || geometry.rotation == 270;
  ExactTaps columns =
      stored_taps(placement.x, {geometry.region_x, plan.turned ? geometry.height : geometry.width, flip_x});
  ExactTaps rows =
      stored_taps(placement.y, {geometry.region_y, plan.turned ? geometry.width : geometry.height, flip_y});
  plan.area = area_of(spec, geometry, placement);
  plan.columns = placement.width;
  plan.rows = placement.height;
  plan.left = placement.left;
  plan.top = placement.top;
  plan.bordered = placement.width < spec.width || placement.height < spec.height;
  plan.flip_columns = flip_x;
  plan.flip_rows = flip_y;
  if (plan.turned) {
    std::swap(columns, rows);
    std::swap(plan.columns, plan.rows);
    std::swap(plan.flip_columns, plan.flip_rows);
  }

  const ColorTransform transform = levels(spec, geometry);
  // The chroma of BT.601 cancels in grey: then it is not read.
  const bool with_chroma = spec.channels != ImageChannels::kGrey || std::abs(transform.rows[0][1]) > 1e-9 ||
                           std::abs(transform.rows[0][2]) > 1e-9;
  add_surfaces(plan, with_chroma, columns, rows);
  plan.inputs = geometry.format == MME_IMAGE_GREY8 || (is_yuv(geometry.format) && !with_chroma) ? 1 : 3;
  set_color(plan, spec, transform);
  lay_out_workspace(plan);
  return plan;
}

}  // namespace mmedge
