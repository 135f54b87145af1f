#include <algorithm>
#include <cmath>

#include "kernels/device.cuh"
#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/gated_fusion/gated_fusion_cuda.h"
#include "kernels/gated_fusion/gated_fusion_vectors.cuh"

namespace mmedge {
namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 4;
constexpr int kFewColumns = 8, kManyColumns = kFusionTileColumns;  // of a block
constexpr int kStagedVectors = 128;                                // of features in shared memory at a time

__device__ float to_float(const CudaFusionModality<float>&, int, float sum) { return sum; }
__device__ float to_float(const CudaFusionModality<__half>&, int, float sum) { return sum; }
__device__ float to_float(const CudaFusionModality<int8_t>& modality, int column, int sum) {
  return static_cast<float>(sum - modality.offset[column]) * modality.scale[column];
}

__device__ void store(float* to, float value) { *to = value; }
__device__ void store(__half* to, float value) { *to = __float2half_rn(value); }

template <class Element>
__device__ bool is_present(const CudaFusion<Element>& fusion, size_t pair) {
  return fusion.presence[pair * fusion.presence_stride] != 0;
}

// Bit r: whether row first + r of the batch, up to a warp's lanes of them, has the modality.
template <class Element>
__device__ unsigned find_present(const CudaFusion<Element>& fusion, int modality, int first, int rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row = first + lane;
  const bool present = lane < rows && row < fusion.batch &&
                       is_present(fusion, static_cast<size_t>(row) * fusion.modality_count + modality);
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
__device__ float normalize(float z, const Row& row, int modality, float weight, float bias) {
  const float n = fmaf((z - row.mean[modality]) * row.scale[modality], weight, bias);
  return n < 0.0F ? 0.0F : n;  // a NaN stays one
}

// Steps 2 to 4 of one row and modality by kLanes lanes; `used` is false where there is none.
template <int kLanes, class Element>
__device__ void score(const CudaFusion<Element>& fusion, int m, const float* z, bool used, Row& row) {
  const auto& modality = fusion.modalities[m];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, columns = used ? fusion.dimension : 0;
  const auto size = static_cast<float>(fusion.dimension);
  float sum = 0.0F, squares = 0.0F, score = 0.0F;
#pragma unroll 8
  for (int i = lane; i < columns; i += kLanes) sum += z[i];
  const float mean = __fdividef(sum_lanes<kLanes>(sum), size);
#pragma unroll 8
  for (int i = lane; i < columns; i += kLanes) {
    const float from_mean = z[i] - mean;
    squares = fmaf(from_mean, from_mean, squares);
  }
  const float scale = rsqrtf(__fdividef(sum_lanes<kLanes>(squares), size) + fusion.epsilon);
  if (used && lane == 0) {
    row.mean[m] = mean;
    row.scale[m] = scale;
  }
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < columns; i += kLanes) {
    const float h = normalize(z[i], row, m, modality.norm_weight[i], modality.norm_bias[i]);
    score = fmaf(h, modality.gate_weight[i], score);
  }
  score = sum_lanes<kLanes>(score);
  if (used && lane == 0) row.alpha[m] = score + *modality.gate_bias;
}

// Step 5, of one row; bit m of `present`: whether it has the modality.
__device__ void gate(unsigned present, int modalities, Row& row, float* alpha) {
  float most = 0.0F, sum = 0.0F;
  bool any = false;
  for (int m = 0; m < modalities; ++m) {
    if ((present >> m & 1U) == 0) continue;
    most = any ? fmaxf(most, row.alpha[m]) : row.alpha[m];
    any = true;
  }
  for (int m = 0; m < modalities; ++m) {
    row.alpha[m] = (present >> m & 1U) != 0 ? expf(row.alpha[m] - most) : 0.0F;
    sum += row.alpha[m];
  }
  for (int m = 0; m < modalities; ++m) {
    if ((present >> m & 1U) != 0) row.alpha[m] = __fdividef(row.alpha[m], sum);
    if (alpha != nullptr) alpha[m] = row.alpha[m];
  }
}

// Step 6, of a tile of rows; bit r * modalities + m of `present`.
template <class Element>
__device__ void mix(const CudaFusion<Element>& fusion, int first, int rows, unsigned present, const Row* shared) {
  const int modalities = fusion.modality_count;
  for (int column = static_cast<int>(threadIdx.x); column < fusion.dimension; column += kThreads) {
    float mixed[kTileRows] = {};
    for (int m = 0; m < modalities; ++m) {
      const float weight = fusion.modalities[m].norm_weight[column], bias = fusion.modalities[m].norm_bias[column];
#pragma unroll
      for (int r = 0; r < kTileRows; ++r) {
        if ((present >> (r * modalities + m) & 1U) == 0) continue;
        const float z = row_of_z(fusion, first + r, m)[column];
        mixed[r] = fmaf(shared[r].alpha[m], normalize(z, shared[r], m, weight, bias), mixed[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kTileRows; ++r) {
      if (r < rows) store(fusion.y + (static_cast<size_t>(first) + r) * fusion.dimension + column, mixed[r]);
    }
  }
}

// Called by every block when its part of z is written: the last of those that share a tile of rows finishes them.
template <int kLanes, class Element>
__device__ void finish_rows(const CudaFusion<Element>& fusion, int first, Row* shared, bool* is_last) {
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

  const int rows = min(kTileRows, fusion.batch - first), pairs = rows * modalities;
  const size_t first_pair = static_cast<size_t>(first) * modalities;
  static_assert(kTileRows * kCudaFusionMostModalities <= kWarp, "a lane for each row and modality");
  const int lane = thread % kWarp;
  const unsigned present = __ballot_sync(kWholeWarp, lane < pairs && is_present(fusion, first_pair + lane));
  for (int begin = 0; begin < pairs; begin += kThreads / kLanes) {
    const int pair = begin + thread / kLanes, row = pair / modalities, m = pair % modalities;
    const bool used = pair < pairs && (present >> pair & 1U) != 0;
    score<kLanes>(fusion, m, row_of_z(fusion, first + row, m), used, shared[row]);
  }
  __syncthreads();
  if (thread < rows) {
    gate(present >> (thread * modalities), modalities, shared[thread],
         fusion.alpha == nullptr ? nullptr : fusion.alpha + first_pair + static_cast<size_t>(thread) * modalities);
  }
  __syncthreads();
  mix(fusion, first, rows, present, shared);
}

// Threads whose sums are of different columns, or become so within a warp.
template <int kColumns>
constexpr int kPartThreads = kColumns < kWarp ? kWarp : kColumns;

template <class Element, int kColumns>
struct Shared {
  union {
    FusionVector<Element> x[kTileRows][kStagedVectors];
    FusionSum<Element> sums[kThreads / kPartThreads<kColumns>][kTileRows][kColumns];
  };
  Row rows[kTileRows];
  bool is_last;
};

// z of one modality for a tile of rows and kColumns columns; the threads of a column are its slices.
template <int kColumns, class Element>
__device__ void multiply(const CudaFusion<Element>& fusion, int first, unsigned present,
                         Shared<Element, kColumns>& shared) {
  constexpr int slices = kThreads / kColumns, part_threads = kPartThreads<kColumns>;
  constexpr bool staged = kColumns > kFewColumns;
  const auto& modality = fusion.modalities[blockIdx.z];
  const int thread = static_cast<int>(threadIdx.x), first_column = static_cast<int>(blockIdx.x) * kColumns;
  const int columns = padded_columns(fusion.dimension), column = first_column + thread % kColumns;
  const int vectors = divide_up(modality.features, FusionFeatures<Element>::kCount);

  FusionSum<Element> sums[kTileRows] = {};
  if constexpr (staged) {
    for (int chunk = 0; chunk < vectors; chunk += kStagedVectors) {
      const int here = min(kStagedVectors, vectors - chunk);
      __syncthreads();
      for (int i = thread; i < kTileRows * kStagedVectors; i += kThreads) {
        const int r = i / kStagedVectors, vector = i % kStagedVectors;
        const bool read = vector < here && (present >> r & 1U) != 0;
        shared.x[r][vector] = read ? load_x(modality, first + r, chunk + vector) : FusionVector<Element>{};
      }
      __syncthreads();
#pragma unroll 4
      for (int vector = thread / kColumns; vector < here; vector += slices) {
        const FusionVector<Element> weight = load_weight(modality, columns, chunk + vector, column);
#pragma unroll
        for (int r = 0; r < kTileRows; ++r) sums[r] = add_products(shared.x[r][vector], weight, sums[r]);
      }
    }
    __syncthreads();
  } else {
    for (int vector = thread / kColumns; vector < vectors; vector += slices) {
      const FusionVector<Element> weight = load_weight(modality, columns, vector, column);
#pragma unroll
      for (int r = 0; r < kTileRows; ++r) {
        if ((present >> r & 1U) != 0) sums[r] = add_products(load_x(modality, first + r, vector), weight, sums[r]);
      }
    }
  }

  for (int r = 0; r < kTileRows; ++r) {
    for (int lanes = kColumns; lanes < kWarp; lanes *= 2) sums[r] += __shfl_xor_sync(kWholeWarp, sums[r], lanes);
    const int at = thread % part_threads;
    if (at < kColumns) shared.sums[thread / part_threads][r][at] = sums[r];
  }
  __syncthreads();
  for (int i = thread; i < kTileRows * kColumns; i += kThreads) {
    const int r = i / kColumns, c = i % kColumns;
    if ((present >> r & 1U) == 0) continue;
    FusionSum<Element> sum = 0;
    for (const auto& part : shared.sums) sum += part[r][c];
    store_z(fusion, first + r, first_column + c, sum);
  }
}

// Left to itself ptxas gives a GeForce 50 fewer registers than the sums need.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
#define MMEDGE_FUSION_BOUNDS __launch_bounds__(kThreads, 1)
#else
#define MMEDGE_FUSION_BOUNDS __launch_bounds__(kThreads)
#endif

template <class Element, int kColumns>
__global__ void MMEDGE_FUSION_BOUNDS fuse_rows(const __grid_constant__ CudaFusion<Element> fusion) {
  auto& shared = shared_memory<Shared<Element, kColumns>>();
  const int first = static_cast<int>(blockIdx.y) * kTileRows;
  const unsigned present = find_present(fusion, static_cast<int>(blockIdx.z), first, kTileRows);
  if (present != 0) multiply<kColumns>(fusion, first, present, shared);
  finish_rows<kColumns == kFewColumns ? kWarp : kWarp / 2>(fusion, first, shared.rows, &shared.is_last);
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
  config.gridDim = dim3(divide_up(fusion.dimension, few ? kFewColumns : kManyColumns),
                        divide_up(fusion.batch, kTileRows), fusion.modality_count);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, few ? fuse_rows<Element, kFewColumns> : fuse_rows<Element, kManyColumns>, fusion);
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
