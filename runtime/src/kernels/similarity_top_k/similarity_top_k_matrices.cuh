// How similarity_top_k.cu adds up the products of many queries: on tensor cores, whose float32 operands have 11 bits
// (TF32). A float32 is therefore the sum of two such, and a product that of three: all but those of two low parts.
// float16 and int8 are exact in 11 bits, so that theirs are of two. A warp has 32 rows under way, of which four
// neighbouring lanes share each, eight rows at a time; registers lie as kernels/matrix.cuh says.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/matrix.cuh"
#include "kernels/similarity_top_k/similarity_top_k_block.cuh"
#include "kernels/similarity_top_k/similarity_top_k_vectors.cuh"

namespace mmedge {

constexpr int kSharers = 4;                                                // lanes that share a row
constexpr int kOctets = ManyQueries::kQueries / 8;                         // of queries: what a product's columns are
constexpr int kLaneQueries = 2 * kOctets, kScores = kRows * kLaneQueries;  // of each lane, in the end
static_assert(ManyQueries::kTileRows == kThreads / kSharers * kRows);

// Values `begin` and on, as many as the shared memory takes; zeros follow them. In the order in which lanes read them:
// two for each lane, of one product, then those of the next octet.
template <class Element>
__device__ void load_columns(const CudaSimilarity& search, int begin, Shared<ManyQueries>& shared) {
  constexpr int vector = kVectorValues<Element>, chunk = kSharers * vector;
  static_assert(ManyQueries::kStage % chunk == 0);
  const int left = search.dimension - begin, size = min(ManyQueries::kStage, divide_up(left, chunk) * chunk);
  const int queries = search.query_count - first_query<ManyQueries>();
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) {
    const int product = i / chunk * (vector / 2) + i % vector / 2, sharer = i % chunk / vector;
    float* const to = reinterpret_cast<float*>(shared.query) + (product * kOctets * kWarp + sharer) * 2 + i % 2;
#pragma unroll 4
    for (int t = 0; t < ManyQueries::kQueries; ++t) {
      const bool there = t < queries && i < left;
      to[(t / 8 * kWarp + t % 8 * kSharers) * 2] = there ? query_at<ManyQueries>(search, t)[begin + i] : 0.0F;
    }
  }
}

struct Parts {
  unsigned high, low;
};

// As a sum of two float32, of which the first has 11 bits and the second, but for its lowest, too.
__device__ inline Parts split(float value) {
  const unsigned high = (__float_as_uint(value) + 0x1000U) & 0xffffe000U;  // that of NaN may be none, the low part is
  return {high, __float_as_uint(value - __uint_as_float(high))};
}

// Of a lane: of every octet of the queries with rows 0 and 1, then with rows 2 and 3; in the order of a product's sums.
using Sums = float[kRows / 2 * kOctets][4];

// Adds the products of two values of each row with those of the queries.
template <class Element>
__device__ void add_products(const float2 (&values)[kRows], const float2* columns, Sums& sums) {
  constexpr bool exact = !std::is_same_v<Element, float>;
  unsigned rows[kRows / 2][4], lows[kRows / 2][4];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float of[] = {values[r].x, values[r].y};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Parts parts = exact ? Parts{__float_as_uint(of[i]), 0} : split(of[i]);
      rows[r / 2][2 * i + r % 2] = parts.high;
      lows[r / 2][2 * i + r % 2] = parts.low;
    }
  }
#pragma unroll
  for (int n = 0; n < kOctets; ++n) {
    const float2 query = columns[n * kWarp];
    const Parts x = split(query.x), y = split(query.y);
    const unsigned high[] = {x.high, y.high}, low[] = {x.low, y.low};
#pragma unroll
    for (int m = 0; m < kRows / 2; ++m) {
      multiply_floats(rows[m], low, sums[m * kOctets + n]);
      if constexpr (!exact) multiply_floats(lows[m], high, sums[m * kOctets + n]);
      multiply_floats(rows[m], high, sums[m * kOctets + n]);
    }
  }
}

// The row of a lane's score i, counted from its warp's first; and the query.
__device__ inline int row_of_score(int i, int lane) { return i / kLaneQueries * 8 + lane / kSharers; }
__device__ inline int query_of_score(int i, int lane) { return i / 2 % kOctets * 8 + lane % kSharers * 2 + i % 2; }

// What makes a score of a query's sums, beside the row's length: NaN where these may have lost something.
__device__ inline float query_factor(const CudaSimilarity& search, int t, const Shared<ManyQueries>& shared) {
  if (shared.length[t] == 0.0F) return 0.0F;
  if (!shared.usual[t]) return NAN;
  const float scale = search.gallery.scale;
  return search.metric == MME_DOT ? scale : (scale < 0.0F ? -1.0F : 1.0F) / shared.length[t];
}

// Of the rows of one tile.
template <class Element>
__device__ void score_tile(const CudaSimilarity& search, int tile, float (&scores)[kScores],
                           Shared<ManyQueries>& shared) {
  using Square = std::conditional_t<std::is_same_v<Element, int8_t>, int, float>;
  constexpr int vector = kVectorValues<Element>, stage = ManyQueries::kStage;
  const Gallery& gallery = search.gallery;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, sharer = lane % kSharers;
  const int count = static_cast<int>(gallery.count), dimension = search.dimension;
  const int warp_row = tile * ManyQueries::kTileRows + thread / kWarp * (kRows * 8);
  const bool aligned = (reinterpret_cast<uintptr_t>(gallery.rows) | gallery.stride) % sizeof(RowVector) == 0;

  const std::byte* from = gallery.rows + static_cast<size_t>(tile) * ManyQueries::kTileRows * gallery.stride;
  unsigned offsets[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = min(warp_row + r * 8 + lane / kSharers, count - 1) - tile * ManyQueries::kTileRows;
    offsets[r] = static_cast<unsigned>(row) * static_cast<unsigned>(gallery.stride) + sharer * sizeof(RowVector);
  }
  Sums sums = {};
  Square squares[kRows] = {};
  for (int begin = 0; begin < dimension; begin += stage) {
    if (dimension > stage) {
      __syncthreads();
      load_columns<Element>(search, begin, shared);
      __syncthreads();
    }
    const int size = min(dimension - begin, stage);
    const float2* columns = reinterpret_cast<const float2*>(shared.query) + lane;
#pragma unroll 1
    for (int at = 0; at < size; at += kSharers * vector) {
      const int left = size - at - sharer * vector;
      RowVector vectors[kRows];
      load_rows<Element>(from, offsets, aligned, left, vectors);
      from += kSharers * sizeof(RowVector);
#pragma unroll 1
      for (int groups = vector / 4; groups > 0; groups -= kGroups<Element>) {
        Sums some = {};  // a tensor core rounds towards zero, which would add up along a whole row
#pragma unroll
        for (int group = 0; group < kGroups<Element>; ++group) {
          float2 first[kRows], second[kRows];
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float4 v = unpack<Element>(vectors[r], group);
            squares[r] = add_squares(vectors[r].words[group], v, squares[r]);
            first[r] = {v.x, v.y};
            second[r] = {v.z, v.w};
          }
          add_products<Element>(first, columns, some);
          add_products<Element>(second, columns + kOctets * kWarp, some);
          columns += 2 * kOctets * kWarp;
        }
#pragma unroll
        for (int i = 0; i < kScores; ++i) sums[i / 4][i % 4] += some[i / 4][i % 4];
#pragma unroll
        for (auto& row : vectors) row = {{row.words[2], row.words[3]}};  // the groups that are left, of int8
      }
    }
  }

  const bool cosine = search.metric == MME_COSINE;
  const int queries = search.query_count - first_query<ManyQueries>();
  float factors[kLaneQueries];
#pragma unroll
  for (int j = 0; j < kLaneQueries; ++j) factors[j] = query_factor(search, query_of_score(j, lane), shared);
  unsigned doubtful = 0;  // scores to be computed again, a bit for each
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const auto row_squares = static_cast<float>(sum_lanes<kSharers>(squares[r]));
    const bool zeros = !std::is_same_v<Element, float> && row_squares == 0.0F;  // float32's squares may underflow
    const float row_factor = !cosine ? 1.0F : zeros ? 0.0F : 1.0F / sqrtf(row_squares);
    const bool certain = !cosine || zeros || sound(row_squares);
#pragma unroll
    for (int j = 0; j < kLaneQueries; ++j) {
      const int i = r * kLaneQueries + j, at = r % 2 * 2 + i % 2;
      scores[i] = sums[r / 2 * kOctets + j / 2][at] * (row_factor * factors[j]);
      const bool wanted = warp_row + row_of_score(i, lane) < count && query_of_score(i, lane) < queries;
      if (wanted && !(certain && fabsf(scores[i]) < INFINITY)) doubtful |= 1U << i;
    }
  }
  const auto find_doubtful = [&] { return __ballot_sync(kWholeWarp, doubtful != 0); };
  for (unsigned lanes = find_doubtful(); lanes != 0; lanes = find_doubtful()) {
    const int its_lane = __ffs(static_cast<int>(lanes)) - 1;
    const int i = __ffs(static_cast<int>(__shfl_sync(kWholeWarp, doubtful, its_lane))) - 1;
    const int row = warp_row + row_of_score(i, its_lane), t = query_of_score(i, its_lane);
    const float again = exact_score<Element, ManyQueries>(search, row, t, shared.squares[t]);
    if (lane != its_lane) continue;
    doubtful &= doubtful - 1;
#pragma unroll
    for (int j = 0; j < kScores; ++j) scores[j] = j == i ? again : scores[j];
  }
}

// Offers every row of the block's slice.
template <class Element>
__device__ void multiply_slice(const CudaSimilarity& search, int k, Shared<ManyQueries>& shared) {
  static_assert(decltype(shared.nearest)::kRound >= ManyQueries::kTileRows / kRows);
  auto& nearest = shared.nearest;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int count = static_cast<int>(search.gallery.count);
  const int queries = search.query_count - first_query<ManyQueries>();
  load_columns<Element>(search, 0, shared);
  __syncthreads();
  const int slices = static_cast<int>(gridDim.y), tiles = divide_up(count, ManyQueries::kTileRows);
  for (int tile = static_cast<int>(blockIdx.y); tile < tiles; tile += slices) {
    float scores[kScores];
    score_tile<Element>(search, tile, scores, shared);
    const int warp_row = tile * ManyQueries::kTileRows + thread / kWarp * (kRows * 8);
    const auto key = [&](int i) {
      const int row = warp_row + row_of_score(i, lane);
      const bool wanted = row < count && query_of_score(i, lane) < queries;
      return wanted ? make_key(scores[i] >= -INFINITY ? scores[i] : -INFINITY, row) : 0;
    };
    bool near = false;
#pragma unroll
    for (int j = 0; j < kLaneQueries; ++j) {
      const int t = query_of_score(j, lane);
      const float worst = t < queries ? score_of(nearest.threshold[t]) : INFINITY;
#pragma unroll
      for (int r = 0; r < kRows; ++r) near |= !(scores[r * kLaneQueries + j] < worst);  // one may be no number
    }
    if (__syncthreads_or(near ? 1 : 0) == 0) continue;
    // A quarter of the rows at a time, for as many as the lists have room.
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      bool offered = false;
#pragma unroll
      for (int j = 0; j < kLaneQueries; ++j) {
        const int i = r * kLaneQueries + j;
        offered |= nearest.offer(query_of_score(i, lane), key(i));
      }
      nearest.settle(k, offered, false);
    }
  }
  nearest.settle(k, false, true);
}

}  // namespace mmedge
