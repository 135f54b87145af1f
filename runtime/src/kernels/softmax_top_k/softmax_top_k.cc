#include "kernels/softmax_top_k/softmax_top_k.h"

#include <algorithm>
#include <cmath>

#include "kernels/top_k.h"

namespace mmedge {
namespace {

void rank(std::span<const float> logits, std::span<int32_t> ranking) {
  const auto before = [logits](int32_t a, int32_t b) {
    const float left = logits[static_cast<size_t>(a)], right = logits[static_cast<size_t>(b)];
    return left > right || (left == right && a < b);
  };
  TopK<int32_t, decltype(before)> best(ranking, before);
  for (size_t i = 0; i < logits.size(); ++i) best.offer(static_cast<int32_t>(i));
  best.sort();
}

}  // namespace

void softmax_top_k(std::span<const float> logits, std::span<float> probabilities, std::span<int32_t> ranking) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double e = std::exp(logits[i] - most);
    probabilities[i] = static_cast<float>(e);
    sum += e;
  }
  for (float& probability : probabilities) probability = static_cast<float>(probability / sum);
  rank(logits, ranking);
}

void sigmoid_top_k(std::span<const float> logits, std::span<float> probabilities, std::span<int32_t> ranking) {
  std::transform(logits.begin(), logits.end(), probabilities.begin(),
                 [](double logit) { return static_cast<float>(1.0 / (1.0 + std::exp(-logit))); });
  rank(logits, ranking);
}

}  // namespace mmedge
