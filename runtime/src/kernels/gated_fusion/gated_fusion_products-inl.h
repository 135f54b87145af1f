// Step 1 of gated_fusion without its bias: products of features and weights. Included once per target.
#if defined(MMEDGE_GATED_FUSION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MMEDGE_GATED_FUSION_PRODUCTS_INL_H_
#undef MMEDGE_GATED_FUSION_PRODUCTS_INL_H_
#else
#define MMEDGE_GATED_FUSION_PRODUCTS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/gated_fusion/gated_fusion_panels.h"

#if HWY_ARCH_ARM_A64
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, kPanel>;
using Ints = hn::RebindToSigned<Floats>;
using Vector = hn::Vec<Floats>;
using IntVector = hn::Vec<Ints>;

constexpr size_t kLanes = hn::MaxLanes(Floats());
// Vectors of a block of four rows: as many accumulators as leave registers for the weights.
constexpr size_t kBatchVectors = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64 ? 4 : 2;

// A row of one modality and its scratch: z, then h.
struct Row {
  const void* x;  // floats or bytes
  float* z;
};

// The first `count` of up to kLanes floats, then zeros; reads no further.
HWY_INLINE Vector load_part(const float* from, size_t count) {
  const Floats d;
  if (count >= kLanes) return hn::LoadU(d, from);
  HWY_ALIGN float part[kLanes] = {};
  std::memcpy(part, from, count * sizeof(float));
  return hn::Load(d, part);
}

// ---- The arithmetic of a word ----

struct FloatProducts {
  using D = Floats;
  static constexpr size_t kGroup = kFloatGroup;
  const float* packed;

  static HWY_INLINE Vector broadcast(const void* x, size_t group, size_t) {
    return hn::Set(D(), static_cast<const float*>(x)[group]);
  }
  static HWY_INLINE Vector add(Vector sum, Vector x, Vector weight) { return hn::MulAdd(x, weight, sum); }
  HWY_INLINE void store(Vector sum, size_t column, float* z) const { hn::Store(sum, D(), z + column); }
};

// Without a dot product NEON and x86 take two or four steps to the same sum.
template <bool kDotProduct>
struct IntegerProducts {
  using D = Ints;
  static constexpr size_t kGroup = kByteGroup;
  const int32_t* packed;
  const FusionIntegers& integers;

  static HWY_INLINE IntVector broadcast(const void* x, size_t group, size_t count) {
    uint32_t word = 0;
    std::memcpy(&word, static_cast<const uint8_t*>(x) + group * kGroup, count);
    return hn::Set(D(), static_cast<int32_t>(word ^ (kByteShift * 0x01010101U)));
  }

  // Four products of bytes to each sum, x (on NEON less 128) times weight.
  static HWY_INLINE IntVector add(IntVector sum, IntVector x, IntVector weight) {
#if HWY_TARGET == HWY_AVX3_DL
    // Every processor of this target has VNNI, but Highway does not tell the compiler.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(x.raw), "vm"(weight.raw));
    return sum;
#elif HWY_ARCH_ARM_A64
    if constexpr (kDotProduct) {
      // The compiler is not to use what some processors of this target lack; the assembler is told of it here.
      asm(".arch armv8.2-a+crypto+dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(sum.raw) : "w"(x.raw), "w"(weight.raw));
      return sum;
    } else {
      const int8x16_t a = vreinterpretq_s8_s32(x.raw), b = vreinterpretq_s8_s32(weight.raw);
      const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
      return IntVector{vaddq_s32(sum.raw, vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(a, b))))};
    }
#elif HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
    // The even bytes and the odd ones, each in 16 bits: sums of two such products do not fit those.
    const hn::Repartition<int16_t, D> shorts;
    const hn::Repartition<uint16_t, D> words;
    const auto x16 = hn::BitCast(words, x);
    const auto weight16 = hn::BitCast(shorts, weight);
    const auto even = hn::BitCast(shorts, hn::And(x16, hn::Set(words, 255)));
    const auto odd = hn::BitCast(shorts, hn::ShiftRight<8>(x16));
    IntVector unused = sum;
    sum = hn::ReorderWidenMulAccumulate(D(), even, hn::ShiftRight<8>(hn::ShiftLeft<8>(weight16)), sum, unused);
    return hn::ReorderWidenMulAccumulate(D(), odd, hn::ShiftRight<8>(weight16), sum, unused);
#else
    const IntVector byte = hn::Set(D(), 255);
    sum = hn::Add(sum, hn::Mul(hn::And(x, byte), hn::ShiftRight<24>(hn::ShiftLeft<24>(weight))));
    sum = hn::Add(sum, hn::Mul(hn::And(hn::ShiftRight<8>(x), byte), hn::ShiftRight<24>(hn::ShiftLeft<16>(weight))));
    sum = hn::Add(sum, hn::Mul(hn::And(hn::ShiftRight<16>(x), byte), hn::ShiftRight<24>(hn::ShiftLeft<8>(weight))));
    return hn::Add(sum, hn::Mul(hn::And(hn::ShiftRight<24>(x), byte), hn::ShiftRight<24>(weight)));
#endif
  }

  HWY_INLINE void store(IntVector sum, size_t column, float* z) const {
    const Vector real = hn::ConvertTo(Floats(), hn::Sub(sum, hn::LoadU(D(), integers.offset + column)));
    hn::Store(hn::Mul(real, hn::LoadU(Floats(), integers.scale + column)), Floats(), z + column);
  }
};

// ---- Blocks of rows and output features ----

// z for kRows rows and kVectors vectors of one panel's output features.
template <size_t kRows, size_t kVectors, class Products, class Word>
HWY_INLINE void multiply_block(const Products& products, const Row* rows, size_t features,
                               const Word* HWY_RESTRICT panel, size_t width, size_t column) {
  // Enough independent sums to hide the latency of one.
  constexpr size_t steps = kRows * kVectors >= 8 ? 1 : 8 / (kRows * kVectors);
  constexpr size_t group_size = Products::kGroup;
  const typename Products::D d;
  using Sum = hn::Vec<typename Products::D>;
  Sum sums[steps][kRows][kVectors];
  for (auto& step : sums) {
    for (auto& row : step) {
      for (Sum& sum : row) sum = hn::Zero(d);
    }
  }
  const auto add = [&](size_t step, size_t group, size_t count) HWY_ATTR {
    const Word* HWY_RESTRICT weights = panel + group * width;
    Sum x[kRows];
    for (size_t r = 0; r < kRows; ++r) x[r] = Products::broadcast(rows[r].x, group, count);
    for (size_t v = 0; v < kVectors; ++v) {
      const Sum weight = hn::Load(d, weights + v * kLanes);
      for (size_t r = 0; r < kRows; ++r) sums[step][r][v] = Products::add(sums[step][r][v], x[r], weight);
    }
  };
  const size_t whole = features / group_size;
  size_t group = 0;
  for (; group + steps <= whole; group += steps) {
    for (size_t step = 0; step < steps; ++step) add(step, group + step, group_size);
  }
  if constexpr (steps > 1) {
    for (; group < whole; ++group) add(0, group, group_size);
  }
  if (features % group_size != 0) add(0, whole, features % group_size);
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      Sum sum = sums[0][r][v];
      for (size_t step = 1; step < steps; ++step) sum = hn::Add(sum, sums[step][r][v]);
      products.store(sum, column + v * kLanes, rows[r].z);
    }
  }
}

template <size_t kRows, size_t kVectors, class Products, class Word>
HWY_INLINE void multiply_panel(const Products& products, const Row* rows, size_t features, const Word* panel,
                               size_t width, size_t column) {
  for (size_t at = 0; at < width; at += kVectors * kLanes) {
    multiply_block<kRows, kVectors>(products, rows, features, panel + at, width, column + at);
  }
}

template <size_t kRows, class Products, class Word>
HWY_NOINLINE void multiply_rows(const Products& products, const Row* rows, size_t features, const Word* panel,
                                size_t width, size_t column) {
  constexpr size_t wide = std::min(kRows == 1 ? 8 : kRows == 2 ? 4 : kBatchVectors, kWidePanel / kLanes);
  constexpr size_t narrow = std::min(wide, kPanel / kLanes);
  if (width == kWidePanel) {
    multiply_panel<kRows, wide>(products, rows, features, panel, width, column);
  } else {
    multiply_panel<kRows, narrow>(products, rows, features, panel, width, column);
  }
}

template <class Products>
void multiply_panels(const Products& products, const Row* rows, size_t count, size_t features, size_t columns) {
  const auto* panel = products.packed;
  for (size_t column = 0; column < columns;) {
    const size_t width = panel_width(column, columns);
    size_t row = 0;
    for (; row + 4 <= count; row += 4) multiply_rows<4>(products, rows + row, features, panel, width, column);
    if (row + 2 <= count) {
      multiply_rows<2>(products, rows + row, features, panel, width, column);
      row += 2;
    }
    if (row < count) multiply_rows<1>(products, rows + row, features, panel, width, column);
    panel += width * groups_of(features, Products::kGroup);
    column += width;
  }
}

// ---- A modality's rows ----

// Weights as they come, for graphs whose weights are computed: a dot product per output feature.
inline void multiply_plain(const Row* rows, size_t count, size_t features, const float* weight, size_t dimension) {
  const Floats d;
  for (size_t r = 0; r < count; ++r) {
    const auto* const x = static_cast<const float*>(rows[r].x);
    for (size_t column = 0; column < dimension; ++column) {
      const float* weights = weight + column * features;
      Vector even = hn::Zero(d), odd = hn::Zero(d);
      size_t feature = 0;
      for (; feature + 2 * kLanes <= features; feature += 2 * kLanes) {
        const auto at = [&](size_t i) HWY_ATTR { return hn::LoadU(d, weights + i); };
        even = hn::MulAdd(hn::LoadU(d, x + feature), at(feature), even);
        odd = hn::MulAdd(hn::LoadU(d, x + feature + kLanes), at(feature + kLanes), odd);
      }
      for (; feature < features; feature += kLanes) {
        const size_t left = features - feature;
        even = hn::MulAdd(load_part(x + feature, left), load_part(weights + feature, left), even);
      }
      rows[r].z[column] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
    }
    std::fill(rows[r].z + dimension, rows[r].z + padded(dimension), 0.0F);
  }
}

inline void multiply_integers(const Row* rows, size_t count, size_t features, const FusionIntegers& integers,
                              size_t columns) {
#if HWY_ARCH_ARM_A64
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) == 0) {
    return multiply_panels(IntegerProducts<false>{integers.packed, integers}, rows, count, features, columns);
  }
#endif
  multiply_panels(IntegerProducts<true>{integers.packed, integers}, rows, count, features, columns);
}

inline void multiply(const FusionModality& modality, const Row* rows, size_t count, size_t dimension) {
  const size_t features = modality.features, columns = padded(dimension);
  if (modality.integers != nullptr) {
    multiply_integers(rows, count, features, *modality.integers, columns);
  } else if (modality.packed != nullptr) {
    multiply_panels(FloatProducts{modality.packed}, rows, count, features, columns);
  } else {
    multiply_plain(rows, count, features, modality.weight, dimension);
  }
}

}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
