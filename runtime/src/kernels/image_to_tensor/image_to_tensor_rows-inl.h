// The row pass of image_to_tensor: blocks of byte columns to vectors of 16 resized rows. Included once per target.
#if defined(MMEDGE_IMAGE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MMEDGE_IMAGE_ROWS_INL_H_
#undef MMEDGE_IMAGE_ROWS_INL_H_
#else
#define MMEDGE_IMAGE_ROWS_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/image_to_tensor/image_to_tensor_plan.h"

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::ScalableTag<uint8_t> kBytes;
constexpr hn::ScalableTag<int16_t> kShorts;
constexpr hn::ScalableTag<int32_t> kInts;
constexpr hn::ScalableTag<float> kFloats;
using VI = hn::Vec<decltype(kInts)>;
using VF = hn::Vec<decltype(kFloats)>;
constexpr ptrdiff_t kLanes = HWY_LANES(int32_t);
constexpr ptrdiff_t kBlockBytes = HWY_LANES(uint8_t);
constexpr ptrdiff_t kChunks = kStripRows / kLanes;
constexpr ptrdiff_t kBlocks128 = kLanes / 4;
constexpr int kPrefetchBytes = 384;  // six cache lines of a row

// sum + low * low + high * high of each lane's two 16-bit halves.
HWY_INLINE VI add_pair_products(VI sum, VI a, VI b) {
#if HWY_TARGET == HWY_AVX3_DL
  // Every processor of this target has VNNI, but Highway does not tell the compiler.
  __asm__("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(b.raw), "vm"(a.raw));
  return sum;
#elif HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  VI unused = sum;
  return hn::ReorderWidenMulAccumulate(kInts, hn::BitCast(kShorts, a), hn::BitCast(kShorts, b), sum, unused);
#elif HWY_TARGET == HWY_NEON && HWY_ARCH_ARM_A64
  const int16x8_t x = vreinterpretq_s16_s32(a.raw), y = vreinterpretq_s16_s32(b.raw);
  const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
  return VI{vaddq_s32(sum.raw, vpaddq_s32(low, vmull_high_s16(x, y)))};
#else
  const auto low = [](VI v) HWY_ATTR { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
  return sum + hn::Mul(low(a), low(b)) + hn::Mul(hn::ShiftRight<16>(a), hn::ShiftRight<16>(b));
#endif
}

// The low halves of two vectors' lanes as pairs, and the high halves.
HWY_INLINE VI pair_low(VI first, VI second) {
  return hn::BitCast(kInts, hn::OddEven(hn::BitCast(kShorts, hn::ShiftLeft<16>(second)), hn::BitCast(kShorts, first)));
}
HWY_INLINE VI pair_high(VI first, VI second) {
  const hn::RebindToUnsigned<decltype(kInts)> unsigned_ints;
  const auto high = hn::ShiftRight<16>(hn::BitCast(unsigned_ints, first));
  return hn::BitCast(kInts, hn::OddEven(hn::BitCast(kShorts, second), hn::BitCast(kShorts, high)));
}

// x[i] lane j becomes x[j] lane i.
template <class D, class V>
HWY_INLINE void transpose(D d, V (&x)[kLanes]) {
  const hn::Repartition<uint64_t, D> d64;
  V quads[4][kBlocks128];  // [lane within a block][four rows]
#pragma GCC unroll 4
  for (int group = 0; group < kBlocks128; ++group) {
    const V* row = x + 4 * group;
    const auto low0 = hn::BitCast(d64, hn::InterleaveLower(d, row[0], row[1]));
    const auto low1 = hn::BitCast(d64, hn::InterleaveLower(d, row[2], row[3]));
    const auto high0 = hn::BitCast(d64, hn::InterleaveUpper(d, row[0], row[1]));
    const auto high1 = hn::BitCast(d64, hn::InterleaveUpper(d, row[2], row[3]));
    quads[0][group] = hn::BitCast(d, hn::InterleaveLower(d64, low0, low1));
    quads[1][group] = hn::BitCast(d, hn::InterleaveUpper(d64, low0, low1));
    quads[2][group] = hn::BitCast(d, hn::InterleaveLower(d64, high0, high1));
    quads[3][group] = hn::BitCast(d, hn::InterleaveUpper(d64, high0, high1));
  }
#pragma GCC unroll 4
  for (int lane = 0; lane < 4; ++lane) {
    const V* quad = quads[lane];
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    const hn::RebindToSigned<D> di;
    const auto even = [di](V a, V b) HWY_ATTR {
      return _mm512_shuffle_i32x4(hn::BitCast(di, a).raw, hn::BitCast(di, b).raw, 0x88);
    };
    const auto odd = [di](V a, V b) HWY_ATTR {
      return _mm512_shuffle_i32x4(hn::BitCast(di, a).raw, hn::BitCast(di, b).raw, 0xdd);
    };
    const auto back = [d](__m512i a) HWY_ATTR { return hn::BitCast(d, VI{a}); };
    const V even01 = back(even(quad[0], quad[1])), even23 = back(even(quad[2], quad[3]));
    const V odd01 = back(odd(quad[0], quad[1])), odd23 = back(odd(quad[2], quad[3]));
    x[lane] = back(even(even01, even23));
    x[4 + lane] = back(even(odd01, odd23));
    x[8 + lane] = back(odd(even01, even23));
    x[12 + lane] = back(odd(odd01, odd23));
#elif HWY_TARGET == HWY_AVX2
    x[lane] = hn::ConcatLowerLower(d, quad[1], quad[0]);
    x[4 + lane] = hn::ConcatUpperUpper(d, quad[1], quad[0]);
#else
    x[lane] = quad[0];
#endif
  }
}

// Whether the row pass sorts even byte columns from odd ones; otherwise neighbours stay pairs.
constexpr bool splits_bytes(SurfaceLayout layout) {
  return layout != SurfaceLayout::kPlane && layout != SurfaceLayout::kRgb;
}

// Resizes one block of byte columns by rows, to values of 1/128 level. Source row 0 is at
// `source - origin * stride`. Output row i, `count` of them from `first` on,
// goes to lines[i * step]: two vectors of 16-bit pairs. Split: even columns, then odd ones, in order. Otherwise pairs
// of neighbours, each 128-bit block's first four pairs in the one and last four in the other.
template <bool kSplit>
HWY_NOINLINE void resize_rows(const uint8_t* source, ptrdiff_t stride, int origin, const RowSchedule& rows, int first,
                              int count, int32_t* lines, ptrdiff_t step, ptrdiff_t ahead) {
  const int shift = rows.bits - 7;
  const VI half = hn::Set(kInts, 1 << (shift - 1));
  const auto low_byte = hn::Set(kShorts, int16_t{0xff});
  // Of even and odd columns, in the lower and upper half of each 128-bit block.
  VI even_low = half, even_high = half, odd_low = half, odd_high = half;
  VI next_even_low = half, next_even_high = half, next_odd_low = half, next_odd_high = half;
  const RowStep* row_step = rows.steps.data() + rows.ends[static_cast<size_t>(first)];
  for (int row = first; row < first + count; ++row) {
    const RowStep* end = rows.steps.data() + rows.ends[static_cast<size_t>(row) + 1];
    for (; row_step != end; ++row_step) {
      const uint8_t* bytes = source + (row_step->row - origin) * stride;
      const uint8_t* second_bytes = bytes + row_step->second * stride;
      const auto a = hn::BitCast(kShorts, hn::LoadU(kBytes, bytes));
      const auto b = hn::BitCast(kShorts, hn::LoadU(kBytes, second_bytes));
      hwy::Prefetch(bytes + ahead);
      hwy::Prefetch(second_bytes + ahead);
      const auto low = hn::InterleaveLower(kShorts, a, b), high = hn::InterleaveUpper(kShorts, a, b);
      const hn::RebindToUnsigned<decltype(kShorts)> unsigned_shorts;
      const VI e0 = hn::BitCast(kInts, hn::And(low, low_byte)), e1 = hn::BitCast(kInts, hn::And(high, low_byte));
      const VI o0 = hn::BitCast(kInts, hn::ShiftRight<8>(hn::BitCast(unsigned_shorts, low)));
      const VI o1 = hn::BitCast(kInts, hn::ShiftRight<8>(hn::BitCast(unsigned_shorts, high)));
      const VI current = hn::Set(kInts, static_cast<int32_t>(row_step->current));
      even_low = add_pair_products(even_low, e0, current);
      even_high = add_pair_products(even_high, e1, current);
      odd_low = add_pair_products(odd_low, o0, current);
      odd_high = add_pair_products(odd_high, o1, current);
      const VI next = hn::Set(kInts, static_cast<int32_t>(row_step->next));
      next_even_low = add_pair_products(next_even_low, e0, next);
      next_even_high = add_pair_products(next_even_high, e1, next);
      next_odd_low = add_pair_products(next_odd_low, o0, next);
      next_odd_high = add_pair_products(next_odd_high, o1, next);
    }
    const VI e0 = hn::ShiftRightSame(even_low, shift), e1 = hn::ShiftRightSame(even_high, shift);
    const VI o0 = hn::ShiftRightSame(odd_low, shift), o1 = hn::ShiftRightSame(odd_high, shift);
    if constexpr (kSplit) {
      hn::Store(hn::BitCast(kInts, hn::ReorderDemote2To(kShorts, e0, e1)), kInts, lines);
      hn::Store(hn::BitCast(kInts, hn::ReorderDemote2To(kShorts, o0, o1)), kInts, lines + kLanes);
    } else {
      hn::Store(pair_low(e0, o0), kInts, lines);
      hn::Store(pair_low(e1, o1), kInts, lines + kLanes);
    }
    lines += step;
    even_low = next_even_low;
    even_high = next_even_high;
    odd_low = next_odd_low;
    odd_high = next_odd_high;
    next_even_low = next_even_high = next_odd_low = next_odd_high = half;
  }
}

// Transposes the lines of one block to vectors of 16 rows per pair of columns, sorted by channel. windows[c] is where
// channel c's pairs go.
template <SurfaceLayout kLayout>
HWY_NOINLINE void transpose_block(const int32_t* lines, int32_t* const* windows) {
  const auto put = [](int32_t* window, int pair, int chunk, VI value)
                       HWY_ATTR { hn::Store(value, kInts, window + pair * kStripRows + chunk * kLanes); };
#pragma GCC unroll 1
  for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      VI x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) x[i] = hn::Load(kInts, lines + ((chunk * kLanes + i) * 2 + half) * kLanes);
      transpose(kInts, x);
#pragma GCC unroll 4
      for (int block = 0; block < kBlocks128; ++block) {
        const VI* quad = x + ptrdiff_t{4} * block;
        const int pair = 2 * block;  // of channels with one pair in two vectors
        if constexpr (kLayout == SurfaceLayout::kPlane || kLayout == SurfaceLayout::kRgb) {
          for (int i = 0; i < 4; ++i) put(windows[0], 8 * block + 4 * half + i, chunk, quad[i]);
        } else if constexpr (kLayout == SurfaceLayout::kUv) {
          for (int i = 0; i < 4; ++i) put(windows[half], 4 * block + i, chunk, quad[i]);
        } else if constexpr (kLayout == SurfaceLayout::kRgba) {
          put(windows[half], pair, chunk, pair_low(quad[0], quad[1]));
          put(windows[half], pair + 1, chunk, pair_low(quad[2], quad[3]));
          if (half == 0) {
            put(windows[2], pair, chunk, pair_high(quad[0], quad[1]));
            put(windows[2], pair + 1, chunk, pair_high(quad[2], quad[3]));
          }
        } else if (half == (kLayout == SurfaceLayout::kYuyv ? 0 : 1)) {
          for (int i = 0; i < 4; ++i) put(windows[0], 4 * block + i, chunk, quad[i]);
        } else {
          put(windows[1], pair, chunk, pair_low(quad[0], quad[1]));
          put(windows[1], pair + 1, chunk, pair_low(quad[2], quad[3]));
          put(windows[2], pair, chunk, pair_high(quad[0], quad[1]));
          put(windows[2], pair + 1, chunk, pair_high(quad[2], quad[3]));
        }
      }
    }
  }
}

// Sorts pairs of neighbouring bytes RG BR GB by channel.
inline HWY_NOINLINE void sort_rgb(const int32_t* raw, int32_t* const* windows) {
  for (ptrdiff_t i = 0; i < kBlockBytes / 2 * kStripRows; i += kStripRows, raw += 3 * kStripRows) {
    for (ptrdiff_t at = 0; at < kStripRows; at += kLanes) {
      const VI rg = hn::Load(kInts, raw + at), br = hn::Load(kInts, raw + kStripRows + at);
      const VI gb = hn::Load(kInts, raw + 2 * kStripRows + at);
      const auto first = hn::BitCast(kShorts, rg), middle = hn::BitCast(kShorts, br), last = hn::BitCast(kShorts, gb);
      hn::Store(hn::BitCast(kInts, hn::OddEven(middle, first)), kInts, windows[0] + i + at);
      const hn::RebindToUnsigned<decltype(kInts)> unsigned_ints;
      const VI green = hn::BitCast(kInts, hn::ShiftRight<16>(hn::BitCast(unsigned_ints, rg)));
      hn::Store(hn::Or(green, hn::ShiftLeft<16>(gb)), kInts, windows[1] + i + at);
      hn::Store(hn::BitCast(kInts, hn::OddEven(last, middle)), kInts, windows[2] + i + at);
    }
  }
}

}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
