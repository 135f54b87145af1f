#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/similarity_top_k/nearest_keys.cuh"
#include "kernels/similarity_top_k/similarity_top_k_cuda.h"
#include "kernels/similarity_top_k/similarity_top_k_vectors.cuh"

namespace mmedge {
namespace {

constexpr int kThreads = 256;
constexpr int kRowStep = kWarp / kRowLanes, kWarpRows = kRows * kRowStep, kTileRows = kThreads / kWarp * kWarpRows;

// Of one query, and of a tile of them: blocks a multiprocessor holds; values of a query in shared memory at a time.
template <int kQueries>
constexpr int kBlocks = kQueries == 1 ? 3 : 2;
template <int kQueries>
constexpr int kStage = kQueries == 1 ? 2048 : 1024;

template <int kQueries>
struct Shared {
  float4 query[kQueries][kStage<kQueries> / 4];
  NearestKeys<kQueries, kQueries == 1 ? 1024 : 512> nearest;
  double squares[kQueries];  // of the query: their sum, its root, and whether it is sound
  float length[kQueries];
  bool usual[kQueries];
  int slices[kQueries][kCudaSimilarityMostK];
  bool is_last;
};

// Whether a float32 sum of squares has lost nothing to underflow or overflow.
__device__ bool sound(float squares) { return squares > 1e-30F && squares < 1e30F; }

// Of the block, whose queries are neighbours.
template <int kQueries>
__device__ int first_query() {
  return static_cast<int>(blockIdx.x) * kQueries;
}

template <int kQueries>
__device__ const float* query_at(const CudaSimilarity& search, int t) {
  return search.queries + static_cast<size_t>(first_query<kQueries>() + t) * search.dimension;
}

// Values `begin` and on, as many as the shared memory takes; zeros follow them. In the order in which eight lanes read
// them: fours of values of neighbouring vectors lie side by side.
template <class Element, int kQueries>
__device__ void load_queries(const CudaSimilarity& search, int begin, Shared<kQueries>& shared) {
  constexpr int vector = kVectorValues<Element>, chunk = kRowLanes * vector;
  const int size = min(kStage<kQueries>, divide_up(search.dimension - begin, chunk) * chunk);
  for (int t = 0; t < kQueries; ++t) {
    const float* const query = query_at<kQueries>(search, t) + begin;
    const int values = first_query<kQueries>() + t < search.query_count ? search.dimension - begin : 0;
    for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) {
      const int lane = i % chunk / vector, group = i % vector / 4;
      const int at = i / chunk * chunk + (group * kRowLanes + lane) * 4 + i % 4;
      reinterpret_cast<float*>(shared.query[t])[at] = i < values ? query[i] : 0.0F;
    }
  }
}

// Of each query, by one warp; past the last query there are zeros.
template <int kQueries>
__device__ void measure_queries(const CudaSimilarity& search, Shared<kQueries>& shared) {
  const int t = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (t >= kQueries) return;
  const int values = first_query<kQueries>() + t < search.query_count ? search.dimension : 0;
  double squares = 0.0;
  for (int i = lane; i < values; i += kWarp) {
    const double q = query_at<kQueries>(search, t)[i];
    squares += q * q;
  }
  squares = sum_lanes<kWarp>(squares);
  if (lane != 0) return;
  shared.squares[t] = squares;
  shared.length[t] = static_cast<float>(sqrt(squares));
  shared.usual[t] = sound(static_cast<float>(squares));
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

// The score of one row in float64, by one warp. `query_squares` is for the cosine alone.
template <class Element, int kQueries>
__device__ float exact_score(const CudaSimilarity& search, int row, int t, const double& query_squares) {
  const auto* const values =
      reinterpret_cast<const Element*>(search.gallery.rows + static_cast<size_t>(row) * search.gallery.stride);
  const bool distance = search.metric == MME_EUCLIDEAN;
  double sum = 0.0, row_squares = 0.0;  // of the products, or of the squared differences
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < search.dimension; i += kWarp) {
    const double q = query_at<kQueries>(search, t)[i];
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

// Step 1 of a row and query in each lane that is `wanted`, from its sums, and step 2; returns whether it was taken.
template <class Element, bool kDistance, int kQueries>
__device__ bool offer_row(const CudaSimilarity& search, int row, int t, float sum, float row_squares, bool wanted,
                          Shared<kQueries>& shared) {
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
        exact_score<Element, kQueries>(search, __shfl_sync(kWholeWarp, row, lane), its_t, shared.squares[its_t]);
    if (static_cast<int>(threadIdx.x) % kWarp == lane) score = again;
  }
  if (!(score == score)) score = -INFINITY;
  return wanted && shared.nearest.offer(t, make_key(score, row));
}

// Offers the rows of one tile; returns whether any of this thread was taken.
template <class Element, bool kDistance, int kQueries>
__device__ bool scan_tile(const CudaSimilarity& search, int tile, Shared<kQueries>& shared) {
  using Square = std::conditional_t<std::is_same_v<Element, int8_t>, int, float>;
  constexpr int vector = kVectorValues<Element>, stage = kStage<kQueries>, sum_count = kQueries * kRows;
  constexpr int lane_sums = divide_up(sum_count, kRowLanes);
  const Gallery& gallery = search.gallery;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, row_lane = lane % kRowLanes;
  const int count = static_cast<int>(gallery.count), dimension = search.dimension;
  const int first_row = tile * kTileRows + thread / kWarp * kWarpRows + lane / kRowLanes;
  const bool aligned = (reinterpret_cast<uintptr_t>(gallery.rows) | gallery.stride) % sizeof(RowVector) == 0;

  const std::byte* from = gallery.rows + static_cast<size_t>(tile) * kTileRows * gallery.stride;
  unsigned offsets[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = min(first_row + r * kRowStep, count - 1) - tile * kTileRows;
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
      if (aligned && left >= vector) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) vectors[r] = load_vector(from + offsets[r]);
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) vectors[r] = load_part<Element>(from + offsets[r], left);
      }
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
    const bool wanted = row_lane % divide_up(kRowLanes, sum_count) == 0 && row < count &&
                        first_query<kQueries>() + t < search.query_count;
    offered |= offer_row<Element, kDistance>(search, row, t, sums[0], static_cast<float>(row_squares), wanted, shared);
#pragma unroll
    for (int j = 1; j < lane_sums; ++j) sums[j - 1] = sums[j];  // an index that varies would put them into memory
  }
  return offered;
}

// What the blocks of the queries found, [k][slices] of each query, becomes the result.
template <int kQueries>
__device__ void merge_slices(const CudaSimilarity& search, int k, Shared<kQueries>& shared) {
  auto& nearest = shared.nearest;
  constexpr int round = std::remove_reference_t<decltype(nearest)>::kRound, reads = round / kThreads;
  static_assert(round % kThreads == 0 && round >= kCudaSimilarityMostK);
  const int thread = static_cast<int>(threadIdx.x), slices = static_cast<int>(gridDim.y), lists = min(k, slices);
  const int first = first_query<kQueries>(), queries = min(kQueries, search.query_count - first);
  const uint64_t* const candidates = search.candidates + static_cast<size_t>(first) * k * slices;
  const auto offer = [&](int begin, int end, const auto& place) {
    uint64_t keys[kQueries][reads] = {};
#pragma unroll
    for (int t = 0; t < kQueries; ++t) {
#pragma unroll
      for (int i = 0; i < reads; ++i) {
        const int at = begin + thread + i * kThreads;
        if (t >= queries || at >= end) continue;
        keys[t][i] = __ldcg(candidates + static_cast<size_t>(t) * k * slices + place(t, at));
      }
    }
    bool offered = false;
#pragma unroll
    for (int t = 0; t < kQueries; ++t) {
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
  for (int i = thread; i < kQueries * lists; i += kThreads) {
    shared.slices[i / lists][i % lists] = row_of(nearest.keys[i / lists][i % lists]) / kTileRows % slices;
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

template <class Element, bool kDistance, int kQueries>
__global__ void __launch_bounds__(kThreads, kBlocks<kQueries>)
    search_gallery(const __grid_constant__ CudaSimilarity search) {
  auto& shared = shared_memory<Shared<kQueries>>();
  auto& nearest = shared.nearest;
  constexpr int tiles_a_round = std::remove_reference_t<decltype(nearest)>::kRound / kTileRows;
  static_assert(tiles_a_round > 0);
  const int thread = static_cast<int>(threadIdx.x);
  const int slice = static_cast<int>(blockIdx.y), slices = static_cast<int>(gridDim.y);
  const int count = static_cast<int>(search.gallery.count), k = min(search.k, count);
  const int tiles = divide_up(count, kTileRows);

  nearest.clear();
  load_queries<Element>(search, 0, shared);
  if (search.metric == MME_COSINE) measure_queries(search, shared);
  __syncthreads();
  for (int tile = slice; tile < tiles;) {
    bool offered = false;
#pragma unroll 1
    for (int i = 0; i < tiles_a_round && tile < tiles; ++i, tile += slices) {
      offered |= scan_tile<Element, kDistance>(search, tile, shared);
    }
    nearest.settle(k, offered, tile >= tiles);
  }

  const int first = first_query<kQueries>(), queries = min(kQueries, search.query_count - first);
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

// Blocks that share the rows: as many as the device holds at once; of many queries, four times as many, so that it is
// not for long that only some are left.
template <int kQueries>
int count_slices(const CudaSimilarity& search) {
  const int tiles = divide_up(search.query_count, kQueries), blocks = search.multiprocessors * kBlocks<kQueries>;
  const int wanted = blocks * (4 * tiles > blocks ? 4 : 1) / tiles;
  return std::clamp(wanted, 1, divide_up(static_cast<int>(search.gallery.count), kTileRows));
}

template <class Element, int kQueries>
cudaError_t launch(const CudaSimilarity& search, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(divide_up(search.query_count, kQueries), count_slices<kQueries>(search));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config,
                            search.metric == MME_EUCLIDEAN ? search_gallery<Element, true, kQueries>
                                                           : search_gallery<Element, false, kQueries>,
                            search);
}

template <class Element>
cudaError_t launch_any(const CudaSimilarity& search, cudaStream_t stream) {
  return search.query_count == 1 ? launch<Element, 1>(search, stream)
                                 : launch<Element, kCudaSimilarityQueries>(search, stream);
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
  const int slices = search.query_count == 1 ? count_slices<1>(search) : count_slices<kCudaSimilarityQueries>(search);
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
