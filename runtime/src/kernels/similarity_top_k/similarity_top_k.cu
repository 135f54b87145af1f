#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/similarity_top_k/similarity_top_k_block.cuh"
#include "kernels/similarity_top_k/similarity_top_k_cuda.h"
#include "kernels/similarity_top_k/similarity_top_k_matrices.cuh"
#include "kernels/similarity_top_k/similarity_top_k_vectors.cuh"

namespace mmedge {
namespace {

constexpr int kRowStep = kWarp / kRowLanes, kWarpRows = kRows * kRowStep;
static_assert(OneQuery::kTileRows == kThreads / kWarp * kWarpRows && SomeQueries::kTileRows == OneQuery::kTileRows);

// Values `begin` and on, as many as the shared memory takes; zeros follow them. In the order in which eight lanes read
// them: fours of values of neighbouring vectors lie side by side.
template <class Element, class Tile>
__device__ void load_queries(const CudaSimilarity& search, int begin, Shared<Tile>& shared) {
  constexpr int vector = kVectorValues<Element>, chunk = kRowLanes * vector;
  const int size = min(Tile::kStage, divide_up(search.dimension - begin, chunk) * chunk);
  for (int t = 0; t < Tile::kQueries; ++t) {
    const float* const query = query_at<Tile>(search, t) + begin;
    const int values = first_query<Tile>() + t < search.query_count ? search.dimension - begin : 0;
    for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) {
      const int lane = i % chunk / vector, group = i % vector / 4;
      const int at = i / chunk * chunk + (group * kRowLanes + lane) * 4 + i % 4;
      reinterpret_cast<float*>(shared.query[t])[at] = i < values ? query[i] : 0.0F;
    }
  }
}

// Sums over the lanes of a row, spread over these lanes: lane l gets those of values l * kCount / kRowLanes and on, in
// front; of fewer values than lanes, neighbours get the same.
template <int kCount, class Value>
__device__ void spread_sums(Value (&values)[kCount]) {
#pragma unroll
  for (int lanes = kRowLanes / 2; lanes > 0; lanes /= 2) {
    const int left = kCount * lanes / kRowLanes;
    if (left == 0) values[0] += __shfl_xor_sync(kWholeWarp, values[0], lanes);
    const bool upper = (threadIdx.x & static_cast<unsigned>(lanes)) != 0;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {  // of a constant number of steps, else they would not be unrolled
      if (i >= left) break;
      const Value a = values[i], b = values[left + i];
      values[i] = (upper ? b : a) + __shfl_xor_sync(kWholeWarp, upper ? a : b, lanes);
    }
  }
}

// Steps 1 and 2 of a row and query in each lane that is `wanted`, from its sums; returns whether it was taken.
template <class Element, bool kDistance, class Tile>
__device__ bool offer_row(const CudaSimilarity& search, int row, int t, float sum, float row_squares, bool wanted,
                          Shared<Tile>& shared) {
  const float scale = search.gallery.scale;
  float score = 0.0F;
  bool exact = true;  // else again, in float64
  if (kDistance) {
    exact = sound(sum);
    score = -sqrtf(sum);
  } else if (search.metric == MME_DOT) {
    score = scale * sum;
    exact = fabsf(score) < INFINITY;
  } else if (shared.length[t] != 0.0F) {  // that of a query of zeros is exact as it is
    exact = shared.usual[t] && sound(row_squares);
    score = (scale < 0.0F ? -sum : sum) / (sqrtf(row_squares) * shared.length[t]);
  }
  for (unsigned rest = __ballot_sync(kWholeWarp, wanted && !exact); rest != 0; rest &= rest - 1) {
    const int lane = __ffs(static_cast<int>(rest)) - 1;
    const int its_t = __shfl_sync(kWholeWarp, t, lane);
    const float again =
        exact_score<Element, Tile>(search, __shfl_sync(kWholeWarp, row, lane), its_t, shared.squares[its_t]);
    if (static_cast<int>(threadIdx.x) % kWarp == lane) score = again;
  }
  if (!(score == score)) score = -INFINITY;
  return wanted && shared.nearest.offer(t, make_key(score, row));
}

// Offers the rows of one tile; returns whether any of this thread was taken.
template <class Element, bool kDistance, class Tile>
__device__ bool scan_tile(const CudaSimilarity& search, int tile, Shared<Tile>& shared) {
  using Square = std::conditional_t<std::is_same_v<Element, int8_t>, int, float>;
  constexpr int vector = kVectorValues<Element>, stage = Tile::kStage, sum_count = Tile::kQueries * kRows;
  constexpr int lane_sums = divide_up(sum_count, kRowLanes);
  const Gallery& gallery = search.gallery;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, row_lane = lane % kRowLanes;
  const int count = static_cast<int>(gallery.count), dimension = search.dimension;
  const int first_row = tile * Tile::kTileRows + thread / kWarp * kWarpRows + lane / kRowLanes;
  const bool aligned = (reinterpret_cast<uintptr_t>(gallery.rows) | gallery.stride) % sizeof(RowVector) == 0;

  const std::byte* from = gallery.rows + static_cast<size_t>(tile) * Tile::kTileRows * gallery.stride;
  unsigned offsets[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = min(first_row + r * kRowStep, count - 1) - tile * Tile::kTileRows;
    offsets[r] = static_cast<unsigned>(row) * static_cast<unsigned>(gallery.stride) + row_lane * sizeof(RowVector);
  }
  float sums[sum_count] = {};  // of query t and row r: t * kRows + r
  Square squares[kRows] = {};
  for (int begin = 0; begin < dimension; begin += stage) {
    if (dimension > stage) {
      __syncthreads();
      load_queries<Element>(search, begin, shared);
      __syncthreads();
    }
    const int size = min(dimension - begin, stage);
#pragma unroll 1
    for (int at = 0; at < size; at += kRowLanes * vector) {
      const int left = size - at - row_lane * vector;
      RowVector vectors[kRows];
      load_rows<Element>(from, offsets, aligned, left, vectors);
      from += kRowLanes * sizeof(RowVector);
#pragma unroll 1
      for (int group = 0; group < vector / 4; group += kGroups<Element>) {
        add_vectors<Element, kDistance>(vectors, shared.query, at / 4 + group * kRowLanes + row_lane, gallery.scale,
                                        sums, squares);
#pragma unroll
        for (auto& row : vectors) row = {{row.words[2], row.words[3]}};  // the groups that are left, of int8
      }
    }
  }

  spread_sums(sums);
  spread_sums(squares);
  bool offered = false;
  for (int i = 0; i < lane_sums; ++i) {
    const int number = row_lane * sum_count / kRowLanes + i, t = number / kRows, r = number % kRows;
    const int row = first_row + r * kRowStep;
    const Square row_squares = __shfl_sync(kWholeWarp, squares[0], r * (kRowLanes / kRows), kRowLanes);
    const bool wanted =
        row_lane % divide_up(kRowLanes, sum_count) == 0 && row < count && first_query<Tile>() + t < search.query_count;
    offered |= offer_row<Element, kDistance>(search, row, t, sums[0], static_cast<float>(row_squares), wanted, shared);
#pragma unroll
    for (int j = 1; j < lane_sums; ++j) sums[j - 1] = sums[j];  // an index that varies would put them into memory
  }
  return offered;
}

// Offers every row of the block's slice.
template <class Element, bool kDistance, class Tile>
__device__ void scan_slice(const CudaSimilarity& search, int k, Shared<Tile>& shared) {
  constexpr int tiles_a_round = decltype(shared.nearest)::kRound / Tile::kTileRows;
  static_assert(tiles_a_round > 0);
  const int slices = static_cast<int>(gridDim.y);
  const int tiles = divide_up(static_cast<int>(search.gallery.count), Tile::kTileRows);
  load_queries<Element>(search, 0, shared);
  __syncthreads();
  for (int tile = static_cast<int>(blockIdx.y); tile < tiles;) {
    bool offered = false;
#pragma unroll 1
    for (int i = 0; i < tiles_a_round && tile < tiles; ++i, tile += slices) {
      offered |= scan_tile<Element, kDistance>(search, tile, shared);
    }
    shared.nearest.settle(k, offered, tile >= tiles);
  }
}

template <class Element, bool kDistance, class Tile>
__global__ void __launch_bounds__(kThreads, Tile::kBlocks)
    search_gallery(const __grid_constant__ CudaSimilarity search) {
  auto& shared = shared_memory<Shared<Tile>>();
  const int k = min(search.k, static_cast<int>(search.gallery.count));
  shared.nearest.clear();
  constexpr bool multiplies = std::is_same_v<Tile, ManyQueries>;
  if (multiplies || search.metric == MME_COSINE) measure_queries(search, shared);
  if constexpr (multiplies) {
    multiply_slice<Element>(search, k, shared);
  } else {
    scan_slice<Element, kDistance>(search, k, shared);
  }
  finish_slice(search, k, shared);
}

// Blocks that share the rows: as many as the device holds at once; of many queries, four times as many, so that it is
// not for long that only some are left.
template <class Tile>
int count_slices(const CudaSimilarity& search) {
  const int tiles = divide_up(search.query_count, Tile::kQueries), blocks = search.multiprocessors * Tile::kBlocks;
  const int wanted = blocks * (4 * tiles > blocks ? 4 : 1) / tiles;
  return std::clamp(wanted, 1, divide_up(static_cast<int>(search.gallery.count), Tile::kTileRows));
}

template <class Element, bool kDistance, class Tile>
cudaError_t launch(const CudaSimilarity& search, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(divide_up(search.query_count, Tile::kQueries), count_slices<Tile>(search));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, search_gallery<Element, kDistance, Tile>, search);
}

// Whether on tensor cores. A distance's terms are no products, and the difference of large ones would not be exact
// enough for near rows. Of few queries a small gallery makes too few of the larger tiles for the device.
bool multiplies(const CudaSimilarity& search) {
  const auto a_tile_each = static_cast<size_t>(search.multiprocessors) * ManyQueries::kTileRows;
  return search.metric != MME_EUCLIDEAN && search.query_count > SomeQueries::kQueries &&
         search.k <= ManyQueries::kMostK &&
         (search.query_count > ManyQueries::kQueries / 2 || search.gallery.count >= a_tile_each);
}

template <class Element>
cudaError_t launch_any(const CudaSimilarity& search, cudaStream_t stream) {
  if (multiplies(search)) return launch<Element, false, ManyQueries>(search, stream);
  if (search.query_count == 1) {
    return search.metric == MME_EUCLIDEAN ? launch<Element, true, OneQuery>(search, stream)
                                          : launch<Element, false, OneQuery>(search, stream);
  }
  return search.metric == MME_EUCLIDEAN ? launch<Element, true, SomeQueries>(search, stream)
                                        : launch<Element, false, SomeQueries>(search, stream);
}

bool fits(const CudaSimilarity& search) {
  const Gallery& gallery = search.gallery;
  const bool known = gallery.type == ElementType::kFloat32 || gallery.type == ElementType::kFloat16 ||
                     gallery.type == ElementType::kInt8;
  const bool aligned = (reinterpret_cast<uintptr_t>(gallery.rows) | gallery.stride) % element_size(gallery.type) == 0;
  return known && aligned && gallery.count <= kCudaSimilarityMostRows && gallery.stride <= kCudaSimilarityMostStride &&
         search.query_count >= 0 && search.query_count <= kCudaSimilarityMostQueries && search.dimension >= 1 &&
         search.dimension <= kCudaSimilarityMostDimension && search.k >= 1 && search.k <= kCudaSimilarityMostK &&
         search.multiprocessors >= 1 && search.multiprocessors <= kCudaSimilarityMostMultiprocessors;
}

}  // namespace

size_t cuda_similarity_candidates(const CudaSimilarity& search) {
  if (search.query_count == 0 || search.gallery.count == 0) return 0;
  const int slices = multiplies(search)        ? count_slices<ManyQueries>(search)
                     : search.query_count == 1 ? count_slices<OneQuery>(search)
                                               : count_slices<SomeQueries>(search);
  return static_cast<size_t>(search.query_count) * slices * std::min<size_t>(search.k, search.gallery.count);
}

cudaError_t similarity_top_k(const CudaSimilarity& search, cudaStream_t stream) {
  if (!fits(search)) return cudaErrorInvalidValue;
  if (search.query_count == 0 || search.gallery.count == 0) return cudaSuccess;
  if (search.gallery.type == ElementType::kFloat32) return launch_any<float>(search, stream);
  if (search.gallery.type == ElementType::kFloat16) return launch_any<__half>(search, stream);
  return launch_any<int8_t>(search, stream);
}

}  // namespace mmedge
