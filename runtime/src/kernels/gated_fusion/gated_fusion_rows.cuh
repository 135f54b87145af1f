// What gated_fusion.cu does with rows of z: which there are to be, and steps 2 to 6 once a tile of them is complete.
#pragma once

#include <cuda_fp16.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/gated_fusion/gated_fusion_cuda.h"

namespace mmedge {

// What a row needs of a modality to be mixed.
struct __align__(16) FusionShare {
  float mean, scale, score;
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

// A span is what a warp holds of a row at a time: of each lane fours of columns, kWarp fours apart.
constexpr int kHeldFours = 2, kFusionSpan = 4 * kHeldFours * kWarp;

// On the host: whether a row is one span, whose fours are aligned. What is below takes this as kOneSpan, and then needs
// neither loops nor conditions.
template <class Element>
bool has_one_span(const CudaFusion<Element>& fusion) {
  const auto is_aligned = [](const float* from) { return reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0; };
  bool is = fusion.dimension == kFusionSpan && is_aligned(fusion.z);
  for (int m = 0; m < fusion.modality_count; ++m) {
    const auto& modality = fusion.modalities[m];
    is = is && is_aligned(modality.norm_weight) && is_aligned(modality.norm_bias) && is_aligned(modality.gate_weight);
  }
  return is;
}

// Of a row of which there are `left` from `from` on; zeros past its end.
template <bool kOneSpan, int kFours>
__device__ void load_fours(const float* from, int left, float (&to)[kFours][4]) {
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int column = 4 * kWarp * i;
    if constexpr (kOneSpan) {
      const float4 four = *reinterpret_cast<const float4*>(from + column);
      to[i][0] = four.x, to[i][1] = four.y, to[i][2] = four.z, to[i][3] = four.w;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) to[i][j] = column + j < left ? from[column + j] : 0.0F;
    }
  }
}

// Steps 2 to 4 by a warp, of one row and modality. A row of one span is read once, and its parameters with it, before
// any of it is waited for.
template <bool kOneSpan, class Element>
__device__ FusionShare score(const CudaFusion<Element>& fusion, int row, int m) {
  const auto& modality = fusion.modalities[m];
  const int dimension = kOneSpan ? kFusionSpan : fusion.dimension, column = static_cast<int>(threadIdx.x % kWarp) * 4;
  const int left = dimension - column;
  const float part = __fdividef(1.0F, static_cast<float>(dimension)), gate_bias = *modality.gate_bias;
  float z[kHeldFours][4], weight[kHeldFours][4], bias[kHeldFours][4], gate[kHeldFours][4];
  const auto load_z = [&](int first) {
    load_fours<kOneSpan>(row_of_z(fusion, row, m) + column + first, left - first, z);
  };
  const auto load_parameters = [&](int first) {
    load_fours<kOneSpan>(modality.norm_weight + column + first, left - first, weight);
    load_fours<kOneSpan>(modality.norm_bias + column + first, left - first, bias);
    load_fours<kOneSpan>(modality.gate_weight + column + first, left - first, gate);
  };
  if (kOneSpan) {
    load_z(0);
    load_parameters(0);
  }

  float sum = 0.0F, squares = 0.0F, product = 0.0F;
#pragma unroll 1
  for (int first = 0; first < dimension; first += kFusionSpan) {
    if (!kOneSpan) load_z(first);
#pragma unroll
    for (const auto& four : z) sum += (four[0] + four[1]) + (four[2] + four[3]);
  }
  const float mean = sum_lanes<kWarp>(sum) * part;
#pragma unroll 1
  for (int first = 0; first < dimension; first += kFusionSpan) {
    if (!kOneSpan) load_z(first);
#pragma unroll
    for (int i = 0; i < kHeldFours; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float from_mean = kOneSpan || first + 4 * kWarp * i + j < left ? z[i][j] - mean : 0.0F;
        squares = fmaf(from_mean, from_mean, squares);
      }
    }
  }
  const float scale = rsqrtf(fmaf(sum_lanes<kWarp>(squares), part, fusion.epsilon));
#pragma unroll 1
  for (int first = 0; first < dimension; first += kFusionSpan) {
    if (!kOneSpan) {
      load_z(first);
      load_parameters(first);
    }
#pragma unroll
    for (int i = 0; i < kHeldFours; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // Nothing past the row's end, where all three parameters are zero.
        product = fmaf(normalize(z[i][j], mean, scale, weight[i][j], bias[i][j]), gate[i][j], product);
      }
    }
  }
  return {mean, scale, sum_lanes<kWarp>(product) + gate_bias};
}

// Step 5 by a warp, of one row: lane m gets the alpha of modality m.
__device__ inline float gate(bool is_present, float score) {
  float most = is_present ? score : -INFINITY;
  for (int lanes = kCudaFusionMostModalities / 2; lanes > 0; lanes /= 2) {
    most = fmaxf(most, __shfl_xor_sync(kWholeWarp, most, lanes));
  }
  const float power = is_present ? expf(score - most) : 0.0F;
  const float sum = sum_lanes<kCudaFusionMostModalities>(power);
  return is_present ? __fdividef(power, sum) : 0.0F;
}

// Steps 5 and 6 by a warp, of kFours of its columns from `first_column` on, in row r of a tile.
template <bool kOneSpan, int kFours, int kTileRows, class Element>
__device__ void mix(const CudaFusion<Element>& fusion, int first, int r, int first_column,
                    const FusionRows<kTileRows>& tile) {
  const int lane = static_cast<int>(threadIdx.x % kWarp), modalities = fusion.modality_count;
  const bool is_present = lane < modalities && (tile.present[lane] >> r & 1U) != 0;
  const float alpha = gate(is_present, is_present ? tile.shares[r][lane].score : 0.0F);
  const size_t row = static_cast<size_t>(first) + r;
  if (fusion.alpha != nullptr && first_column == 0 && lane < modalities) fusion.alpha[row * modalities + lane] = alpha;

  const int column = first_column + 4 * lane, left = fusion.dimension - column;
  float mixed[kFours][4] = {};
#pragma unroll 1
  for (int m = 0; m < modalities; ++m) {
    const float part = __shfl_sync(kWholeWarp, alpha, m);
    if (part == 0.0F) continue;  // a NaN is not
    const auto& modality = fusion.modalities[m];
    float z[kFours][4], weight[kFours][4], bias[kFours][4];
    load_fours<kOneSpan>(row_of_z(fusion, first + r, m) + column, left, z);
    load_fours<kOneSpan>(modality.norm_weight + column, left, weight);
    load_fours<kOneSpan>(modality.norm_bias + column, left, bias);
    const FusionShare share = tile.shares[r][m];
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        mixed[i][j] = fmaf(part, normalize(z[i][j], share.mean, share.scale, weight[i][j], bias[i][j]), mixed[i][j]);
      }
    }
  }
  auto* const y = fusion.y + row * fusion.dimension + column;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (kOneSpan || 4 * kWarp * i + j < left) store_y(y + 4 * kWarp * i + j, mixed[i][j]);
    }
  }
}

// Steps 2 to 6 of a tile.
template <bool kOneSpan, int kThreads, int kTileRows, class Element>
__device__ void finish_tile(const CudaFusion<Element>& fusion, int first, FusionRows<kTileRows>& tile) {
  constexpr int warps = kThreads / kWarp, fours = kTileRows < warps ? 1 : kHeldFours;
  const int warp = static_cast<int>(threadIdx.x / kWarp), rows = min(kTileRows, fusion.batch - first);
  // A constant where each warp has a row: a quotient of numbers known only here takes a while.
  const int scored = kTileRows < warps ? rows : kTileRows;
#pragma unroll 1
  for (int part = warp; part < scored * fusion.modality_count; part += warps) {
    const int m = part / scored, r = part % scored;
    if ((tile.present[m] >> r & 1U) == 0) continue;
    const FusionShare share = score<kOneSpan>(fusion, first + r, m);
    if (threadIdx.x % kWarp == 0) tile.shares[r][m] = share;
  }
  __syncthreads();
  const int spans = divide_up(kOneSpan ? kFusionSpan : fusion.dimension, 4 * fours * kWarp);
#pragma unroll 1
  for (int part = warp; part < rows * spans; part += warps) {
    mix<kOneSpan, fours>(fusion, first, part / spans, part % spans * 4 * fours * kWarp, tile);
  }
}

// Called by every block when its part of z is written: the last of those that share a tile of rows finishes them.
template <int kThreads, int kTileRows, class Element>
__device__ void finish_rows(const CudaFusion<Element>& fusion, bool is_one_span, int first,
                            FusionRows<kTileRows>& tile) {
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* const ticket = fusion.tickets + blockIdx.y;
    // These order what the whole block wrote, and is to read, as the barriers do so within it.
    __threadfence();
    tile.is_last = atomicAdd(ticket, 1U) == gridDim.x * gridDim.z - 1;
    if (tile.is_last) *ticket = 0;
    __threadfence();
  }
  __syncthreads();
  if (!tile.is_last) return;
  if (is_one_span) {
    finish_tile<true, kThreads>(fusion, first, tile);
  } else {
    finish_tile<false, kThreads>(fusion, first, tile);
  }
}

}  // namespace mmedge
