// Kernels that no call of the C ABI shows by themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/softmax_top_k/softmax_top_k.h"
#include "kernels/top_k.h"

namespace {

struct Classified {
  std::vector<float> probabilities;
  std::vector<int32_t> ranking;
};

Classified classify(const std::vector<float>& logits, size_t k) {
  Classified result{std::vector<float>(logits.size()), std::vector<int32_t>(k, -1)};
  mmedge::softmax_top_k(logits, result.probabilities, result.ranking);
  return result;
}

TEST(SoftmaxTopK, ProbabilitiesAreThoseOfLongDouble) {
  std::mt19937 random(1);
  for (const float spread : {0.1F, 3.0F, 30.0F, 1e4F}) {
    for (const size_t classes : {1U, 2U, 10U, 1000U}) {
      std::vector<float> logits(classes);
      std::normal_distribution<float> normal(50.0F, spread);
      for (float& logit : logits) logit = normal(random);
      const long double most = *std::max_element(logits.begin(), logits.end());
      long double sum = 0;
      for (const float logit : logits) sum += std::exp(logit - most);
      const auto found = classify(logits, classes).probabilities;
      for (size_t i = 0; i < classes; ++i) {
        const auto expected = static_cast<double>(std::exp(logits[i] - most) / sum);
        EXPECT_NEAR(found[i], expected, 1.3e-7 * expected + 1e-37);
      }
    }
  }
}

TEST(SoftmaxTopK, TheRankingIsThatOfAStableSort) {
  std::mt19937 random(2);
  std::uniform_int_distribution<int> few(0, 9);  // many equal logits
  for (const size_t classes : {1U, 3U, 17U, 400U}) {
    std::vector<float> logits(classes);
    for (float& logit : logits) logit = static_cast<float>(few(random));
    std::vector<int32_t> expected(classes);
    std::iota(expected.begin(), expected.end(), 0);
    std::stable_sort(expected.begin(), expected.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    for (const size_t k : {size_t{1}, (classes + 1) / 2, classes}) {
      EXPECT_EQ(classify(logits, k).ranking, std::vector<int32_t>(expected.begin(), expected.begin() + ptrdiff_t(k)));
    }
  }
}

TEST(SoftmaxTopK, LogitsFarApartAreRankedThoughTheirProbabilitiesAreBothZero) {
  const auto found = classify({1000.0F, -1000.0F, 0.0F}, 3);
  EXPECT_EQ(found.probabilities, (std::vector<float>{1, 0, 0}));
  EXPECT_EQ(found.ranking, (std::vector<int32_t>{0, 2, 1}));
}

TEST(TopK, KeepsWhatAPartialSortKeepsAndFewerWhenFewAreOffered) {
  std::mt19937 random(3);
  for (const size_t offered : {0U, 1U, 5U, 100U}) {
    std::vector<unsigned> items(offered);
    std::iota(items.begin(), items.end(), 0U);
    std::shuffle(items.begin(), items.end(), random);
    std::vector<unsigned> room(7);
    mmedge::TopK<unsigned, std::greater<>> top(room, std::greater<>());
    for (const unsigned item : items) top.offer(item);
    const auto kept = top.sort();
    std::sort(items.begin(), items.end(), std::greater<>());
    items.resize(std::min<size_t>(offered, 7));
    EXPECT_EQ(std::vector<unsigned>(kept.begin(), kept.end()), items);
  }
}

}  // namespace
