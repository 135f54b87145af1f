#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/gated_fusion/gated_fusion_panels.h"
#include "tensor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gated_fusion/gated_fusion_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/gated_fusion/gated_fusion_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {
namespace {

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
      const void* x = nullptr;
      if (modality.integers != nullptr) {
        x = modality.integers->x + at;
      } else {
        x = modality.x + at;
      }
      rows[present++] = {x, scratch + (r * modalities + m) * columns};
    }
    multiply(modality, rows, present, fusion.dimension);
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

}  // namespace

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
