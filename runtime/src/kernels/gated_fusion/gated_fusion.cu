#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/gated_fusion/gated_fusion_cuda.h"
#include "kernels/gated_fusion/gated_fusion_matrices.cuh"
#include "kernels/gated_fusion/gated_fusion_rows.cuh"
#include "kernels/gated_fusion/gated_fusion_vectors.cuh"

namespace mmedge {
namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 4;
constexpr int kFewColumns = 8;       // of a block, or else kFusionTileColumns
constexpr int kStagedVectors = 128;  // of features in shared memory at a time

// Threads whose sums are of different columns, or become so within a warp.
template <int kColumns>
constexpr int kPartThreads = kColumns < kWarp ? kWarp : kColumns;

template <class Element, int kColumns>
struct Shared {
  union {
    FusionVector<Element> x[kTileRows][kStagedVectors];
    FusionSum<Element> sums[kThreads / kPartThreads<kColumns>][kTileRows][kColumns];
  };
  FusionRows<kTileRows> tile;
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
      stage_x<kThreads, kStagedVectors>(modality, first, present, chunk, shared.x);
      __syncthreads();
#pragma unroll 4
      for (int vector = thread / kColumns; vector < here; vector += slices) {
        const auto weight = widen(load_weight(modality, columns, chunk + vector, column));
#pragma unroll
        for (int r = 0; r < kTileRows; ++r) sums[r] = add_products(widen(shared.x[r][vector]), weight, sums[r]);
      }
    }
    __syncthreads();
  } else {
    for (int vector = thread / kColumns; vector < vectors; vector += slices) {
      const FusionVector<Element> weight = load_weight(modality, columns, vector, column);
#pragma unroll
      for (int r = 0; r < kTileRows; ++r) {
        if ((present >> r & 1U) == 0) continue;
        sums[r] = add_products(widen(load_x(modality, first + r, vector)), widen(weight), sums[r]);
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
    if (first_column + c >= fusion.dimension) continue;
    row_of_z(fusion, first + r, static_cast<int>(blockIdx.z))[first_column + c] =
        to_z(load_column(modality, first_column + c), sum);
  }
}

// Four blocks to a multiprocessor. Left to itself ptxas gives a GeForce 50 fewer registers than the sums need.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
#define MMEDGE_FUSION_BOUNDS __launch_bounds__(kThreads, 1)
#else
#define MMEDGE_FUSION_BOUNDS __launch_bounds__(kThreads, 4)
#endif

template <class Element, int kColumns>
__global__ void MMEDGE_FUSION_BOUNDS fuse_rows(const __grid_constant__ CudaFusion<Element> fusion, bool is_one_span) {
  auto& shared = shared_memory<Shared<Element, kColumns>>();
  const int first = static_cast<int>(blockIdx.y) * kTileRows;
  const unsigned present = find_present(fusion, first, shared.tile);
  if (present != 0) multiply<kColumns>(fusion, first, present, shared);
  finish_rows<kThreads>(fusion, is_one_span, first, shared.tile);
}

template <class Element>
bool fits(const CudaFusion<Element>& fusion) {
  if (fusion.modality_count < 1 || fusion.modality_count > kCudaFusionMostModalities || fusion.dimension < 1 ||
      fusion.batch < 0 || fusion.batch > 65535 * kTileRows) {
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
  const auto launch = [&](auto* kernel, int rows, int columns, int threads) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(divide_up(fusion.dimension, columns), divide_up(fusion.batch, rows), fusion.modality_count);
    config.blockDim = dim3(threads);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, fusion, has_one_span(fusion));
  };
  if (few) return launch(fuse_rows<Element, kFewColumns>, kTileRows, kFewColumns, kThreads);
  if constexpr (std::is_same_v<Element, float>) {
    return launch(fuse_rows<Element, kFusionTileColumns>, kTileRows, kFusionTileColumns, kThreads);
  } else {
    return launch(fuse_matrices<Element>, kMatrixRows, kFusionTileColumns, kMatrixThreads);
  }
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
