#include <algorithm>
#include <cmath>

#include "kernels/device.cuh"
#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/gated_fusion/gated_fusion_cuda.h"
#include "kernels/gated_fusion/gated_fusion_vectors.cuh"

namespace mmedge {
namespace {

constexpr int kThreads = 256;
// Of the kernel for few rows: the threads of a column are its slices, which share its features.
constexpr int kFewTile = 4, kFewColumns = 8, kSlices = kThreads / kFewColumns;
// Of the other: 16 x 8 threads, twice.
constexpr int kTileRows = kWarp, kTileColumns = kFusionTileColumns, kRowSums = 4, kColumnSums = 4;
constexpr int kHalf = kThreads / 2, kRowStep = kTileRows / kRowSums, kColumnStep = kTileColumns / kColumnSums;
constexpr int kChunk = 8;              // vectors of features in shared memory at a time
constexpr int kPitch = kTileRows + 1;  // of x there: a warp that writes a column of it meets no bank twice

__device__ float to_float(const CudaFusionModality<float>&, int, float sum) { return sum; }
__device__ float to_float(const CudaFusionModality<__half>&, int, float sum) { return sum; }
__device__ float to_float(const CudaFusionModality<int8_t>& modality, int column, int sum) {
  return static_cast<float>(sum - modality.offset[column]) * modality.scale[column];
}

__device__ void store(float* to, float value) { *to = value; }
__device__ void store(__half* to, float value) { *to = __float2half_rn(value); }

// Bit r: whether row first + r of the batch, up to a warp's lanes of them, has the modality.
template <class Element>
__device__ unsigned find_present(const CudaFusion<Element>& fusion, int modality, int first, int rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row = first + lane;
  const bool present = lane < rows && row < fusion.batch &&
                       fusion.presence[static_cast<size_t>(row) * fusion.modality_count + modality] != 0;
  return __ballot_sync(kWholeWarp, present);
}

template <class Element>
__device__ float* row_of_z(const CudaFusion<Element>& fusion, int row, int modality) {
  return fusion.z + (static_cast<size_t>(row) * fusion.modality_count + modality) * fusion.dimension;
}

template <class Element>
__device__ void store_z(const CudaFusion<Element>& fusion, int row, int column, FusionSum<Element> sum) {
  if (column >= fusion.dimension) return;
  const auto& modality = fusion.modalities[blockIdx.z];
  row_of_z(fusion, row, static_cast<int>(blockIdx.z))[column] = to_float(modality, column, sum) + modality.bias[column];
}

struct Row {
  float mean[kCudaFusionMostModalities], scale[kCudaFusionMostModalities];
  float alpha[kCudaFusionMostModalities];  // the scores, before step 5
};

// Steps 2 and 3, of one number.
template <class Element>
__device__ float normalize(const CudaFusionModality<Element>& modality, int column, float z, float mean, float scale) {
  const float n = fmaf((z - mean) * scale, modality.norm_weight[column], modality.norm_bias[column]);
  return n < 0.0F ? 0.0F : n;  // a NaN stays one
}

// Steps 2 to 4 of one row and modality by kLanes lanes; `used` is false where there is none.
template <int kLanes, class Element>
__device__ void score(const CudaFusion<Element>& fusion, int m, const float* z, bool used, Row* row) {
  const auto& modality = fusion.modalities[m];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, columns = used ? fusion.dimension : 0;
  const auto size = static_cast<float>(fusion.dimension);
  float sum = 0.0F, squares = 0.0F, score = 0.0F;
  for (int i = lane; i < columns; i += kLanes) sum += __ldcg(z + i);
  const float mean = sum_lanes<kLanes>(sum) / size;
  for (int i = lane; i < columns; i += kLanes) {
    const float from_mean = __ldcg(z + i) - mean;
    squares = fmaf(from_mean, from_mean, squares);
  }
  const float scale = 1.0F / sqrtf(sum_lanes<kLanes>(squares) / size + fusion.epsilon);
  for (int i = lane; i < columns; i += kLanes) {
    score = fmaf(normalize(modality, i, __ldcg(z + i), mean, scale), modality.gate_weight[i], score);
  }
  score = sum_lanes<kLanes>(score);
  if (!used || lane != 0) return;
  row->mean[m] = mean;
  row->scale[m] = scale;
  row->alpha[m] = score + *modality.gate_bias;
}

// Step 5, of one row.
__device__ void gate(const uint8_t* presence, int modalities, Row& row, float* alpha) {
  float most = 0.0F, sum = 0.0F;
  bool any = false;
  for (int m = 0; m < modalities; ++m) {
    if (presence[m] == 0) continue;
    most = any ? fmaxf(most, row.alpha[m]) : row.alpha[m];
    any = true;
  }
  for (int m = 0; m < modalities; ++m) {
    row.alpha[m] = presence[m] != 0 ? expf(row.alpha[m] - most) : 0.0F;
    sum += row.alpha[m];
  }
  for (int m = 0; m < modalities; ++m) {
    if (presence[m] != 0) row.alpha[m] /= sum;
    if (alpha != nullptr) alpha[m] = row.alpha[m];
  }
}

// Called by every block when its part of z is written: the last of the `blocks` that share `rows` rows finishes them.
template <int kLanes, class Element>
__device__ void finish_rows(const CudaFusion<Element>& fusion, int first, int rows, Row* shared, bool* is_last) {
  const int thread = static_cast<int>(threadIdx.x), modalities = fusion.modality_count;
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    unsigned* const ticket = fusion.tickets + blockIdx.y;
    *is_last = atomicAdd(ticket, 1U) == gridDim.x * gridDim.z - 1;
    if (*is_last) *ticket = 0;
  }
  __syncthreads();
  if (!*is_last) return;
  __threadfence();

  rows = min(rows, fusion.batch - first);
  const uint8_t* const presence = fusion.presence + static_cast<size_t>(first) * modalities;
  const int pairs = rows * modalities;
  for (int begin = 0; begin < pairs; begin += kThreads / kLanes) {
    const int pair = begin + thread / kLanes, row = pair / modalities, m = pair % modalities;
    const bool used = pair < pairs && presence[pair] != 0;
    score<kLanes>(fusion, m, row_of_z(fusion, first + row, m), used, shared + row);
  }
  __syncthreads();
  if (thread < rows) {
    const size_t at = static_cast<size_t>(thread) * modalities;
    gate(presence + at, modalities, shared[thread],
         fusion.alpha == nullptr ? nullptr : fusion.alpha + static_cast<size_t>(first) * modalities + at);
  }
  __syncthreads();
  for (int i = thread; i < rows * fusion.dimension; i += kThreads) {
    const int row = i / fusion.dimension, column = i % fusion.dimension;
    float mixed = 0.0F;
    for (int m = 0; m < modalities; ++m) {
      if (presence[row * modalities + m] == 0) continue;
      const float z = __ldcg(row_of_z(fusion, first + row, m) + column);
      const float h = normalize(fusion.modalities[m], column, z, shared[row].mean[m], shared[row].scale[m]);
      mixed = fmaf(shared[row].alpha[m], h, mixed);
    }
    store(fusion.y + static_cast<size_t>(first) * fusion.dimension + i, mixed);
  }
}

template <class Element>
struct FewRowsShared {
  FusionSum<Element> sums[kThreads / kWarp][kFewTile][kFewColumns];
  Row rows[kFewTile];
  bool is_last;
};

template <class Element>
__global__ void __launch_bounds__(kThreads) fuse_few_rows(const __grid_constant__ CudaFusion<Element> fusion) {
  auto& shared = shared_memory<FewRowsShared<Element>>();
  const auto& modality = fusion.modalities[blockIdx.z];
  const int thread = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.y) * kFewTile;
  const int first_column = static_cast<int>(blockIdx.x) * kFewColumns;
  const unsigned present = find_present(fusion, static_cast<int>(blockIdx.z), first, kFewTile);
  if (present != 0) {
    const int columns = padded_columns(fusion.dimension), column = first_column + thread % kFewColumns;
    const int vectors = divide_up(modality.features, FusionFeatures<Element>::kCount);
    FusionSum<Element> sums[kFewTile] = {};
    for (int vector = thread / kFewColumns; vector < vectors; vector += kSlices) {
      const FusionVector<Element> weight = load_weight(modality, columns, vector, column);
#pragma unroll
      for (int r = 0; r < kFewTile; ++r) {
        if ((present >> r & 1U) != 0) sums[r] = add_products(load_x(modality, first + r, vector), weight, sums[r]);
      }
    }
    for (int r = 0; r < kFewTile; ++r) {
      for (int lanes = kFewColumns; lanes < kWarp; lanes *= 2) {
        sums[r] += __shfl_xor_sync(kWholeWarp, sums[r], lanes);
      }
      if (thread % kWarp < kFewColumns) shared.sums[thread / kWarp][r][thread % kWarp] = sums[r];
    }
    __syncthreads();
    const int r = thread / kFewColumns, c = thread % kFewColumns;
    if (r < kFewTile && (present >> r & 1U) != 0) {
      FusionSum<Element> sum = 0;
      for (const auto& part : shared.sums) sum += part[r][c];
      store_z(fusion, first + r, first_column + c, sum);
    }
  }
  finish_rows<kWarp>(fusion, first, kFewTile, shared.rows, &shared.is_last);
}

template <class Element>
struct TileShared {
  union {
    struct {
      FusionVector<Element> weight[kChunk][kTileColumns], x[kChunk][kPitch];
    };
    FusionSum<Element> sums[kRowSums * kColumnSums][kHalf];  // of the second half
  };
  Row rows[kTileRows];
  bool is_last;
};

// The sums of one tile, in the block's first half; to be called by all of it.
template <class Element>
__device__ void multiply_tile(const CudaFusion<Element>& fusion, int first, unsigned present,
                              TileShared<Element>& shared, FusionSum<Element> (&sums)[kRowSums][kColumnSums]) {
  const auto& modality = fusion.modalities[blockIdx.z];
  const int thread = static_cast<int>(threadIdx.x), half = thread / kHalf;
  const int column = thread % kColumnStep, row = thread % kHalf / kColumnStep;
  const int columns = padded_columns(fusion.dimension), first_column = static_cast<int>(blockIdx.x) * kTileColumns;
  const int vectors = divide_up(modality.features, FusionFeatures<Element>::kCount);

  constexpr int weights = kChunk * kTileColumns / kThreads;
  static_assert(kChunk * kTileRows == kThreads, "a thread loads one vector of x");
  FusionVector<Element> next_weight[weights], next_x;
  const auto load = [&](int chunk) {
#pragma unroll
    for (int i = 0; i < weights; ++i) {
      const int at = thread + i * kThreads, vector = chunk + at / kTileColumns;
      next_weight[i] = vector < vectors ? load_weight(modality, columns, vector, first_column + at % kTileColumns)
                                        : FusionVector<Element>{};
    }
    const int vector = chunk + thread % kChunk, x_row = thread / kChunk;
    next_x = vector < vectors && (present >> x_row & 1U) != 0 ? load_x(modality, first + x_row, vector)
                                                              : FusionVector<Element>{};
  };
  load(0);
  for (int chunk = 0; chunk < vectors; chunk += kChunk) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < weights; ++i) {
      const int at = thread + i * kThreads;
      shared.weight[at / kTileColumns][at % kTileColumns] = next_weight[i];
    }
    shared.x[thread % kChunk][thread / kChunk] = next_x;
    __syncthreads();
    if (chunk + kChunk < vectors) load(chunk + kChunk);
#pragma unroll
    for (int k = 0; k < kChunk / 2; ++k) {
      const int vector = half * (kChunk / 2) + k;
      FusionVector<Element> weight[kColumnSums];
#pragma unroll
      for (int j = 0; j < kColumnSums; ++j) weight[j] = shared.weight[vector][column + j * kColumnStep];
#pragma unroll
      for (int i = 0; i < kRowSums; ++i) {
        const FusionVector<Element> x = shared.x[vector][row + i * kRowStep];
#pragma unroll
        for (int j = 0; j < kColumnSums; ++j) sums[i][j] = add_products(x, weight[j], sums[i][j]);
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRowSums * kColumnSums; ++i) {
    if (half == 1) shared.sums[i][thread - kHalf] = sums[i / kColumnSums][i % kColumnSums];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRowSums * kColumnSums; ++i) {
    if (half == 0) sums[i / kColumnSums][i % kColumnSums] += shared.sums[i][thread];
  }
}

// Two blocks an SM: the compiler would squeeze in a third and spill for it.
template <class Element>
__global__ void __launch_bounds__(kThreads, 2) fuse_tiles(const __grid_constant__ CudaFusion<Element> fusion) {
  auto& shared = shared_memory<TileShared<Element>>();
  const int thread = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.y) * kTileRows;
  const unsigned present = find_present(fusion, static_cast<int>(blockIdx.z), first, kTileRows);
  if (present != 0) {
    FusionSum<Element> sums[kRowSums][kColumnSums] = {};
    multiply_tile(fusion, first, present, shared, sums);
    const int row = thread / kColumnStep;
    const int column = static_cast<int>(blockIdx.x) * kTileColumns + thread % kColumnStep;
    for (int i = 0; thread < kHalf && i < kRowSums; ++i) {
      if ((present >> (row + i * kRowStep) & 1U) == 0) continue;
      for (int j = 0; j < kColumnSums; ++j) {
        store_z(fusion, first + row + i * kRowStep, column + j * kColumnStep, sums[i][j]);
      }
    }
  }
  finish_rows<8>(fusion, first, kTileRows, shared.rows, &shared.is_last);
}

template <class Element>
bool fits(const CudaFusion<Element>& fusion) {
  if (fusion.modality_count < 1 || fusion.modality_count > kCudaFusionMostModalities || fusion.dimension < 1 ||
      fusion.batch < 0 || divide_up(fusion.batch, kTileRows) > 65535) {
    return false;
  }
  return std::all_of(fusion.modalities, fusion.modalities + fusion.modality_count, [](const auto& modality) {
    return modality.features >= 0 && modality.features <= static_cast<int>(kFusionMostFeatures);
  });
}

}  // namespace

template <class Element>
size_t packed_cuda_fusion_weight_size(int dimension, int features) {
  constexpr int count = FusionFeatures<Element>::kCount;
  return static_cast<size_t>(padded_columns(dimension)) * static_cast<size_t>(divide_up(features, count) * count);
}

template <class Element>
void pack_cuda_fusion_weight(const Element* weight, int dimension, int features, Element* packed) {
  constexpr int count = FusionFeatures<Element>::kCount;
  for (int first = 0; first < features; first += count) {
    for (int column = 0; column < padded_columns(dimension); ++column) {
      for (int feature = first; feature < first + count; ++feature) {
        const bool inside = column < dimension && feature < features;
        *packed++ = inside ? weight[static_cast<size_t>(column) * features + feature] : Element{};
      }
    }
  }
}

template <class Element>
cudaError_t gated_fusion(const CudaFusion<Element>& fusion, cudaStream_t stream) {
  if (!fits(fusion)) return cudaErrorInvalidValue;
  if (fusion.batch == 0) return cudaSuccess;
  const bool few = fusion.batch <= kCudaFusionFewRows;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(divide_up(fusion.dimension, few ? kFewColumns : kTileColumns),
                        divide_up(fusion.batch, few ? kFewTile : kTileRows), fusion.modality_count);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, few ? fuse_few_rows<Element> : fuse_tiles<Element>, fusion);
}

template size_t packed_cuda_fusion_weight_size<float>(int, int);
template size_t packed_cuda_fusion_weight_size<__half>(int, int);
template size_t packed_cuda_fusion_weight_size<int8_t>(int, int);
template void pack_cuda_fusion_weight(const float*, int, int, float*);
template void pack_cuda_fusion_weight(const __half*, int, int, __half*);
template void pack_cuda_fusion_weight(const int8_t*, int, int, int8_t*);
template cudaError_t gated_fusion(const CudaFusion<float>&, cudaStream_t);
template cudaError_t gated_fusion(const CudaFusion<__half>&, cudaStream_t);
template cudaError_t gated_fusion(const CudaFusion<int8_t>&, cudaStream_t);

}  // namespace mmedge
