// What gated_fusion.cu does with rows of z: which there are to be, and steps 2 to 6 once a tile of them is complete.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/gated_fusion/gated_fusion_cuda.h"

namespace mmedge {

// What a row needs of a modality to be mixed.
struct __align__(16) FusionShare {
  float mean, scale;
  float alpha;  // the score, before step 5; zero where the modality is absent
};

// In shared memory.
template <int kTileRows>
struct FusionRows {
  unsigned present[kCudaFusionMostModalities];  // bit r: whether row r of the tile has the modality
  FusionShare shares[kTileRows][kCudaFusionMostModalities];
  bool is_last;
};

// Bit r: whether row first + r of the batch has the block's own modality. Leaves those of all in `tile`, for whoever
// comes after the next __syncthreads().
template <int kTileRows, class Element>
__device__ unsigned find_present(const CudaFusion<Element>& fusion, int first, FusionRows<kTileRows>& tile) {
  static_assert(kTileRows <= kWarp, "a lane for each row");
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const bool inside = lane < kTileRows && first + lane < fusion.batch;
  const size_t pair = static_cast<size_t>(min(first + lane, fusion.batch - 1)) * fusion.modality_count;
  const auto flag = [&](unsigned modality) { return fusion.presence[(pair + modality) * fusion.presence_stride]; };
  // Both are read before one is waited for.
  const unsigned own = flag(blockIdx.z), other = flag(min(warp, fusion.modality_count - 1));
  const unsigned present = __ballot_sync(kWholeWarp, inside && own != 0);
  const unsigned others = __ballot_sync(kWholeWarp, inside && other != 0);
  if (lane == 0 && warp < fusion.modality_count) tile.present[warp] = others;
  return present;
}

template <class Element>
__device__ float* row_of_z(const CudaFusion<Element>& fusion, int row, int modality) {
  return fusion.z + (static_cast<size_t>(row) * fusion.modality_count + modality) * fusion.dimension;
}

// What makes sums of one column z.
struct FusionColumn {
  float bias, scale = 1.0F;
  int offset = 0;
};

template <class Element>
__device__ FusionColumn load_column(const CudaFusionModality<Element>& modality, int column) {
  if constexpr (std::is_same_v<Element, int8_t>) {
    return {modality.bias[column], modality.scale[column], modality.offset[column]};
  } else {
    return {modality.bias[column]};
  }
}

__device__ inline float to_z(const FusionColumn& column, float sum) { return sum + column.bias; }
__device__ inline float to_z(const FusionColumn& column, int sum) {
  return static_cast<float>(sum - column.offset) * column.scale + column.bias;
}

__device__ inline void store_y(float* to, float value) { *to = value; }
__device__ inline void store_y(__half* to, float value) { *to = __float2half_rn(value); }

// Steps 2 and 3, of one number.
__device__ inline float normalize(float z, float mean, float scale, float weight, float bias) {
  const float n = fmaf((z - mean) * scale, weight, bias);
  return n < 0.0F ? 0.0F : n;  // a NaN stays one
}

// Steps 2 to 4 by kLanes lanes, of kRows rows from `first` on and one modality; bit r of `present`: whether there is
// row r, and in it the modality.
template <int kLanes, int kRows, class Element>
__device__ void score(const CudaFusion<Element>& fusion, int m, int first, unsigned present,
                      FusionShare (*shares)[kCudaFusionMostModalities]) {
  const auto& modality = fusion.modalities[m];
  const int lane = static_cast<int>(threadIdx.x % kLanes), columns = present != 0 ? fusion.dimension : 0;
  const auto size = static_cast<float>(fusion.dimension);
  const int stride = fusion.modality_count * fusion.dimension;
  const float* const z = row_of_z(fusion, first, m);
  const auto z_at = [&](int r, int column) {
    return kRows == 1 || (present >> r & 1U) != 0 ? z[r * stride + column] : 0.0F;
  };
  float mean[kRows] = {}, scale[kRows] = {}, sums[kRows] = {};
#pragma unroll(kRows == 1 ? 8 : 4)
  for (int i = lane; i < columns; i += kLanes) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) mean[r] += z_at(r, i);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) mean[r] = __fdividef(sum_lanes<kLanes>(mean[r]), size);
#pragma unroll(kRows == 1 ? 8 : 2)
  for (int i = lane; i < columns; i += kLanes) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float from_mean = z_at(r, i) - mean[r];
      scale[r] = fmaf(from_mean, from_mean, scale[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    scale[r] = rsqrtf(__fdividef(sum_lanes<kLanes>(scale[r]), size) + fusion.epsilon);
  }
#pragma unroll(kRows == 1 ? 4 : 2)
  for (int i = lane; i < columns; i += kLanes) {
    const float weight = modality.norm_weight[i], bias = modality.norm_bias[i], gate = modality.gate_weight[i];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      sums[r] = fmaf(normalize(z_at(r, i), mean[r], scale[r], weight, bias), gate, sums[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    sums[r] = sum_lanes<kLanes>(sums[r]);
    if (lane == 0 && (present >> r & 1U) != 0) shares[r][m] = {mean[r], scale[r], sums[r] + *modality.gate_bias};
  }
}

// Step 5, of one row; bit m of `present`: whether it has the modality.
__device__ inline void gate(unsigned present, int modalities, FusionShare* shares, float* alpha) {
  float most = 0.0F, sum = 0.0F;
  bool any = false;
  for (int m = 0; m < modalities; ++m) {
    if ((present >> m & 1U) == 0) continue;
    most = any ? fmaxf(most, shares[m].alpha) : shares[m].alpha;
    any = true;
  }
  for (int m = 0; m < modalities; ++m) {
    shares[m].alpha = (present >> m & 1U) != 0 ? expf(shares[m].alpha - most) : 0.0F;
    sum += shares[m].alpha;
  }
  for (int m = 0; m < modalities; ++m) {
    if ((present >> m & 1U) != 0) shares[m].alpha = __fdividef(shares[m].alpha, sum);
    if (alpha != nullptr) alpha[m] = shares[m].alpha;
  }
}

// Step 6, of a tile of rows, the first `rows` of which there are: four at a time, by a thread for each column.
template <int kThreads, int kTileRows, class Element>
__device__ void mix(const CudaFusion<Element>& fusion, int first, int rows, const FusionRows<kTileRows>& tile) {
  constexpr int together = 4, groups = kTileRows / together;
  for (int i = static_cast<int>(threadIdx.x); i < groups * fusion.dimension; i += kThreads) {
    const int begin = groups == 1 ? 0 : i / fusion.dimension * together;
    const int column = groups == 1 ? i : i % fusion.dimension;
    float mixed[together] = {};
    for (int m = 0; m < fusion.modality_count; ++m) {
      const float weight = fusion.modalities[m].norm_weight[column], bias = fusion.modalities[m].norm_bias[column];
#pragma unroll
      for (int r = 0; r < together; ++r) {
        const FusionShare share = tile.shares[begin + r][m];
        const bool has_any = share.alpha != 0.0F;  // a NaN has
        const float z = has_any ? row_of_z(fusion, first + begin + r, m)[column] : 0.0F;
        const float more = fmaf(share.alpha, normalize(z, share.mean, share.scale, weight, bias), mixed[r]);
        mixed[r] = has_any ? more : mixed[r];
      }
    }
#pragma unroll
    for (int r = 0; r < together; ++r) {
      if (begin + r >= rows) continue;
      store_y(fusion.y + (static_cast<size_t>(first) + begin + r) * fusion.dimension + column, mixed[r]);
    }
  }
}

// Called by every block when its part of z is written: the last of those that share a tile of rows finishes them.
// kLanes lanes score kTogether rows at once.
template <int kThreads, int kLanes, int kTogether, int kTileRows, class Element>
__device__ void finish_rows(const CudaFusion<Element>& fusion, int first, FusionRows<kTileRows>& tile) {
  const int thread = static_cast<int>(threadIdx.x), modalities = fusion.modality_count;
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    unsigned* const ticket = fusion.tickets + blockIdx.y;
    tile.is_last = atomicAdd(ticket, 1U) == gridDim.x * gridDim.z - 1;
    if (tile.is_last) *ticket = 0;
  }
  __syncthreads();
  if (!tile.is_last) return;
  __threadfence();

  const int rows = min(kTileRows, fusion.batch - first), parts = divide_up(rows, kTogether) * modalities;
  for (int begin = 0; begin < parts; begin += kThreads / kLanes) {
    const int part = begin + static_cast<int>(threadIdx.x / kLanes), row = part / modalities * kTogether,
              m = part % modalities;
    const unsigned present = part < parts ? tile.present[m] >> row & ((1U << kTogether) - 1U) : 0U;
    score<kLanes, kTogether>(fusion, m, first + row, present, tile.shares + row);
  }
  __syncthreads();
  if (thread < kTileRows) {
    unsigned present = 0;
    for (int m = 0; m < modalities; ++m) present |= (tile.present[m] >> thread & 1U) << m;
    const bool asked = fusion.alpha != nullptr && thread < rows;
    gate(present, modalities, tile.shares[thread],
         asked ? fusion.alpha + (static_cast<size_t>(first) + thread) * modalities : nullptr);
  }
  __syncthreads();
  mix<kThreads>(fusion, first, rows, tile);
}

}  // namespace mmedge
