// What the blocks of similarity_top_k.cu share: their sizes and memory, what is the same however they add up products,
// and how what they found becomes one result.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/similarity_top_k/nearest_keys.cuh"
#include "kernels/similarity_top_k/similarity_top_k_cuda.h"
#include "kernels/similarity_top_k/similarity_top_k_vectors.cuh"

namespace mmedge {

constexpr int kThreads = 256;

// What a block works on: so many queries, of which it keeps so many values in shared memory at a time, and up to so
// many of the nearest rows, in lists of so many keys; and so many rows, then a barrier. A multiprocessor holds kBlocks.
struct OneQuery {
  static constexpr int kQueries = 1, kStage = 2048, kMostK = kCudaSimilarityMostK, kKeys = 1024, kTileRows = 128;
  static constexpr int kBlocks = 3;
};
struct SomeQueries {
  static constexpr int kQueries = 4, kStage = 1024, kMostK = kCudaSimilarityMostK, kKeys = 512, kTileRows = 128;
  static constexpr int kBlocks = 2;
};
struct ManyQueries {
  static constexpr int kQueries = 16, kStage = 384, kMostK = 48, kKeys = 128, kTileRows = 256;
  static constexpr int kBlocks = 2;
};

template <class Tile>
struct Shared {
  float4 query[Tile::kQueries][Tile::kStage / 4];
  NearestKeys<Tile::kQueries, Tile::kKeys> nearest;
  double squares[Tile::kQueries];  // of the query: their sum, its root, and whether it is sound
  float length[Tile::kQueries];
  bool usual[Tile::kQueries];
  int slices[Tile::kQueries][Tile::kMostK];
  bool is_last;
};

// Whether a float32 sum of squares has lost nothing to underflow or overflow.
__device__ inline bool sound(float squares) { return squares > 1e-30F && squares < 1e30F; }

// Of the block, whose queries are neighbours.
template <class Tile>
__device__ int first_query() {
  return static_cast<int>(blockIdx.x) * Tile::kQueries;
}

template <class Tile>
__device__ const float* query_at(const CudaSimilarity& search, int t) {
  return search.queries + static_cast<size_t>(first_query<Tile>() + t) * search.dimension;
}

// Of each query, by one warp; past the last query there are zeros.
template <class Tile>
__device__ void measure_queries(const CudaSimilarity& search, Shared<Tile>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int t = static_cast<int>(threadIdx.x) / kWarp; t < Tile::kQueries; t += kThreads / kWarp) {
    const int values = first_query<Tile>() + t < search.query_count ? search.dimension : 0;
    double squares = 0.0;
    for (int i = lane; i < values; i += kWarp) {
      const double q = query_at<Tile>(search, t)[i];
      squares += q * q;
    }
    squares = sum_lanes<kWarp>(squares);
    if (lane != 0) continue;
    shared.squares[t] = squares;
    shared.length[t] = static_cast<float>(sqrt(squares));
    shared.usual[t] = sound(static_cast<float>(squares));
  }
}

// The score of one row in float64, by one warp. `query_squares` is for the cosine alone.
template <class Element, class Tile>
__device__ float exact_score(const CudaSimilarity& search, int row, int t, const double& query_squares) {
  const auto* const values =
      reinterpret_cast<const Element*>(search.gallery.rows + static_cast<size_t>(row) * search.gallery.stride);
  const bool distance = search.metric == MME_EUCLIDEAN;
  double sum = 0.0, row_squares = 0.0;  // of the products, or of the squared differences
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < search.dimension; i += kWarp) {
    const double q = query_at<Tile>(search, t)[i];
    const double value = static_cast<double>(search.gallery.scale) * to_float(values[i]);
    sum += distance ? (q - value) * (q - value) : q * value;
    row_squares += value * value;
  }
  sum = sum_lanes<kWarp>(sum);
  if (search.metric == MME_DOT) return static_cast<float>(sum);
  if (distance) return -static_cast<float>(sqrt(sum));
  row_squares = sum_lanes<kWarp>(row_squares);
  if (row_squares == 0.0 || query_squares == 0.0) return 0.0F;
  return static_cast<float>(sum / (sqrt(row_squares) * sqrt(query_squares)));
}

// What the blocks of the queries found, [k][slices] of each query, becomes the result.
template <class Tile>
__device__ void merge_slices(const CudaSimilarity& search, int k, Shared<Tile>& shared) {
  auto& nearest = shared.nearest;
  constexpr int round = std::remove_reference_t<decltype(nearest)>::kRound, reads = divide_up(round, kThreads);
  static_assert(round >= Tile::kMostK);
  const int thread = static_cast<int>(threadIdx.x), slices = static_cast<int>(gridDim.y), lists = min(k, slices);
  const int first = first_query<Tile>(), queries = min(Tile::kQueries, search.query_count - first);
  const uint64_t* const candidates = search.candidates + static_cast<size_t>(first) * k * slices;
  const auto offer = [&](int begin, int end, const auto& place) {
    uint64_t keys[Tile::kQueries][reads] = {};
#pragma unroll
    for (int t = 0; t < Tile::kQueries; ++t) {
#pragma unroll
      for (int i = 0; i < reads; ++i) {
        const int place_of = thread + i * kThreads, at = begin + place_of;
        if (t >= queries || place_of >= round || at >= end) continue;
        keys[t][i] = __ldcg(candidates + static_cast<size_t>(t) * k * slices + place(t, at));
      }
    }
    bool offered = false;
#pragma unroll
    for (int t = 0; t < Tile::kQueries; ++t) {
#pragma unroll
      for (int i = 0; i < reads; ++i) offered |= nearest.offer(t, keys[t][i]);
    }
    return offered;
  };

  nearest.clear();
  __syncthreads();
  for (int begin = 0; begin < slices; begin += round) {
    nearest.settle(k, offer(begin, slices, [](int, int at) { return at; }), begin + round >= slices);
  }
  for (int i = thread; i < Tile::kQueries * lists; i += kThreads) {
    shared.slices[i / lists][i % lists] = row_of(nearest.keys[i / lists][i % lists]) / Tile::kTileRows % slices;
  }
  __syncthreads();
  // Lists are sorted, and a round reads at least one key of each: was none taken, none that follows would be.
  const auto place = [&](int t, int at) { return (1 + at / lists) * slices + shared.slices[t][at % lists]; };
  const int rest = (k - 1) * lists;
  for (int begin = 0; begin < rest; begin += round) {
    if (!nearest.settle(k, offer(begin, rest, place), false)) break;
  }
  nearest.settle(k, false, true);
  for (int i = thread; i < queries * k; i += kThreads) {
    const uint64_t key = nearest.keys[i / k][i % k];
    const size_t to = static_cast<size_t>(first + i / k) * search.k + i % k;
    search.rows[to] = row_of(key);
    search.scores[to] = search.metric == MME_EUCLIDEAN ? fabsf(score_of(key)) : score_of(key);
  }
}

// Leaves what the block found for the last block of the queries, or is it, and merges.
template <class Tile>
__device__ void finish_slice(const CudaSimilarity& search, int k, Shared<Tile>& shared) {
  const auto& nearest = shared.nearest;
  const int thread = static_cast<int>(threadIdx.x);
  const int slice = static_cast<int>(blockIdx.y), slices = static_cast<int>(gridDim.y);
  const int first = first_query<Tile>(), queries = min(Tile::kQueries, search.query_count - first);
  for (int i = thread; i < queries * k; i += kThreads) {
    const int t = i / k, rank = i % k;
    const uint64_t key = rank < static_cast<int>(nearest.count[t]) ? nearest.keys[t][rank] : 0;
    search.candidates[(static_cast<size_t>(first + t) * k + rank) * slices + slice] = key;
  }
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    unsigned* const ticket = search.tickets + blockIdx.x;
    shared.is_last = atomicAdd(ticket, 1U) == gridDim.y - 1;
    if (shared.is_last) *ticket = 0;
  }
  __syncthreads();
  if (!shared.is_last) return;
  __threadfence();
  merge_slices(search, k, shared);
}

}  // namespace mmedge
