// The CUDA kernel, on a GPU or emulated, judged by the CPU kernel.
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <type_traits>
#include <vector>

#include "device_memory.h"
#include "kernels/similarity_top_k/similarity_top_k.h"
#include "kernels/similarity_top_k/similarity_top_k_cuda.h"
#include "orders.h"

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr mme_metric kMetrics[] = {MME_COSINE, MME_DOT, MME_EUCLIDEAN};

struct Sizes {
  int count, dimension, queries, k;
  int multiprocessors = 1;
  int gap = 0;     // elements between rows
  int before = 0;  // elements before the first
};

template <class Element>
constexpr mmedge::ElementType kType = std::is_same_v<Element, float>    ? mmedge::ElementType::kFloat32
                                      : std::is_same_v<Element, __half> ? mmedge::ElementType::kFloat16
                                                                        : mmedge::ElementType::kInt8;

template <class Element>
class Search {
 public:
  using Value = std::function<float(int row, int column)>;

  Search(const Sizes& sizes, mme_metric metric, const Value& value, const Value& query, float scale = 1.0F)
      : sizes_(sizes), metric_(metric), scale_(scale) {
    const int stride = sizes.dimension + sizes.gap;
    const int last = sizes.before + std::max(sizes.count - 1, 0) * stride + sizes.dimension;
    rows_.resize(static_cast<size_t>(last));
    for (int row = 0; row < sizes.count; ++row) {
      for (int i = 0; i < sizes.dimension; ++i) rows_[at(sizes.before + row * stride + i)] = to(value(row, i));
    }
    for (int q = 0; q < sizes.queries; ++q) {
      for (int i = 0; i < sizes.dimension; ++i) queries_.push_back(query(q, i));
    }
    device_rows_ = DeviceVector<Element>(rows_);
    device_queries_ = DeviceVector<float>(queries_);
    const size_t found = at(sizes.queries) * at(sizes.k);
    found_rows_ = DeviceVector<int64_t>(found);
    found_scores_ = DeviceVector<float>(found);
    tickets_ = DeviceVector<unsigned>(std::vector<unsigned>(at((sizes.queries + 3) / 4)));
    candidates_ = DeviceVector<uint64_t>(mmedge::cuda_similarity_candidates(description()));
  }

  mmedge::CudaSimilarity description() const {
    mmedge::CudaSimilarity search{};
    search.gallery = gallery(device_rows_.data());
    search.metric = metric_;
    search.queries = device_queries_.data();
    search.query_count = sizes_.queries;
    search.dimension = sizes_.dimension;
    search.k = sizes_.k;
    search.multiprocessors = sizes_.multiprocessors;
    search.rows = found_rows_.data();
    search.scores = found_scores_.data();
    search.candidates = candidates_.data();
    search.tickets = tickets_.data();
    return search;
  }

  // `exact`: every sum is a whole number that float32 holds, so rows and scores are the CPU kernel's; else rows are
  // where their scores lie further apart than sums in two orders may.
  void run_and_check(bool exact = false) {
    const auto launch = [&](cudaStream_t stream) { return mmedge::similarity_top_k(description(), stream); };
    ASSERT_EQ(on_own_stream(launch), cudaSuccess);
    const std::vector<int64_t> rows = found_rows_.read();
    const std::vector<float> scores = found_scores_.read();
    for (int q = 0; q < sizes_.queries; ++q) {
      SCOPED_TRACE(testing::Message() << "query " << q);
      check(q, rows.data() + at(q) * at(sizes_.k), scores.data() + at(q) * at(sizes_.k), exact);
    }
    for (const unsigned ticket : tickets_.read()) EXPECT_EQ(ticket, 0U);
  }

  int certain() const { return certain_; }

 private:
  static size_t at(int index) { return static_cast<size_t>(index); }

  static Element to(float value) {
    if constexpr (std::is_same_v<Element, __half>) return __float2half_rn(value);
    return static_cast<Element>(value);
  }

  mmedge::Gallery gallery(const Element* rows) const {
    return {reinterpret_cast<const std::byte*>(rows + sizes_.before), at(sizes_.count),
            at(sizes_.dimension + sizes_.gap) * sizeof(Element), kType<Element>, scale_};
  }

  void check(int q, const int64_t* rows, const float* scores, bool exact) {
    const std::span<const float> query(queries_.data() + at(q) * at(sizes_.dimension), at(sizes_.dimension));
    std::vector<float> all(at(sizes_.count));
    mmedge::similarity_scores(gallery(rows_.data()), metric_, query, all.data());
    std::vector<int> order(all.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return all[at(a)] > all[at(b)]; });

    const int found = std::min(sizes_.k, sizes_.count);
    std::set<int64_t> distinct(rows, rows + found);
    EXPECT_EQ(distinct.size(), at(found));
    const auto apart = [&](int a, int b) {
      if (b < 0 || b >= sizes_.count) return true;
      const float x = all[at(order[at(a)])], y = all[at(order[at(b)])];
      return x == y ? x == -kInfinity : std::abs(x - y) > 2.0F * tolerance(query, order[at(a)], x);
    };
    for (int i = 0; i < found; ++i) {
      const int expected = order[at(i)];
      const float score = metric_ == MME_EUCLIDEAN ? -scores[i] : scores[i];
      ASSERT_TRUE(rows[i] >= 0 && rows[i] < sizes_.count) << "place " << i << ", row " << rows[i];
      const float limit = exact ? 0.0F : tolerance(query, expected, all[at(expected)]);
      if (score != all[at(expected)]) {
        ASSERT_NEAR(score, all[at(expected)], limit) << "place " << i << ", row " << rows[i];
        ASSERT_NEAR(score, all[static_cast<size_t>(rows[i])], limit) << "place " << i << ", row " << rows[i];
      }
      if (!exact && !(apart(i, i - 1) && apart(i, i + 1))) continue;
      ++certain_;
      ASSERT_EQ(rows[i], expected) << "place " << i << ", score " << score;
    }
    for (int i = found; i < sizes_.k; ++i) EXPECT_EQ(rows[i], -1) << "not to be written";
  }

  // Of the row's score, in one kernel beside the other.
  float tolerance(std::span<const float> query, int row, float score) const {
    const float part = 6e-8F * static_cast<float>(sizes_.dimension / 8 + 8);
    if (metric_ == MME_COSINE) return part;
    if (metric_ == MME_EUCLIDEAN) return part * std::abs(score);
    float sum = 0.0F;
    const Element* const values = rows_.data() + sizes_.before + row * (sizes_.dimension + sizes_.gap);
    for (size_t i = 0; i < query.size(); ++i) sum += std::abs(query[i] * scale_ * static_cast<float>(values[i]));
    return part * sum;
  }

  Sizes sizes_;
  mme_metric metric_;
  float scale_;
  std::vector<Element> rows_;
  std::vector<float> queries_;
  DeviceVector<Element> device_rows_;
  DeviceVector<float> device_queries_, found_scores_;
  DeviceVector<int64_t> found_rows_;
  DeviceVector<uint64_t> candidates_;
  DeviceVector<unsigned> tickets_;
  int certain_ = 0;  // rows that had to be the CPU kernel's
};

std::mt19937 randoms(1);
float normal(int, int) { return std::normal_distribution<float>()(randoms); }
float byte(int, int) { return static_cast<float>(std::uniform_int_distribution<int>(-128, 127)(randoms)); }
float trit(int, int) { return static_cast<float>(std::uniform_int_distribution<int>(-1, 1)(randoms)); }
float one(int, int) { return 1.0F; }

template <class Element>
class SimilarityTopKCuda : public testing::Test {
 protected:
  static constexpr bool kInt8 = std::is_same_v<Element, int8_t>;

  static Search<Element> any(const Sizes& sizes, mme_metric metric) {
    randoms.seed(7);
    return Search<Element>(sizes, metric, kInt8 ? byte : normal, normal, kInt8 ? -0.01F : 1.0F);
  }
};
using Elements = testing::Types<float, __half, int8_t>;
TYPED_TEST_SUITE(SimilarityTopKCuda, Elements);

TYPED_TEST(SimilarityTopKCuda, OfAnySizeGivesWhatTheCpuKernelGives) {
  // One query, some, many, more than a block takes; rows of one value, of part of a vector, of whole ones, of vectors
  // and a part, at any place; fewer rows than k; more of many queries than are multiplied.
  for (const Sizes& sizes : std::vector<Sizes>{{1, 1, 1, 1},
                                               {5, 7, 1, 10},
                                               {300, 128, 1, 5},
                                               {300, 64, 3, 1, 2},
                                               {200, 136, 1, 8, 1, 8},
                                               {200, 100, 5, 20, 1, 28},
                                               {150, 33, 1, 9, 1, 4},
                                               {150, 33, 6, 9, 4, 0, 1},
                                               {140, 32, 9, 17, 1, 0, 3},
                                               {520, 72, 17, 48, 2, 56},
                                               {260, 40, 6, 3},
                                               {70, 3, 33, 5},
                                               {140, 5, 9, 49}}) {
    for (const mme_metric metric : kMetrics) {
      SCOPED_TRACE(testing::Message() << sizes.count << " rows of " << sizes.dimension << ", metric " << metric);
      auto search = this->any(sizes, metric);
      search.run_and_check();
      EXPECT_GT(search.certain(), 0);
    }
  }
}

TYPED_TEST(SimilarityTopKCuda, InAnyOrderOfThreadsAndBlocksGivesTheSame) {
  for (const int queries : {1, 9}) {
    in_every_order([&] { this->any({400, 40, queries, 30}, MME_COSINE).run_and_check(); });
  }
}

TYPED_TEST(SimilarityTopKCuda, OfMoreValuesThanSharedMemoryHolds) {
  for (const Sizes& sizes : std::vector<Sizes>{{140, 2051, 1, 3}, {140, 2048 + 16, 3, 3}, {140, 2 * 384 + 16, 9, 3}}) {
    for (const mme_metric metric : {MME_COSINE, MME_EUCLIDEAN}) {
      SCOPED_TRACE(testing::Message() << sizes.queries << " queries, metric " << metric);
      this->any(sizes, metric).run_and_check();
    }
  }
}

TYPED_TEST(SimilarityTopKCuda, FindsAsManyAsTheLimit) {
  for (const Sizes& sizes : std::vector<Sizes>{{700, 8, 1, mmedge::kCudaSimilarityMostK},
                                               {700, 8, 1, mmedge::kCudaSimilarityMostK, 8},
                                               {700, 8, 6, mmedge::kCudaSimilarityMostK},
                                               {700, 8, 2, mmedge::kCudaSimilarityMostK, 8}}) {
    this->any(sizes, MME_EUCLIDEAN).run_and_check();
  }
}

TYPED_TEST(SimilarityTopKCuda, RowsThatAreNoNumbersRankLast) {
  if constexpr (!std::is_same_v<TypeParam, int8_t>) {
    for (const int queries : {1, 2, 9}) {
      for (const mme_metric metric : kMetrics) {
        SCOPED_TRACE(testing::Message() << queries << " queries, metric " << metric);
        // Of infinities, a dot product is infinite too, or no number.
        const auto value = [](int row, int column) {
          if (row % 5 == 1) return column == 3 ? kNan : 1.0F;
          if (row % 5 == 3) return column == 2 ? -kInfinity : column == 4 && row % 2 == 0 ? kInfinity : 1.0F;
          return trit(row, column);
        };
        Search<TypeParam>({60, 6, queries, 60}, metric, value, trit).run_and_check(metric != MME_COSINE);
      }
    }
  }
}

TYPED_TEST(SimilarityTopKCuda, RowsAndQueriesOfZerosScoreZero) {
  const auto value = [](int row, int column) { return row % 3 == 0 ? 0.0F : trit(row, column); };
  const auto query = [](int q, int column) { return q % 2 == 1 ? 0.0F : trit(q, column); };
  for (const mme_metric metric : kMetrics) {
    for (const int queries : {1, 2, 9}) {
      Search<TypeParam>({50, 9, queries, 50}, metric, value, query).run_and_check(metric != MME_COSINE);
    }
  }
  // Zeros of both signs are equal: of rows of zeros, and of others at right angles to the query.
  const auto right = [](int row, int column) { return column == 1 && row % 3 != 0 ? 1.0F : 0.0F; };
  const auto first = [](int, int column) { return column == 0 ? 1.0F : 0.0F; };
  Search<TypeParam>({50, 2, 1, 50}, MME_COSINE, right, first, this->kInt8 ? -1.0F : 1.0F).run_and_check(true);
}

TYPED_TEST(SimilarityTopKCuda, TinyHugeAndIdenticalRowsScoreExactly) {
  // float16 has no numbers whose squares float32 could not add up, so there the query has them.
  constexpr bool floats = std::is_same_v<TypeParam, float>;
  const auto value = [](int row, int column) {
    const float base = static_cast<float>((row * 7 + column * 5) % 11 - 5);
    return !floats ? base : row % 4 == 0 ? base * 1e-24F : row % 4 == 1 ? base * 1e24F : base;
  };
  for (const float size : {1.0F, 1e-42F, 1e37F}) {
    const auto query = [&](int q, int column) { return value(6 + 4 * q, column) * size; };
    for (const mme_metric metric : kMetrics) {
      for (const int queries : {1, 3, 9}) {
        SCOPED_TRACE(testing::Message() << "metric " << metric << ", queries of size " << size);
        Search<TypeParam>({40, 20, queries, 12}, metric, value, query).run_and_check();
      }
    }
  }
}

// All terms of a sum have one sign: what rounding does to each adds up.
TYPED_TEST(SimilarityTopKCuda, RowsNearTheQueryScoreAsWell) {
  const auto positive = [](int, int) {
    const float value = std::uniform_real_distribution<float>(0.5F, 1.0F)(randoms);
    return TestFixture::kInt8 ? std::floor(100.0F * value) : value;
  };
  for (const int dimension : {256, 768}) {
    Search<TypeParam>({40, dimension, 9, 3}, MME_COSINE, positive, positive).run_and_check();
  }
}

TYPED_TEST(SimilarityTopKCuda, ASecondLaunchNeedsNothingCleared) {
  for (const int queries : {1, 9}) {
    auto search = this->any({600, 16, queries, 10}, MME_DOT);
    search.run_and_check();
    search.run_and_check();
  }
}

TYPED_TEST(SimilarityTopKCuda, SizesOutOfRangeAreRefused) {
  mmedge::CudaSimilarity search{};
  search.gallery = {nullptr, 0, 16, kType<TypeParam>, 1.0F};
  search.query_count = search.dimension = search.k = search.multiprocessors = 1;
  EXPECT_EQ(mmedge::similarity_top_k(search, nullptr), cudaSuccess);  // of no rows
  EXPECT_EQ(mmedge::cuda_similarity_candidates(search), 0U);
  const auto refused = [&](auto change) {
    auto changed = search;
    change(changed);
    EXPECT_EQ(mmedge::similarity_top_k(changed, nullptr), cudaErrorInvalidValue);
  };
  refused([](auto& changed) { changed.k = 0; });
  refused([](auto& changed) { changed.k = mmedge::kCudaSimilarityMostK + 1; });
  refused([](auto& changed) { changed.dimension = 0; });
  refused([](auto& changed) { changed.dimension = mmedge::kCudaSimilarityMostDimension + 1; });
  refused([](auto& changed) { changed.query_count = -1; });
  refused([](auto& changed) { changed.query_count = mmedge::kCudaSimilarityMostQueries + 1; });
  refused([](auto& changed) { changed.multiprocessors = 0; });
  refused([](auto& changed) { changed.gallery.count = size_t{mmedge::kCudaSimilarityMostRows} + 1; });
  refused([](auto& changed) { changed.gallery.stride = size_t{mmedge::kCudaSimilarityMostStride} + 16; });
  refused([](auto& changed) { changed.gallery.type = mmedge::ElementType::kUint8; });
  if (sizeof(TypeParam) > 1) refused([](auto& changed) { changed.gallery.stride += 1; });
  search.query_count = 0;
  search.gallery.count = 9;
  EXPECT_EQ(mmedge::similarity_top_k(search, nullptr), cudaSuccess);
}

// ---- How rows rank, whatever their type
// ------------------------------------------------------------------------------

TEST(SimilarityTopKCudaRanking, EqualScoresRankByRow) {
  for (const Sizes& sizes : std::vector<Sizes>{{600, 4, 1, 100}, {600, 4, 7, 100, 2}, {600, 4, 9, 40, 2}}) {
    in_every_order([&] {
      randoms.seed(3);
      Search<float>(sizes, MME_EUCLIDEAN, trit, trit).run_and_check(true);
    });
    Search<float>(sizes, MME_DOT, trit, trit).run_and_check(true);
    for (const mme_metric metric : kMetrics) Search<float>(sizes, metric, one, one).run_and_check(true);
  }
}

// Each row nearer than those before: all of them are kept, and sorted, for a while. And the reverse.
TEST(SimilarityTopKCudaRanking, OfRowsInOrderTheNearestAreFound) {
  const auto rising = [](int row, int) { return static_cast<float>(row); };
  const auto falling = [](int row, int) { return static_cast<float>(-row); };
  for (const Sizes& sizes :
       std::vector<Sizes>{{5000, 1, 1, 10}, {5000, 1, 1, 200}, {3000, 1, 3, 120}, {3000, 1, 5, 48}}) {
    Search<float>(sizes, MME_DOT, rising, one).run_and_check(true);
    Search<float>(sizes, MME_DOT, falling, one).run_and_check(true);
  }
}

// There are more than there is room for the best row of each, and the last has the nearest.
TEST(SimilarityTopKCudaRanking, WhatAnyNumberOfBlocksFoundIsMerged) {
  for (const Sizes& sizes : std::vector<Sizes>{{257 * 128, 1, 2, 20, 130}, {81 * 256, 1, 5, 20, 41}}) {
    const auto scattered = [&](int row, int) {
      return static_cast<float>(row == sizes.count - 100 ? 99991 : row * 7919 % 99991);
    };
    Search<float>(sizes, MME_DOT, scattered, one).run_and_check(true);
  }
}

}  // namespace
