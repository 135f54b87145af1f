#include <algorithm>
#include <cstring>
#include <new>

#include "error.h"
#include "kernels/image_to_tensor/image_to_tensor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/image_to_tensor/image_to_tensor_cpu.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#if HWY_TARGET != HWY_SCALAR
#include "kernels/image_to_tensor/image_to_tensor_rows-inl.h"
#include "kernels/image_to_tensor/image_to_tensor_write-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR
void resize_and_convert(const ImagePlan&, const ImageFrame&, int32_t*, const ImageDestination&) {
  fail(MME_ENGINE_UNAVAILABLE, "image preprocessing needs a processor with SSSE3 or better; this one has none");
}
#else

constexpr ptrdiff_t kTile = kTileColumns * kStripRows;  // values of one channel of a tile

// A channel's window: its pairs from `base` on, 16 rows each.
struct Window {
  int32_t* pairs;
  int base, block_pairs;
};

// The column pass of kCount channels that share their taps, for one output column and 16 rows at once.
template <int kCount>
HWY_INLINE void resize_column(const ColumnTaps& taps, const Window* windows, int column, VF (*inputs)[kChunks]) {
  const uint32_t* weights = taps.weights.data() + ptrdiff_t{column} * taps.pairs;
  const uint32_t* end = weights + taps.pairs;
  const ptrdiff_t begin = ptrdiff_t{taps.first[static_cast<size_t>(column)] - windows[0].base} * kStripRows;
  const int32_t* window[kCount];
  VI sums[kCount][kChunks];
  for (int k = 0; k < kCount; ++k) {
    window[k] = windows[k].pairs + begin;
    for (int v = 0; v < kChunks; ++v) sums[k][v] = hn::Zero(kInts);
  }
  for (ptrdiff_t at = 0; weights != end; ++weights, at += kStripRows) {
    const VI weight = hn::Set(kInts, static_cast<int32_t>(*weights));
    for (int k = 0; k < kCount; ++k) {
      for (int v = 0; v < kChunks; ++v) {
        sums[k][v] = add_pair_products(sums[k][v], hn::Load(kInts, window[k] + at + v * kLanes), weight);
      }
    }
  }
  for (int k = 0; k < kCount; ++k) {
    for (int v = 0; v < kChunks; ++v) inputs[k][v] = hn::ConvertTo(kFloats, sums[k][v]);
  }
}

// What turns the inputs of one pixel into its outputs, in registers.
template <ColorMode kMode, int kInputs, int kOutputs>
struct Colors {
  explicit Colors(const ImagePlan& plan) {
    for (int c = 0; c < kOutputs; ++c) {
      for (int k = 0; k < kInputs; ++k) factor[c][k] = hn::Set(kFloats, plan.factor[c][k]);
      offset[c] = hn::Set(kFloats, plan.offset[c]);
      least[c] = hn::Set(kFloats, plan.least[c]);
      most[c] = hn::Set(kFloats, plan.most[c]);
    }
  }

  HWY_INLINE VF output(int c, const VF (*inputs)[kChunks], int chunk) const {
    VF value = offset[c];
    for (int k = 0; k < kInputs; ++k) {
      if (kMode == ColorMode::kScale && kInputs == 3 && k != c) continue;
      if (kMode == ColorMode::kYuv && ((c == 0 && k == 1) || (c == 2 && k == 2))) continue;  // factors of zero
      value = hn::MulAdd(inputs[k][chunk], factor[c][k], value);
    }
    if constexpr (kMode != ColorMode::kScale) value = hn::Min(hn::Max(value, least[c]), most[c]);
    return value;
  }

  VF factor[kOutputs][kInputs], offset[kOutputs], least[kOutputs], most[kOutputs];
};

// Rows of 16 values out of columns of 16 values; `rows` of them are written.
HWY_INLINE void transpose_tile(const float* values, float* to, ptrdiff_t to_stride, int rows) {
  for (ptrdiff_t y = 0; y < kStripRows; y += kLanes) {
    for (ptrdiff_t x = 0; x < kTileColumns; x += kLanes) {
      VF lines[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) lines[i] = hn::Load(kFloats, values + (x + i) * kStripRows + y);
      transpose(kFloats, lines);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (y + i < rows) hn::StoreU(lines[i], kFloats, to + (y + i) * to_stride + x);
      }
    }
  }
}

class Worker {
 public:
  Worker(const ImagePlan& plan, const ImageFrame& frame, int32_t* workspace, const ImageDestination& to)
      : plan_(plan), frame_(frame), workspace_(workspace), to_(to) {
    int input = 0;
    for (const Surface& surface : plan.surfaces) {
      for (int c = 0; c < surface.channels && input < 3; ++c, ++input) {
        windows_[input] = {workspace + plan.windows[input], 0,
                           static_cast<int>(surface.block_pairs[c] * kBlockBytes / kMostBlockBytes)};
        taps_[input] = &surface.columns[c];
      }
    }
  }

  template <ColorMode kMode, int kInputs, int kOutputs>
  void run() {
    for (first_ = 0, strip_ = 0; first_ < plan_.rows; first_ += kStripRows, ++strip_) {
      count_ = std::min(static_cast<int>(kStripRows), plan_.rows - first_);
      for (int& block : blocks_) block = 0;
      for (Window& window : windows_) window.base = 0;
      for (int begin = 0, tile = 0; begin < plan_.columns; begin += kTileColumns, ++tile) {
        int input = 0;
        for (size_t s = 0; s < plan_.surfaces.size(); ++s) {
          provide(plan_.surfaces[s], blocks_[s], input, tile);
          input += plan_.surfaces[s].channels;
        }
        const int columns = std::min(static_cast<int>(kTileColumns), plan_.columns - begin);
        finish_tile<kMode, kInputs, kOutputs>(begin, columns);
        write(begin, columns);
      }
    }
  }

 private:
  // Column pass and colour.
  template <ColorMode kMode, int kInputs, int kOutputs>
  void finish_tile(int begin, int columns) {
    const Colors<kMode, kInputs, kOutputs> colors(plan_);
    const Window windows[3] = {windows_[0], windows_[1], windows_[2]};
    const ptrdiff_t step = plan_.flip_columns ? -kStripRows : kStripRows;
    float* values = values_ + (plan_.flip_columns ? (columns - 1) * kStripRows : 0);
    for (int column = begin; column < begin + columns; ++column, values += step) {
      VF inputs[kInputs][kChunks];
      if constexpr (kMode == ColorMode::kScale) {
        resize_column<kInputs>(*taps_[0], windows, column, inputs);
      } else {
        resize_column<1>(*taps_[0], windows, column, inputs);
        if constexpr (kMode == ColorMode::kYuv) {
          resize_column<2>(*taps_[1], windows + 1, column, inputs + 1);
        } else if constexpr (kInputs == 3) {
          resize_column<1>(*taps_[1], windows + 1, column, inputs + 1);
          resize_column<1>(*taps_[2], windows + 2, column, inputs + 2);
        }
      }
      for (int c = 0; c < kOutputs; ++c) {
        for (int v = 0; v < kChunks; ++v)
          hn::Store(colors.output(c, inputs, v), kFloats, values + c * kTile + v * kLanes);
      }
    }
  }

  // Runs the row pass as far as this tile's taps reach. `input` is the surface's first channel.
  void provide(const Surface& surface, int& blocks, int input, int tile) {
    const auto t = static_cast<size_t>(tile);
    int needed = 0;
    for (int c = 0; c < surface.channels; ++c) {
      const int pairs = windows_[input + c].block_pairs;
      needed = std::max(needed, (surface.columns[c].tile_last[t] + pairs - 1) / pairs);
    }
    for (; blocks < needed; ++blocks) {
      int32_t* to[3] = {};  // NOLINT(misc-const-correctness): what they point to is written
      for (int c = 0; c < surface.channels; ++c) {
        Window& window = windows_[input + c];
        const int done = blocks * window.block_pairs, first = surface.columns[c].tile_first[t];
        if (done + window.block_pairs - window.base > surface.columns[c].capacity) {
          const int live = std::max(done - first, 0);
          std::memmove(window.pairs, window.pairs + (first - window.base) * kStripRows,
                       static_cast<size_t>(live * kStripRows) * sizeof(int32_t));
          window.base = std::min(first, done);
        }
        to[c] = window.pairs + (done - window.base) * kStripRows;
      }
      make_block(surface, blocks, to);
    }
  }

  void make_block(const Surface& surface, int block, int32_t* const* to) {
    const int vectors = surface.layout == SurfaceLayout::kRgb ? 3 : 1;
    const ptrdiff_t bytes = vectors * kBlockBytes;
    const ptrdiff_t begin = block * bytes, readable = std::min(bytes, surface.row_bytes - begin);
    const auto strip = static_cast<size_t>(strip_);
    ptrdiff_t stride = frame_.strides[surface.plane];
    ptrdiff_t ahead = next_block(surface, block, bytes);
    int origin = 0;  // the row `source` points to
    const uint8_t* source = frame_.planes[surface.plane] + surface.first_byte + begin;
    if (readable < bytes) {
      auto* tail = reinterpret_cast<uint8_t*>(workspace_ + surface.tail);
      const int first_row = surface.rows.first_row[strip];
      for (int y = first_row; y < surface.rows.last_row[strip]; ++y) {
        std::memcpy(tail + (y - first_row) * bytes, source + y * stride, static_cast<size_t>(readable));
      }
      stride = bytes;
      ahead = 0;
      source = tail;
      origin = first_row;
    }
    switch (surface.layout) {
      case SurfaceLayout::kPlane:
        return resize_block<SurfaceLayout::kPlane>(surface.rows, source, stride, origin, ahead, to);
      case SurfaceLayout::kUv:
        return resize_block<SurfaceLayout::kUv>(surface.rows, source, stride, origin, ahead, to);
      case SurfaceLayout::kYuyv:
        return resize_block<SurfaceLayout::kYuyv>(surface.rows, source, stride, origin, ahead, to);
      case SurfaceLayout::kUyvy:
        return resize_block<SurfaceLayout::kUyvy>(surface.rows, source, stride, origin, ahead, to);
      case SurfaceLayout::kRgba:
        return resize_block<SurfaceLayout::kRgba>(surface.rows, source, stride, origin, ahead, to);
      case SurfaceLayout::kRgb:
        for (int i = 0; i < vectors; ++i) {
          // NOLINTNEXTLINE(misc-const-correctness): what it points to is written
          int32_t* const raw = raw_ + i * kBlockBytes / 2 * kStripRows;
          resize_block<SurfaceLayout::kRgb>(surface.rows, source + i * kBlockBytes, stride, origin, ahead, &raw);
        }
        return sort_rgb(raw_, to);
    }
  }

  // One vector of byte columns; what is not said here is as resize_rows() and transpose_block() have it.
  template <SurfaceLayout kLayout>
  void resize_block(const RowSchedule& rows, const uint8_t* source, ptrdiff_t stride, int origin, ptrdiff_t ahead,
                    int32_t* const* to) {
    const ptrdiff_t step = plan_.flip_rows ? -2 * kLanes : 2 * kLanes;
    int32_t* lines = plan_.flip_rows ? lines_ + 2 * kLanes * (count_ - 1) : lines_;
    resize_rows<splits_bytes(kLayout)>(source, stride, origin, rows, first_, count_, lines, step, ahead);
    transpose_block<kLayout>(lines_, to);
  }

  // How far away the bytes lie that take the place of this block's a few blocks later: in its rows, or in the next
  // strip's.
  ptrdiff_t next_block(const Surface& surface, int block, ptrdiff_t bytes) const {
    const ptrdiff_t distance = kPrefetchBytes / bytes * bytes, past = block * bytes + distance;
    const ptrdiff_t row_end = (surface.used_bytes + bytes - 1) / bytes * bytes;
    const auto strip = static_cast<size_t>(strip_);
    if (past < row_end || strip + 1 == surface.rows.first_row.size()) return distance;
    const ptrdiff_t rows = surface.rows.first_row[strip + 1] - surface.rows.first_row[strip];
    return rows * frame_.strides[surface.plane] + distance - row_end;
  }

  void write(int begin, int columns) {
    // Lanes are stored rows, slots stored columns, both in upright order.
    const int lane = plan_.flip_rows ? plan_.rows - first_ - count_ : first_;
    const int slot = plan_.flip_columns ? plan_.columns - begin - columns : begin;
    const int x = plan_.left + (plan_.turned ? lane : slot), y = plan_.top + (plan_.turned ? slot : lane);
    if (plan_.turned) return write_any(to_, values_, plan_.order, x, y, columns, count_);
    const bool in_place = columns == kTileColumns && to_.type == ElementType::kFloat32 &&
                          (to_.layout == ImageLayout::kPlanar || to_.channels == 1);
    for (int c = 0; c < to_.channels; ++c) {
      if (in_place) {
        float* row =
            static_cast<float*>(to_.tensor) + (static_cast<ptrdiff_t>(plan_.order[c]) * to_.height + y) * to_.width + x;
        transpose_tile(values_ + c * kTile, row, to_.width, count_);
      } else {
        transpose_tile(values_ + c * kTile, transposed_ + c * kTile, kTileColumns, kStripRows);
      }
    }
    if (!in_place) write_any(to_, transposed_, plan_.order, x, y, count_, columns);
  }

  const ImagePlan& plan_;
  const ImageFrame& frame_;
  int32_t* workspace_;
  const ImageDestination to_;
  Window windows_[3] = {};
  const ColumnTaps* taps_[3] = {};
  int blocks_[3] = {};
  int strip_ = 0, first_ = 0, count_ = 0;  // of output rows
  alignas(64) int32_t lines_[kStripRows * 2 * kLanes] = {};
  alignas(64) int32_t raw_[3 * kBlockBytes / 2 * kStripRows];
  alignas(64) float values_[3 * kTile] = {};
  alignas(64) float transposed_[3 * kTile];
};

void resize_and_convert(const ImagePlan& plan, const ImageFrame& frame, int32_t* workspace,
                        const ImageDestination& to) {
  if (plan.bordered) fill_border(plan, to);
  Worker worker(plan, frame, workspace, to);
  if (plan.color == ColorMode::kYuv) return worker.run<ColorMode::kYuv, 3, 3>();
  if (plan.color == ColorMode::kMix) {
    return plan.inputs == 1 ? worker.run<ColorMode::kMix, 1, 1>() : worker.run<ColorMode::kMix, 3, 1>();
  }
  if (plan.inputs == 3) return worker.run<ColorMode::kScale, 3, 3>();
  return to.channels == 1 ? worker.run<ColorMode::kScale, 1, 1>() : worker.run<ColorMode::kScale, 1, 3>();
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mmedge {
namespace {

HWY_EXPORT(resize_and_convert);
}

void ImageToTensor::run(const ImageFrame& frame, void* output) {
  if (workspace_ == nullptr || frame.geometry != plan_.geometry) {
    workspace_ = nullptr;
    plan_ = make_image_plan(spec_, frame.geometry);
    workspace_ = hwy::AllocateAligned<int32_t>(plan_.workspace);
    if (workspace_ == nullptr) throw std::bad_alloc();
    std::fill_n(workspace_.get(), plan_.workspace, 0);
  }
  const ImageDestination to{output,       spec_.width, spec_.height,    spec_.channel_count(),
                            spec_.layout, spec_.type,  spec_.zero_point};
  HWY_DYNAMIC_DISPATCH(resize_and_convert)(plan_, frame, workspace_.get(), to);
}

}  // namespace mmedge
#endif
