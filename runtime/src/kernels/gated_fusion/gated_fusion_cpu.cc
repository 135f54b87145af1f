#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gated_fusion/gated_fusion.h"
#include "tensor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gated_fusion/gated_fusion_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef MMEDGE_GATED_FUSION_ONCE
#define MMEDGE_GATED_FUSION_ONCE
namespace mmedge {
namespace {

// A packed weight is cut into panels of 64 output features and then, for the rest, of 16, the last padded with zeros;
// a panel holds its 64 or 16 weights of input feature 0, then of 1, and so on.
constexpr size_t kWidePanel = 64, kPanel = 16;

size_t padded(size_t dimension) { return (dimension + kPanel - 1) / kPanel * kPanel; }

size_t panel_width(size_t first_column, size_t columns) {
  return columns - first_column >= kWidePanel ? kWidePanel : kPanel;
}

// In integers a panel holds four weights of each of its output features, of input features 0 to 3, then of 4 to 7.
constexpr size_t kGroup = 4;

size_t groups_of(size_t features) { return (features + kGroup - 1) / kGroup; }

// A row of one modality and its scratch: z, then h.
struct Row {
  const float* x;
  const uint8_t* bytes;
  float* z;
};

}  // namespace
}  // namespace mmedge
#endif

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, kPanel>;
using Vector = hn::Vec<Floats>;

constexpr size_t kLanes = hn::MaxLanes(Floats());
// Vectors of a block of four rows: as many accumulators as leave registers for the weights.
constexpr size_t kBatchVectors = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64 ? 4 : 2;

// The first `count` of up to kLanes floats, then zeros; reads no further.
HWY_INLINE Vector load_part(const float* from, size_t count) {
  const Floats d;
  if (count >= kLanes) return hn::LoadU(d, from);
  HWY_ALIGN float part[kLanes] = {};
  std::memcpy(part, from, count * sizeof(float));
  return hn::Load(d, part);
}

// z = weight x for kRows rows and kVectors vectors of one panel's output features.
template <size_t kRows, size_t kVectors>
HWY_INLINE void multiply_block(const Row* rows, size_t features, const float* HWY_RESTRICT panel, size_t width,
                               size_t column) {
  // Enough independent sums to hide the latency of one.
  constexpr size_t steps = kRows * kVectors >= 8 ? 1 : 8 / (kRows * kVectors);
  const Floats d;
  Vector sums[steps][kRows][kVectors];
  for (auto& step : sums) {
    for (auto& row : step) {
      for (Vector& sum : row) sum = hn::Zero(d);
    }
  }
  const auto add = [&](size_t step, size_t feature) HWY_ATTR {
    const float* HWY_RESTRICT weights = panel + feature * width;
    Vector x[kRows];
    for (size_t r = 0; r < kRows; ++r) x[r] = hn::Set(d, rows[r].x[feature]);
    for (size_t v = 0; v < kVectors; ++v) {
      const Vector weight = hn::Load(d, weights + v * kLanes);
      for (size_t r = 0; r < kRows; ++r) sums[step][r][v] = hn::MulAdd(x[r], weight, sums[step][r][v]);
    }
  };
  size_t feature = 0;
  for (; feature + steps <= features; feature += steps) {
    for (size_t step = 0; step < steps; ++step) add(step, feature + step);
  }
  if constexpr (steps > 1) {
    for (; feature < features; ++feature) add(0, feature);
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      Vector sum = sums[0][r][v];
      for (size_t step = 1; step < steps; ++step) sum = hn::Add(sum, sums[step][r][v]);
      hn::Store(sum, d, rows[r].z + column + v * kLanes);
    }
  }
}

template <size_t kRows, size_t kVectors>
HWY_INLINE void multiply_panel(const Row* rows, size_t features, const float* panel, size_t width, size_t column) {
  for (size_t at = 0; at < width; at += kVectors * kLanes) {
    multiply_block<kRows, kVectors>(rows, features, panel + at, width, column + at);
  }
}

template <size_t kRows>
HWY_NOINLINE void multiply_rows(const Row* rows, size_t features, const float* panel, size_t width, size_t column) {
  constexpr size_t wide = std::min(kRows == 1 ? 8 : kRows == 2 ? 4 : kBatchVectors, kWidePanel / kLanes);
  constexpr size_t narrow = std::min(wide, kPanel / kLanes);
  if (width == kWidePanel) {
    multiply_panel<kRows, wide>(rows, features, panel, width, column);
  } else {
    multiply_panel<kRows, narrow>(rows, features, panel, width, column);
  }
}

void multiply_packed(const Row* rows, size_t count, size_t features, const float* packed, size_t columns) {
  for (size_t column = 0; column < columns;) {
    const size_t width = panel_width(column, columns);
    size_t row = 0;
    for (; row + 4 <= count; row += 4) multiply_rows<4>(rows + row, features, packed, width, column);
    if (row + 2 <= count) {
      multiply_rows<2>(rows + row, features, packed, width, column);
      row += 2;
    }
    if (row < count) multiply_rows<1>(rows + row, features, packed, width, column);
    packed += width * features;
    column += width;
  }
}

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3_DL
constexpr bool kIntegers = true;

// Sums of four products of bytes, unsigned times signed, to each 32-bit sum. Highway 1.0 asks the processor for
// AVX512-VNNI in this tier, but not the compiler.
HWY_INLINE __m512i add_dot_products(__m512i sum, __m512i x, __m512i weight) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "vm"(weight));
  return sum;
}

template <size_t kRows, size_t kVectors>
HWY_INLINE void multiply_integer_block(const Row* rows, size_t features, const int8_t* HWY_RESTRICT panel, size_t width,
                                       size_t column, const FusionIntegers& integers) {
  constexpr size_t steps = kRows * kVectors >= 8 ? 1 : 8 / (kRows * kVectors);
  __m512i sums[steps][kRows][kVectors];
  for (auto& step : sums) {
    for (auto& row : step) {
      for (__m512i& sum : row) sum = _mm512_setzero_si512();
    }
  }
  const auto add = [&](size_t step, size_t group, size_t bytes) HWY_ATTR {
    __m512i x[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      int32_t word = 0;
      std::memcpy(&word, rows[r].bytes + group * kGroup, bytes);
      x[r] = _mm512_set1_epi32(word);
    }
    const int8_t* HWY_RESTRICT weights = panel + group * width * kGroup;
    for (size_t v = 0; v < kVectors; ++v) {
      const __m512i weight = _mm512_load_si512(weights + v * 64);
      for (size_t r = 0; r < kRows; ++r) sums[step][r][v] = add_dot_products(sums[step][r][v], x[r], weight);
    }
  };
  const size_t whole = features / kGroup;
  size_t group = 0;
  for (; group + steps <= whole; group += steps) {
    for (size_t step = 0; step < steps; ++step) add(step, group + step, kGroup);
  }
  if constexpr (steps > 1) {
    for (; group < whole; ++group) add(0, group, kGroup);
  }
  if (features % kGroup != 0) add(0, whole, features % kGroup);
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      __m512i sum = sums[0][r][v];
      for (size_t step = 1; step < steps; ++step) sum = _mm512_add_epi32(sum, sums[step][r][v]);
      const size_t at = column + v * 16;
      sum = _mm512_sub_epi32(sum, _mm512_loadu_si512(integers.offset + at));
      _mm512_store_ps(rows[r].z + at, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(integers.scale + at)));
    }
  }
}

template <size_t kRows>
HWY_NOINLINE void multiply_integer_rows(const Row* rows, size_t features, const int8_t* panel, size_t width,
                                        size_t column, const FusionIntegers& integers) {
  if (width == kWidePanel) {
    multiply_integer_block<kRows, kWidePanel / 16>(rows, features, panel, width, column, integers);
  } else {
    multiply_integer_block<kRows, kPanel / 16>(rows, features, panel, width, column, integers);
  }
}

void multiply_integers(const Row* rows, size_t count, size_t features, const FusionIntegers& integers, size_t columns) {
  const int8_t* panel = integers.packed;
  for (size_t column = 0; column < columns;) {
    const size_t width = panel_width(column, columns);
    size_t row = 0;
    for (; row + 4 <= count; row += 4) multiply_integer_rows<4>(rows + row, features, panel, width, column, integers);
    for (; row < count; ++row) multiply_integer_rows<1>(rows + row, features, panel, width, column, integers);
    panel += width * groups_of(features) * kGroup;
    column += width;
  }
}
#else
constexpr bool kIntegers = false;

void multiply_integers(const Row*, size_t, size_t, const FusionIntegers&, size_t) {}
#endif

bool has_integers() { return kIntegers; }

// Weights as they come, for graphs whose weights are computed: a dot product per output feature.
void multiply_plain(const Row* rows, size_t count, size_t features, const float* weight, size_t dimension) {
  const Floats d;
  for (size_t r = 0; r < count; ++r) {
    for (size_t column = 0; column < dimension; ++column) {
      const float* weights = weight + column * features;
      Vector even = hn::Zero(d), odd = hn::Zero(d);
      size_t feature = 0;
      for (; feature + 2 * kLanes <= features; feature += 2 * kLanes) {
        const auto at = [&](size_t i) HWY_ATTR { return hn::LoadU(d, weights + i); };
        even = hn::MulAdd(hn::LoadU(d, rows[r].x + feature), at(feature), even);
        odd = hn::MulAdd(hn::LoadU(d, rows[r].x + feature + kLanes), at(feature + kLanes), odd);
      }
      for (; feature < features; feature += kLanes) {
        const size_t left = features - feature;
        even = hn::MulAdd(load_part(rows[r].x + feature, left), load_part(weights + feature, left), even);
      }
      rows[r].z[column] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
    }
    std::fill(rows[r].z + dimension, rows[r].z + padded(dimension), 0.0F);
  }
}

// The sum of what `step(index, count, sum so far)` adds for every vector of `dimension` floats, the last one perhaps of
// a few floats only; in several sums, which hide the latency of one.
template <class Step>
HWY_INLINE float sum_over(size_t dimension, Step&& step) {
  const Floats d;
  Vector sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  size_t i = 0;
  for (; i + 4 * kLanes <= dimension; i += 4 * kLanes) {
    for (size_t k = 0; k < 4; ++k) sums[k] = step(i + k * kLanes, kLanes, sums[k]);
  }
  for (; i < dimension; i += kLanes) sums[0] = step(i, std::min(kLanes, dimension - i), sums[0]);
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]))));
}

// Steps 2 to 4: z becomes h; returns the score. Past D, z is zero and h becomes zero.
float normalize(const FusionModality& modality, size_t dimension, float epsilon, float* HWY_RESTRICT z) {
  const Floats d;
  const auto size = static_cast<float>(dimension);
  const float sum = sum_over(dimension, [&](size_t i, size_t count, Vector so_far) HWY_ATTR {
    const Vector value = hn::Add(hn::Load(d, z + i), load_part(modality.bias + i, count));
    hn::Store(value, d, z + i);
    return hn::Add(so_far, value);
  });
  const Vector mean = hn::Set(d, sum / size);
  const float squares = sum_over(dimension, [&](size_t i, size_t count, Vector so_far) HWY_ATTR {
    const Vector from_mean = hn::Sub(hn::Load(d, z + i), mean);
    const Vector kept = count == kLanes ? from_mean : hn::IfThenElseZero(hn::FirstN(d, count), from_mean);
    return hn::MulAdd(kept, kept, so_far);
  });
  const Vector scale = hn::Set(d, 1.0F / std::sqrt(squares / size + epsilon));
  const float score = sum_over(dimension, [&](size_t i, size_t count, Vector so_far) HWY_ATTR {
    const Vector from_mean = hn::Mul(hn::Sub(hn::Load(d, z + i), mean), scale);
    const Vector norm =
        hn::MulAdd(from_mean, load_part(modality.norm_weight + i, count), load_part(modality.norm_bias + i, count));
    const Vector h = hn::Max(hn::Zero(d), norm);  // in this order a NaN stays one
    hn::Store(h, d, z + i);
    return hn::MulAdd(h, load_part(modality.gate_weight + i, count), so_far);
  });
  return score + *modality.gate_bias;
}

// Steps 5 and 6 for one row. `h` is [modalities, columns]; the scores become alpha.
void combine(const uint8_t* presence, float* scores, size_t modalities, const float* HWY_RESTRICT h, size_t columns,
             size_t dimension, float* HWY_RESTRICT y) {
  const Floats d;
  bool any = false;
  float most = 0.0F, sum = 0.0F;
  for (size_t m = 0; m < modalities; ++m) {
    if (presence[m] == 0) continue;
    most = any ? std::max(most, scores[m]) : scores[m];
    any = true;
  }
  for (size_t m = 0; m < modalities; ++m) {
    if (presence[m] == 0) continue;
    scores[m] = std::exp(scores[m] - most);
    sum += scores[m];
  }
  for (size_t m = 0; m < modalities; ++m) scores[m] = presence[m] != 0 ? scores[m] / sum : 0.0F;
  for (size_t i = 0; i < dimension; i += kLanes) {
    Vector mixed = hn::Zero(d);
    for (size_t m = 0; m < modalities; ++m) {
      if (presence[m] != 0) mixed = hn::MulAdd(hn::Set(d, scores[m]), hn::Load(d, h + m * columns + i), mixed);
    }
    if (i + kLanes <= dimension) {
      hn::StoreU(mixed, d, y + i);
    } else {
      HWY_ALIGN float part[kLanes];
      hn::Store(mixed, d, part);
      std::memcpy(y + i, part, (dimension - i) * sizeof(float));
    }
  }
}

void run(const Fusion& fusion, size_t first, size_t last, float* scratch) {
  const size_t modalities = fusion.modalities.size(), columns = padded(fusion.dimension);
  float* const scores = scratch + kFusionChunk * modalities * columns;
  const uint8_t* const presence = fusion.presence + first * modalities;
  const size_t count = last - first;
  for (size_t m = 0; m < modalities; ++m) {
    const FusionModality& modality = fusion.modalities[m];
    Row rows[kFusionChunk];
    size_t present = 0;
    for (size_t r = 0; r < count; ++r) {
      if (presence[r * modalities + m] == 0) continue;
      const size_t at = (first + r) * modality.features;
      const FusionIntegers* integers = modality.integers;
      rows[present++] = {integers != nullptr ? nullptr : modality.x + at,
                         integers != nullptr ? integers->x + at : nullptr, scratch + (r * modalities + m) * columns};
    }
    if (modality.integers != nullptr) {
      multiply_integers(rows, present, modality.features, *modality.integers, columns);
    } else if (modality.packed != nullptr) {
      multiply_packed(rows, present, modality.features, modality.packed, columns);
    } else {
      multiply_plain(rows, present, modality.features, modality.weight, fusion.dimension);
    }
    for (size_t r = 0; r < count; ++r) {
      if (presence[r * modalities + m] == 0) continue;
      scores[r * modalities + m] =
          normalize(modality, fusion.dimension, fusion.epsilon, scratch + (r * modalities + m) * columns);
    }
  }
  for (size_t r = 0; r < count; ++r) {
    combine(presence + r * modalities, scores + r * modalities, modalities, scratch + r * modalities * columns, columns,
            fusion.dimension, fusion.y + (first + r) * fusion.dimension);
  }
  if (fusion.alpha != nullptr) std::copy_n(scores, count * modalities, fusion.alpha + first * modalities);
}

}  // namespace
}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mmedge {
namespace {

HWY_EXPORT(run);
HWY_EXPORT(has_integers);

}  // namespace

bool fuses_integers() { return HWY_DYNAMIC_DISPATCH(has_integers)(); }

size_t packed_fusion_integers_size(size_t dimension, size_t features) {
  return padded(dimension) * groups_of(features) * kGroup;
}

void pack_fusion_integers(const int8_t* weight, size_t dimension, size_t features, int8_t* packed) {
  const size_t columns = padded(dimension);
  size_t at = 0;
  for (size_t column = 0; column < columns;) {
    const size_t width = panel_width(column, columns);
    for (size_t group = 0; group < groups_of(features); ++group) {
      for (size_t i = column; i < column + width; ++i) {
        for (size_t feature = group * kGroup; feature < (group + 1) * kGroup; ++feature) {
          packed[at++] = i < dimension && feature < features ? weight[i * features + feature] : int8_t{0};
        }
      }
    }
    column += width;
  }
}

size_t packed_fusion_weight_size(size_t dimension, size_t features) { return padded(dimension) * features; }

void pack_fusion_weight(const float* weight, size_t dimension, size_t features, float* packed) {
  const size_t columns = padded(dimension);
  size_t at = 0;
  for (size_t column = 0; column < columns;) {
    const size_t width = panel_width(column, columns);
    for (size_t feature = 0; feature < features; ++feature) {
      for (size_t i = column; i < column + width; ++i) {
        packed[at++] = i < dimension ? weight[i * features + feature] : 0.0F;
      }
    }
    column += width;
  }
}

void gated_fusion(const Fusion& fusion, size_t first, size_t last) {
  // One thread computes one call at a time, so what belongs to the thread is safe however many share a session.
  thread_local Tensor scratch;
  const auto size = static_cast<int64_t>(kFusionChunk * fusion.modalities.size() * (padded(fusion.dimension) + 1));
  scratch.resize(ElementType::kFloat32, {&size, 1});
  for (; first < last; first += kFusionChunk) {
    HWY_DYNAMIC_DISPATCH(run)(fusion, first, std::min(last, first + kFusionChunk), scratch.values<float>().data());
  }
}

}  // namespace mmedge
#endif
