// The last step of image_to_tensor: runs of finished values to elements of the tensor. Included once per target.
#if defined(MMEDGE_IMAGE_WRITE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MMEDGE_IMAGE_WRITE_INL_H_
#undef MMEDGE_IMAGE_WRITE_INL_H_
#else
#define MMEDGE_IMAGE_WRITE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/image_to_tensor/image_to_tensor_plan.h"

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {

constexpr ptrdiff_t kRun = 16;  // values along a row of the upright picture

// One run of float values as elements. `zero_point` is of quantised types.
template <class Element>
HWY_INLINE void convert_run(const float* values, int zero_point, Element* elements) {
  const hn::CappedTag<float, kRun> floats;
  for (size_t i = 0; i < kRun; i += hn::Lanes(floats)) {
    const auto value = hn::Load(floats, values + i);
    if constexpr (std::is_same_v<Element, float>) {
      hn::StoreU(value, floats, elements + i);
    } else {
      const hn::Rebind<Element, decltype(floats)> narrow;
      if constexpr (std::is_same_v<Element, hwy::float16_t>) {
        hn::StoreU(hn::DemoteTo(narrow, value), narrow, elements + i);
      } else {
        // Past this any int8 is saturated, whatever the zero point.
        const auto near = hn::Min(hn::Max(value, hn::Set(floats, -512.0F)), hn::Set(floats, 512.0F));
        const auto rounded = hn::NearestInt(near);
        const auto shifted = hn::Add(rounded, hn::Set(hn::RebindToSigned<decltype(floats)>(), zero_point));
        hn::StoreU(hn::DemoteTo(narrow, shifted), narrow, elements + i);
      }
    }
  }
}

// `runs` runs of `length` values from upright pixel (x, y) downwards; values[c][run][kRun], channel c of the tensor's
// order[c].
template <class Element>
HWY_INLINE void write_runs(const ImageDestination& to, const float* values, const int* order, int x, int y, int runs,
                           int length) {
  auto* tensor = static_cast<Element*>(to.tensor);
  const size_t plane = static_cast<size_t>(to.width) * static_cast<size_t>(to.height);
  HWY_ALIGN Element elements[3][kRun];
  // Highway interleaves no halves.
  using Plain = std::conditional_t<std::is_same_v<Element, hwy::float16_t>, uint16_t, Element>;
  HWY_ALIGN Plain plain[3][kRun];
  HWY_ALIGN Plain mixed[3 * kRun];
  for (int run = 0; run < runs; ++run) {
    const size_t pixel = static_cast<size_t>(y + run) * static_cast<size_t>(to.width) + static_cast<size_t>(x);
    const bool whole = length == kRun, planar = to.layout == ImageLayout::kPlanar || to.channels == 1;
    for (int c = 0; c < to.channels; ++c) {
      const float* from = values + (c * kRun + run) * kRun;
      Element* planar_to = tensor + static_cast<size_t>(order[c]) * plane + pixel;
      Element* converted = elements[order[c]];
      convert_run(from, to.zero_point, planar && whole ? planar_to : converted);
      if (planar && !whole) std::memcpy(planar_to, converted, static_cast<size_t>(length) * sizeof(Element));
    }
    if (planar) continue;
    std::memcpy(plain, elements, sizeof plain);
    const hn::CappedTag<Plain, kRun> d;
    Plain* interleaved = static_cast<Plain*>(to.tensor) + 3 * pixel;
    for (size_t i = 0; i < kRun; i += hn::Lanes(d)) {
      hn::StoreInterleaved3(hn::Load(d, plain[0] + i), hn::Load(d, plain[1] + i), hn::Load(d, plain[2] + i), d,
                            (whole ? interleaved : mixed) + 3 * i);
    }
    if (!whole) std::memcpy(interleaved, mixed, 3 * static_cast<size_t>(length) * sizeof(Plain));
  }
}

// The pixels around the resized picture.
template <class Element>
void fill_border_of(const ImagePlan& plan, const ImageDestination& to) {
  const int right = plan.left + (plan.turned ? plan.rows : plan.columns);
  const int bottom = plan.top + (plan.turned ? plan.columns : plan.rows);
  const bool planar = to.layout == ImageLayout::kPlanar;
  const ptrdiff_t step = planar ? 1 : to.channels, plane = planar ? ptrdiff_t{to.width} * to.height : 1;
  for (int c = 0; c < to.channels; ++c) {
    HWY_ALIGN float pad[kRun];
    HWY_ALIGN Element elements[kRun];
    std::fill_n(pad, kRun, plan.pad[c]);
    convert_run(pad, to.zero_point, elements);
    for (int y = 0; y < to.height; ++y) {
      Element* row = static_cast<Element*>(to.tensor) + c * plane + ptrdiff_t{y} * to.width * step;
      const bool outside = y < plan.top || y >= bottom;
      for (int x = 0; x < (outside ? to.width : plan.left); ++x) row[x * step] = elements[0];
      for (int x = outside ? to.width : right; x < to.width; ++x) row[x * step] = elements[0];
    }
  }
}

inline void fill_border(const ImagePlan& plan, const ImageDestination& to) {
  switch (to.type) {
    case ElementType::kFloat16:
      return fill_border_of<hwy::float16_t>(plan, to);
    case ElementType::kUint8:
      return fill_border_of<uint8_t>(plan, to);
    case ElementType::kInt8:
      return fill_border_of<int8_t>(plan, to);
    default:
      return fill_border_of<float>(plan, to);
  }
}

inline HWY_NOINLINE void write_any(const ImageDestination& to, const float* values, const int* order, int x, int y,
                                   int runs, int length) {
  switch (to.type) {
    case ElementType::kFloat16:
      return write_runs<hwy::float16_t>(to, values, order, x, y, runs, length);
    case ElementType::kUint8:
      return write_runs<uint8_t>(to, values, order, x, y, runs, length);
    case ElementType::kInt8:
      return write_runs<int8_t>(to, values, order, x, y, runs, length);
    default:
      return write_runs<float>(to, values, order, x, y, runs, length);
  }
}

}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
