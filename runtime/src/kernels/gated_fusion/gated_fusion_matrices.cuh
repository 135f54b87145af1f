// z of more than a few rows of float16 or int8, on tensor cores.
//
// A block's tile is 16 rows by 64 columns. Each of its 16 warps multiplies for 16 of the columns a quarter of the
// features: of every four steps, one. A step is four vectors of features, one for each t of matrix.cuh: which of the
// features a matrix's columns are does not matter as long as those of x and of the weight are the same, so a lane has
// all that it needs of them in the vectors that it reads. The weight is read from where it was packed, x from shared
// memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device.cuh"
#include "kernels/gated_fusion/gated_fusion_cuda.h"
#include "kernels/gated_fusion/gated_fusion_rows.cuh"
#include "kernels/gated_fusion/gated_fusion_vectors.cuh"
#include "kernels/matrix.cuh"

namespace mmedge {

constexpr int kMatrixThreads = 512, kMatrixRows = 16;
constexpr int kMatrixWarpColumns = 16, kMatrixSlices = 4;
constexpr int kMatrixStagedFeatures = 512;  // in shared memory at a time

template <class Element>
struct FusionMatrices {
  using Vector = FusionVector<Element>;
  using Sum = FusionSum<Element>;

  static constexpr int kStagedVectors = kMatrixStagedFeatures / FusionFeatures<Element>::kCount;
  static constexpr int kSteps = kStagedVectors / (4 * kMatrixSlices);  // of a warp, at a time

  // What is added to the rows puts those that are read together into different banks.
  union Shared {
    Vector x[kMatrixRows][kStagedVectors + 4];
    Sum sums[kMatrixSlices][kMatrixRows][kFusionTileColumns + 8];
  };

  // Of this lane: column g of each eight.
  struct Weights {
    Vector of[kSteps][kMatrixWarpColumns / 8];
  };
};

// sums += rows g and g + 8 of x, by a weight.
__device__ inline void multiply_vectors(FourHalves upper, FourHalves lower, FourHalves weight, float (&sums)[4]) {
  multiply_halves({upper.low, lower.low, upper.high, lower.high}, {weight.low, weight.high}, sums);
}

__device__ inline void multiply_vectors(int4 upper, int4 lower, int4 weight, int (&sums)[4]) {
  const auto bits = [](int word) { return static_cast<unsigned>(word); };
  multiply_signed_bytes({bits(upper.x), bits(lower.x), bits(upper.y), bits(lower.y)}, {bits(weight.x), bits(weight.y)},
                        sums);
  multiply_signed_bytes({bits(upper.z), bits(lower.z), bits(upper.w), bits(lower.w)}, {bits(weight.z), bits(weight.w)},
                        sums);
}

// Where a thread stands in its block's tile.
struct MatrixPlace {
  static constexpr unsigned kWarpsAcross = kFusionTileColumns / kMatrixWarpColumns;

  const unsigned g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  const unsigned first_column = threadIdx.x / kWarp % kWarpsAcross * kMatrixWarpColumns;
  const unsigned slice = threadIdx.x / kWarp / kWarpsAcross;

  // Of the step's vectors, the lane's own. Steps of a warp are kApart vectors apart.
  static constexpr int kApart = 4 * kMatrixSlices;
  __device__ int first_vector() const { return static_cast<int>(4 * slice + t); }
};

// Those of the vectors from `first` on.
template <class Element>
__device__ void load_weights(const CudaFusion<Element>& fusion, int first,
                             typename FusionMatrices<Element>::Weights& weights) {
  constexpr int count = FusionFeatures<Element>::kCount;
  const MatrixPlace place;
  const auto& modality = fusion.modalities[blockIdx.z];
  const int columns = padded_columns(fusion.dimension), vector = first + place.first_vector();
  const int vectors = divide_up(modality.features, count) - vector;
  const unsigned column = blockIdx.x * kFusionTileColumns + place.first_column + place.g;
  const Element* const from = modality.packed_weight + (static_cast<size_t>(vector) * columns + column) * count;
#pragma unroll
  for (int step = 0; step < FusionMatrices<Element>::kSteps; ++step) {
#pragma unroll
    for (int part = 0; part < kMatrixWarpColumns / 8; ++part) {
      weights.of[step][part] =
          step * MatrixPlace::kApart < vectors
              ? load_vector(from + step * (MatrixPlace::kApart * count * columns) + part * 8 * count)
              : FusionVector<Element>{};
    }
  }
}

// z of one modality for a tile; `weights` has the first of them.
template <class Element>
__device__ void multiply_matrices(const CudaFusion<Element>& fusion, int first_row, unsigned present,
                                  typename FusionMatrices<Element>::Weights& weights,
                                  typename FusionMatrices<Element>::Shared& shared) {
  using Matrices = FusionMatrices<Element>;
  constexpr int parts = kMatrixWarpColumns / 8, rows_apart = kMatrixThreads / kFusionTileColumns;
  const MatrixPlace place;
  const auto& modality = fusion.modalities[blockIdx.z];
  const int vectors = divide_up(modality.features, FusionFeatures<Element>::kCount);
  FusionSum<Element> sums[parts][4] = {};
  for (int first = 0; first < vectors; first += Matrices::kStagedVectors) {
    if (first > 0) {
      load_weights(fusion, first, weights);
      __syncthreads();
    }
    stage_x<kMatrixThreads, Matrices::kStagedVectors>(modality, first_row, present, first, shared.x);
    __syncthreads();
#pragma unroll
    for (int step = 0; step < Matrices::kSteps; ++step) {
      const int vector = place.first_vector() + step * MatrixPlace::kApart;
      const auto upper = shared.x[place.g][vector], lower = shared.x[place.g + 8][vector];
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        multiply_vectors(upper, lower, weights.of[step][part], sums[part]);
      }
    }
  }
  // Of those that the thread stores.
  const int column = static_cast<int>(blockIdx.x * kFusionTileColumns + threadIdx.x % kFusionTileColumns);
  const FusionColumn of_column = load_column(modality, min(column, fusion.dimension - 1));
  __syncthreads();
#pragma unroll
  for (int part = 0; part < parts; ++part) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shared.sums[place.slice][place.g + i / 2 * 8][place.first_column + 8 * part + 2 * place.t + i % 2] =
          sums[part][i];
    }
  }
  __syncthreads();
  if (column >= fusion.dimension) return;
#pragma unroll
  for (int i = 0; i < kMatrixRows; i += rows_apart) {
    const int row = i + static_cast<int>(threadIdx.x / kFusionTileColumns);
    if ((present >> row & 1U) == 0) continue;
    FusionSum<Element> sum = 0;
    for (const auto& slice : shared.sums) sum += slice[row][threadIdx.x % kFusionTileColumns];
    row_of_z(fusion, first_row + row, static_cast<int>(blockIdx.z))[column] = to_z(of_column, sum);
  }
}

template <class Element>
__global__ void __launch_bounds__(kMatrixThreads, 2)
    fuse_matrices(const __grid_constant__ CudaFusion<Element> fusion, bool is_one_span) {
  auto& shared = shared_memory<typename FusionMatrices<Element>::Shared>();
  auto& tile = shared_memory<FusionRows<kMatrixRows>>();
  const int first = static_cast<int>(blockIdx.y) * kMatrixRows;
  // Before it is known whether they are needed: they mostly are, and take as long to come as the answer.
  typename FusionMatrices<Element>::Weights weights;
  load_weights(fusion, 0, weights);
  const unsigned present = find_present(fusion, first, tile);
  if (present != 0) multiply_matrices(fusion, first, present, weights, shared);
  finish_rows<kMatrixThreads>(fusion, is_one_span, first, tile);
}

}  // namespace mmedge
