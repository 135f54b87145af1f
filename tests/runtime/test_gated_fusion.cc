// The kernel of gated fusion, judged by double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/instruction_set.h"

namespace mmedge {
namespace {

constexpr float kEpsilon = 1e-5F;

template <class T>
class Aligned {
 public:
  explicit Aligned(size_t count)
      : data_(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)), std::free) {}
  T* get() const { return data_.get(); }

 private:
  std::unique_ptr<T, decltype(&std::free)> data_;
};

// A modality's features and weights in 8 bits, and what they stand for: step * (x - zero) and weight_scale * weight.
struct Bytes {
  Bytes(size_t batch, size_t count, size_t dimension, std::mt19937& random)
      : features(count), x(batch * count), weight(dimension * count), zero(static_cast<uint8_t>(random() % 256)) {
    for (uint8_t& value : x) value = static_cast<uint8_t>(random());
    for (int8_t& value : weight) value = static_cast<int8_t>(random());
    std::uniform_real_distribution<float> scale(0.5F, 1.5F);
    for (size_t i = 0; i < dimension; ++i) weight_scale.push_back(scale(random) / 127);
    std::normal_distribution<float> normal;
    for (auto* parameter : {&bias, &norm_weight, &norm_bias, &gate_weight}) {
      for (size_t i = 0; i < dimension; ++i) parameter->push_back(0.3F * normal(random));
    }
  }

  double real_x(size_t i) const { return double{step} * (x[i] - zero); }
  double real_weight(size_t i) const { return double{weight_scale[i / features]} * weight[i]; }

  size_t features;
  std::vector<uint8_t> x;
  std::vector<int8_t> weight;
  uint8_t zero;
  float step = 1.0F / 64, gate_bias = 0.25F;
  std::vector<float> weight_scale, bias, norm_weight, norm_bias, gate_weight;
};

struct Fused {
  std::vector<float> y, alpha;
};

std::vector<double> embed(const Bytes& bytes, size_t row, size_t dimension, double& score) {
  std::vector<double> h(dimension);
  double mean = 0, variance = 0;
  for (size_t i = 0; i < dimension; ++i) {
    h[i] = bytes.bias[i];
    for (size_t f = 0; f < bytes.features; ++f) {
      h[i] += bytes.real_weight(i * bytes.features + f) * bytes.real_x(row * bytes.features + f);
    }
    mean += h[i] / static_cast<double>(dimension);
  }
  for (const double value : h) variance += (value - mean) * (value - mean) / static_cast<double>(dimension);
  score = bytes.gate_bias;
  for (size_t i = 0; i < dimension; ++i) {
    h[i] = (h[i] - mean) / std::sqrt(variance + kEpsilon) * bytes.norm_weight[i] + bytes.norm_bias[i];
    h[i] = std::max(h[i], 0.0);
    score += bytes.gate_weight[i] * h[i];
  }
  return h;
}

Fused fuse_in_double(const std::vector<Bytes>& modalities, const std::vector<uint8_t>& presence, size_t dimension) {
  const size_t batch = presence.size() / modalities.size();
  Fused result{std::vector<float>(batch * dimension), std::vector<float>(presence.size())};
  for (size_t row = 0; row < batch; ++row) {
    double sum = 0;
    std::vector<double> y(dimension), alpha(modalities.size());
    for (size_t m = 0; m < modalities.size(); ++m) {
      if (presence[row * modalities.size() + m] == 0) continue;
      double score = 0;
      const std::vector<double> h = embed(modalities[m], row, dimension, score);
      alpha[m] = std::exp(score);
      sum += alpha[m];
      for (size_t i = 0; i < dimension; ++i) y[i] += alpha[m] * h[i];
    }
    if (sum == 0) continue;
    for (size_t i = 0; i < dimension; ++i) result.y[row * dimension + i] = static_cast<float>(y[i] / sum);
    for (size_t m = 0; m < modalities.size(); ++m) {
      result.alpha[row * modalities.size() + m] = static_cast<float>(alpha[m] / sum);
    }
  }
  return result;
}

// The parameters of a modality in the kernel's form, which refers to these.
struct Packed {
  Packed(const Bytes& bytes, size_t dimension, bool integers)
      : words(packed_fusion_integers_size(dimension, bytes.features)),
        floats(packed_fusion_weight_size(dimension, bytes.features)),
        offset(dimension + 15),
        scale(dimension + 15) {
    modality = {nullptr,
                nullptr,
                floats.get(),
                bytes.bias.data(),
                bytes.norm_weight.data(),
                bytes.norm_bias.data(),
                bytes.gate_weight.data(),
                &bytes.gate_bias,
                bytes.features,
                nullptr};
    if (integers) {
      pack_fusion_integers(bytes.weight.data(), dimension, bytes.features, bytes.zero, words.get(), offset.data());
      for (size_t i = 0; i < dimension; ++i) scale[i] = bytes.step * bytes.weight_scale[i];
      in_bytes = {bytes.x.data(), words.get(), offset.data(), scale.data()};
    } else {
      for (size_t i = 0; i < bytes.x.size(); ++i) x.push_back(static_cast<float>(bytes.real_x(i)));
      for (size_t i = 0; i < bytes.weight.size(); ++i) weight.push_back(static_cast<float>(bytes.real_weight(i)));
      pack_fusion_weight(weight.data(), dimension, bytes.features, floats.get());
      modality.x = x.data();
    }
  }

  Aligned<int32_t> words;
  Aligned<float> floats;
  std::vector<int32_t> offset;
  std::vector<float> scale, x, weight;
  FusionIntegers in_bytes{};
  FusionModality modality{};
};

Fused fuse(const std::vector<Bytes>& modalities, const std::vector<uint8_t>& presence, size_t dimension,
           bool integers) {
  choose_instruction_set();
  const size_t batch = presence.size() / modalities.size();
  std::vector<std::unique_ptr<Packed>> packed;
  std::vector<FusionModality> parts;
  for (const Bytes& bytes : modalities) {
    packed.push_back(std::make_unique<Packed>(bytes, dimension, integers));
    parts.push_back(packed.back()->modality);
    if (integers) parts.back().integers = &packed.back()->in_bytes;
  }
  Fused result{std::vector<float>(batch * dimension), std::vector<float>(presence.size())};
  gated_fusion({parts, presence.data(), result.y.data(), result.alpha.data(), dimension, kEpsilon}, 0, batch);
  return result;
}

void expect_near(const std::vector<float>& found, const std::vector<float>& expected, float bound) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], bound) << "at " << i;
}

class GatedFusion : public testing::TestWithParam<bool> {};

TEST_P(GatedFusion, IsThatOfDoublePrecision) {
  std::mt19937 random(1);
  for (const size_t dimension : {3U, 16U, 64U, 100U, 208U}) {
    for (const size_t batch : {1U, 2U, 3U, 7U, 35U}) {
      std::vector<Bytes> modalities;
      for (const size_t features : {1U, 6U, 64U, 131U}) modalities.emplace_back(batch, features, dimension, random);
      std::vector<uint8_t> presence(batch * modalities.size());
      for (uint8_t& flag : presence) flag = random() % 3 != 0;
      const Fused expected = fuse_in_double(modalities, presence, dimension);
      const Fused found = fuse(modalities, presence, dimension, GetParam());
      expect_near(found.y, expected.y, 2e-5F);
      expect_near(found.alpha, expected.alpha, 2e-5F);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(In, GatedFusion, testing::Values(true, false),
                         [](const auto& of) { return of.param ? "Integers" : "Floats"; });

// Sums near the ends of 32 bits, whose differences from `zero`'s are what tells the rows apart.
TEST(GatedFusionInIntegers, SumsOfTheMostAndLargestProductsAreExact) {
  constexpr size_t dimension = 20;
  std::mt19937 random(2);
  for (const auto& [x, zero] : {std::pair<uint8_t, uint8_t>{255, 254}, {254, 255}, {0, 1}, {128, 127}}) {
    for (const int8_t largest : {int8_t{127}, int8_t{-128}}) {
      std::vector<Bytes> modalities{Bytes(1, kFusionMostFeatures, dimension, random)};
      Bytes& bytes = modalities.front();
      bytes.zero = zero;
      std::fill(bytes.x.begin(), bytes.x.end(), x);
      std::fill(bytes.weight.begin(), bytes.weight.end(), largest);
      for (size_t i = 0; i < dimension; ++i) {
        bytes.weight_scale[i] = 1;
        for (size_t k = 0; k < i; ++k) bytes.weight[i * bytes.features + k * 3] ^= 1;
      }
      std::fill(bytes.bias.begin(), bytes.bias.end(), 0.0F);
      expect_near(fuse(modalities, {1}, dimension, true).y, fuse_in_double(modalities, {1}, dimension).y, 1e-5F);
    }
  }
}

}  // namespace
}  // namespace mmedge
