// How weights are packed for gated_fusion, for the code that packs them and the code that reads them.
#pragma once

#include <hwy/detect_compiler_arch.h>

#include <cstddef>

namespace mmedge {

// A packed weight is cut into panels of 64 output features and then, for the rest, of 16, the last padded with zeros;
// a panel holds its 64 or 16 words of the first group of input features, then of the second, and so on. A word is one
// float of a group of one feature, or four bytes of a group of four, those past the last feature zero.
constexpr size_t kWidePanel = 64, kPanel = 16;
constexpr size_t kFloatGroup = 1, kByteGroup = 4;

constexpr size_t padded(size_t dimension) { return (dimension + kPanel - 1) / kPanel * kPanel; }

constexpr size_t panel_width(size_t first_column, size_t columns) {
  return columns - first_column >= kWidePanel ? kWidePanel : kPanel;
}

constexpr size_t groups_of(size_t features, size_t group) { return (features + group - 1) / group; }

// What is taken from a byte of x before the product: NEON multiplies bytes of which both are signed.
constexpr int kByteShift = HWY_ARCH_ARM_A64 ? 128 : 0;

}  // namespace mmedge
