#include "kernels/gated_fusion/gated_fusion_panels.h"

#include <numeric>

#include "kernels/gated_fusion/gated_fusion.h"

namespace mmedge {
namespace {

template <class T>
void pack(const T* weight, size_t dimension, size_t features, size_t group, T* packed) {
  const size_t columns = padded(dimension);
  for (size_t column = 0; column < columns;) {
    const size_t end = column + panel_width(column, columns);
    for (size_t first = 0; first < features; first += group) {
      for (size_t i = column; i < end; ++i) {
        for (size_t feature = first; feature < first + group; ++feature) {
          *packed++ = i < dimension && feature < features ? weight[i * features + feature] : T{0};
        }
      }
    }
    column = end;
  }
}

}  // namespace

size_t packed_fusion_weight_size(size_t dimension, size_t features) { return padded(dimension) * features; }

void pack_fusion_weight(const float* weight, size_t dimension, size_t features, float* packed) {
  pack(weight, dimension, features, kFloatGroup, packed);
}

size_t packed_fusion_integers_size(size_t dimension, size_t features) {
  return padded(dimension) * groups_of(features, kByteGroup);
}

void pack_fusion_integers(const int8_t* weight, size_t dimension, size_t features, uint8_t zero, int32_t* packed,
                          int32_t* offset) {
  pack(weight, dimension, features, kByteGroup, reinterpret_cast<int8_t*>(packed));
  for (size_t i = 0; i < dimension; ++i) {
    const int8_t* row = weight + i * features;
    offset[i] = (zero - kByteShift) * std::accumulate(row, row + features, int32_t{0});
  }
}

}  // namespace mmedge
