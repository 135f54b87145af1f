// The CUDA kernel, emulated or on a GPU, judged by the CPU kernel in float32.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "device_memory.h"
#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/gated_fusion/gated_fusion_cuda.h"
#include "orders.h"

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <class Element>
constexpr bool kIsInt8 = std::is_same_v<Element, int8_t>;

float to_float(float value) { return value; }
float to_float(__half value) { return __half2float(value); }
void set(float& to, float value) { to = value; }
void set(__half& to, float value) { to = __float2half_rn(value); }

// One modality in the kernel's type, and the same numbers in float32.
template <class Element>
struct Modality {
  std::vector<Element> x, packed;
  std::vector<float> scale, bias, norm_weight, norm_bias, gate_weight, gate_bias;
  std::vector<int32_t> offset;
  std::vector<float> float_x, float_weight;
};

// What the kernel reads four floats of at a time, where each begins at a multiple of 16 bytes.
enum class Vector { kNone, kNormWeight, kNormBias, kGateWeight, kZ };

template <class Element>
class Case {
 public:
  using Output = typename mmedge::CudaFusion<Element>::Output;

  // About one row in four has no given modality; row 0 has none at all.
  Case(int batch, int dimension, const std::vector<int>& features)
      : features_(features), batch_(batch), dimension_(dimension), presence_(size(batch) * features.size()) {
    for (size_t i = features.size(); i < presence_.size(); ++i) presence_[i] = random_() % 4 != 0 ? 5 : 0;
    if (batch == 1) std::fill(presence_.begin(), presence_.end(), uint8_t{1});
    for (size_t m = 0; m < features.size(); ++m) modalities_.push_back(make(m));
    z_ = DeviceVector<float>(presence_.size() * size(dimension) + 1);
    tickets_ = DeviceVector(std::vector<unsigned>(size((batch + 3) / 4)));
  }

  std::vector<uint8_t>& presence() { return presence_; }
  void set_presence_stride(int bytes) { presence_stride_ = bytes; }
  // Elements of other memory in front of x, which is then aligned to no more than an element.
  void set_features_before(size_t count) { features_before_ = count; }
  // It begins 4 bytes after such a multiple.
  void set_unaligned(Vector vector) { unaligned_ = vector; }
  Modality<Element>& modality(size_t m) { return modalities_[m]; }
  const std::vector<Output>& y() const { return y_; }

  cudaError_t run() {
    std::vector<OnDevice> modalities;
    for (const Modality<Element>& modality : modalities_)
      modalities.emplace_back(modality, features_before_, unaligned_);
    mmedge::CudaFusion<Element> fusion{};
    for (size_t m = 0; m < modalities.size(); ++m) fusion.modalities[m] = modalities[m].describe(features_[m]);
    std::vector<uint8_t> flags(presence_.size() * size(presence_stride_), uint8_t{0xFF});
    for (size_t i = 0; i < presence_.size(); ++i) flags[i * size(presence_stride_)] = presence_[i];
    const DeviceVector presence(flags);
    const DeviceVector<Output> y(size(batch_) * size(dimension_));
    const DeviceVector<float> alpha(presence_.size());
    fusion.modality_count = static_cast<int>(modalities_.size());
    fusion.batch = batch_;
    fusion.dimension = dimension_;
    fusion.epsilon = kEpsilon;
    fusion.presence = presence.data();
    fusion.presence_stride = presence_stride_;
    fusion.y = y.data();
    fusion.alpha = alpha.data();
    fusion.z = z_.data() + (unaligned_ == Vector::kZ ? 1 : 0);
    fusion.tickets = tickets_.data();
    const cudaError_t error = on_own_stream([&](cudaStream_t stream) { return mmedge::gated_fusion(fusion, stream); });
    y_ = y.read();
    alpha_ = alpha.read();
    return error;
  }

  // `tolerance` is of y where it is about one.
  void check(float tolerance) {
    std::vector<mmedge::FusionModality> modalities;
    for (size_t m = 0; m < modalities_.size(); ++m) {
      const Modality<Element>& from = modalities_[m];
      modalities.push_back({from.float_x.data(), from.float_weight.data(), nullptr, from.bias.data(),
                            from.norm_weight.data(), from.norm_bias.data(), from.gate_weight.data(),
                            from.gate_bias.data(), size(features_[m]), nullptr});
    }
    std::vector<float> y(y_.size()), alpha(alpha_.size());
    mmedge::gated_fusion({modalities, presence_.data(), y.data(), alpha.data(), size(dimension_), kEpsilon}, 0,
                         size(batch_));
    for (size_t i = 0; i < alpha.size(); ++i) EXPECT_NEAR(alpha_[i], alpha[i], 1e-5F) << "alpha " << i;
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(to_float(y_[i]), y[i], tolerance * std::max(1.0F, std::abs(y[i])))
          << "row " << i / size(dimension_) << ", column " << i % size(dimension_);
    }
    for (const unsigned ticket : tickets_.read()) EXPECT_EQ(ticket, 0U);
  }

 private:
  static constexpr float kEpsilon = 1e-5F;

  struct OnDevice {
    OnDevice(const Modality<Element>& from, size_t count_before, Vector is_unaligned)
        : before(count_before),
          unaligned(is_unaligned),
          x(with_before(from.x, count_before)),
          packed(from.packed),
          scale(from.scale),
          bias(from.bias),
          norm_weight(with_before(from.norm_weight, shift(Vector::kNormWeight))),
          norm_bias(with_before(from.norm_bias, shift(Vector::kNormBias))),
          gate_weight(with_before(from.gate_weight, shift(Vector::kGateWeight))),
          gate_bias(from.gate_bias),
          offset(from.offset) {}

    mmedge::CudaFusionModality<Element> describe(int features) const {
      return {x.data() + before,
              packed.data(),
              scale.data(),
              offset.data(),
              bias.data(),
              norm_weight.data() + shift(Vector::kNormWeight),
              norm_bias.data() + shift(Vector::kNormBias),
              gate_weight.data() + shift(Vector::kGateWeight),
              gate_bias.data(),
              features};
    }

    size_t shift(Vector of) const { return of == unaligned ? 1 : 0; }

    template <class Value>
    static std::vector<Value> with_before(std::vector<Value> from, size_t count) {
      from.insert(from.begin(), count, Value{});
      return from;
    }

    size_t before;
    Vector unaligned;

    DeviceVector<Element> x, packed;
    DeviceVector<float> scale, bias, norm_weight, norm_bias, gate_weight, gate_bias;
    DeviceVector<int32_t> offset;
  };

  static size_t size(int count) { return static_cast<size_t>(count); }

  float normal(float spread, float mean = 0.0F) { return std::normal_distribution<float>(mean, spread)(random_); }

  std::vector<float> normals(float spread, float mean = 0.0F) {
    std::vector<float> values(size(dimension_));
    for (float& value : values) value = normal(spread, mean);
    return values;
  }

  Modality<Element> make(size_t m) {
    const size_t features = size(features_[m]), rows = size(batch_), columns = size(dimension_);
    const float spread = 1.0F / std::sqrt(static_cast<float>(features));
    Modality<Element> made;
    made.x.resize(rows * features);
    made.float_x.resize(made.x.size());
    std::vector<Element> weight(columns * features);
    made.float_weight.resize(weight.size());
    made.bias = normals(0.1F);
    made.norm_weight = normals(0.3F, 1.0F);
    made.norm_bias = normals(0.3F);
    made.gate_weight = normals(1.0F / std::sqrt(static_cast<float>(columns)));
    made.gate_bias = {normal(0.1F)};
    if constexpr (kIsInt8<Element>) {
      const int zero = -7;
      const float step = 0.02F;
      std::uniform_int_distribution<int> any(-128, 127);
      for (size_t i = 0; i < made.x.size(); ++i) {
        made.x[i] = static_cast<int8_t>(any(random_));
        made.float_x[i] = step * static_cast<float>(made.x[i] - zero);
      }
      for (size_t c = 0; c < columns; ++c) {
        const float weight_step = 0.01F * spread * (1.0F + static_cast<float>(c % 5));
        int sum = 0;
        for (size_t i = c * features; i < (c + 1) * features; ++i) {
          weight[i] = static_cast<int8_t>(any(random_));
          sum += weight[i];
          made.float_weight[i] = weight_step * weight[i];
        }
        made.scale.push_back(step * weight_step);
        made.offset.push_back(zero * sum);
      }
    } else {
      for (size_t i = 0; i < made.x.size(); ++i) {
        // What an absent modality holds is not to be read.
        set(made.x[i], presence_[i / features * features_.size() + m] != 0 ? normal(1.0F) : kNan);
        made.float_x[i] = to_float(made.x[i]);
      }
      for (size_t i = 0; i < weight.size(); ++i) {
        set(weight[i], normal(spread));
        made.float_weight[i] = to_float(weight[i]);
      }
    }
    made.packed.resize(mmedge::packed_cuda_fusion_weight_size<Element>(dimension_, features_[m]));
    mmedge::pack_cuda_fusion_weight(weight.data(), dimension_, features_[m], made.packed.data());
    return made;
  }

  std::mt19937 random_{1};
  std::vector<int> features_;
  size_t features_before_ = 0;
  Vector unaligned_ = Vector::kNone;
  int batch_, dimension_, presence_stride_ = 1;
  std::vector<uint8_t> presence_;
  std::vector<Modality<Element>> modalities_;
  std::vector<Output> y_;
  std::vector<float> alpha_;
  DeviceVector<float> z_;
  DeviceVector<unsigned> tickets_;
};

template <class Element>
class GatedFusionCuda : public testing::Test {
 protected:
  // Sums in another order; y rounded to float16.
  static constexpr float kTolerance = std::is_same_v<Element, __half> ? 6e-4F : 1e-5F;
};
using Elements = testing::Types<float, __half, int8_t>;
TYPED_TEST_SUITE(GatedFusionCuda, Elements);

TYPED_TEST(GatedFusionCuda, OfAnySizeGivesWhatTheCpuKernelGives) {
  struct Size {
    int batch, dimension;
    std::vector<int> features;
  };
  // Few rows and many, whole tiles and tails, one feature and more than a chunk of them.
  for (const Size& size : std::vector<Size>{{1, 1, {1}},
                                            {1, 64, {160, 32}},
                                            {4, 17, {3, 130}},
                                            {7, 70, {16, 5, 100}},
                                            {8, 8, {1, 2, 3, 4, 5, 6, 7, 8}},
                                            {9, 64, {64, 128}},
                                            {33, 67, {1, 133}},
                                            {70, 5, {20, 33, 47}},
                                            // More than a chunk on tensor cores; rows in which vectors are aligned,
                                            // and in which they are not; every modality.
                                            {16, 129, {500, 5}},
                                            {17, 70, {33, 1044}},
                                            // More columns than a warp holds at once.
                                            {3, 257, {7, 20}},
                                            {18, 700, {9, 40}},
                                            {31, 12, {48, 1, 2, 3, 513, 16, 7, 528}}}) {
    SCOPED_TRACE(testing::Message() << "batch " << size.batch << ", D " << size.dimension);
    in_every_order([&] {
      Case<TypeParam> fusion(size.batch, size.dimension, size.features);
      ASSERT_EQ(fusion.run(), cudaSuccess);
      fusion.check(this->kTolerance);
    });
  }
}

TYPED_TEST(GatedFusionCuda, OfTheSizeOfAModelGivesWhatTheCpuKernelGives) {
  for (const int batch : {2, 33, 256}) {
    Case<TypeParam> fusion(batch, 256, {512, 256, 384});
    ASSERT_EQ(fusion.run(), cudaSuccess);
    fusion.check(this->kTolerance);
  }
}

TYPED_TEST(GatedFusionCuda, OfFeaturesThatBeginAnywhereGivesWhatTheCpuKernelGives) {
  for (const int batch : {3, 24}) {
    Case<TypeParam> fusion(batch, 24, {48, 9});
    fusion.set_features_before(1);
    ASSERT_EQ(fusion.run(), cudaSuccess);
    fusion.check(this->kTolerance);
  }
}

TYPED_TEST(GatedFusionCuda, OfParametersThatBeginAnywhereGivesWhatTheCpuKernelGives) {
  for (const Vector vector : {Vector::kNormWeight, Vector::kNormBias, Vector::kGateWeight, Vector::kZ}) {
    Case<TypeParam> fusion(2, 256, {20, 9});
    fusion.set_unaligned(vector);
    ASSERT_EQ(fusion.run(), cudaSuccess);
    fusion.check(this->kTolerance);
  }
}

TYPED_TEST(GatedFusionCuda, WhereOneRowHasOneModalityGivesWhatTheCpuKernelGives) {
  for (size_t row = 0; row < 20; ++row) {
    Case<TypeParam> fusion(20, 70, {40, 9, 30});
    std::vector<uint8_t>& presence = fusion.presence();
    if (presence[row * 3 + 1] == 0) continue;
    std::fill(presence.begin(), presence.end(), uint8_t{0});
    presence[row * 3 + 1] = 1;
    ASSERT_EQ(fusion.run(), cudaSuccess);
    fusion.check(this->kTolerance);
  }
}

TYPED_TEST(GatedFusionCuda, ASecondLaunchNeedsNothingCleared) {
  for (const int batch : {3, 40}) {
    Case<TypeParam> fusion(batch, 24, {40, 9});
    for (int launch = 0; launch < 2; ++launch) {
      ASSERT_EQ(fusion.run(), cudaSuccess);
      fusion.check(this->kTolerance);
    }
  }
}

TYPED_TEST(GatedFusionCuda, OfFlagsApartReadsNothingBetween) {
  for (const int batch : {3, 40}) {
    Case<TypeParam> fusion(batch, 24, {40, 9});
    fusion.set_presence_stride(4);
    ASSERT_EQ(fusion.run(), cudaSuccess);
    fusion.check(this->kTolerance);
  }
}

TYPED_TEST(GatedFusionCuda, WithNoModalityIsZero) {
  for (const int batch : {2, 35}) {
    Case<TypeParam> fusion(batch, 24, {40, 9});
    std::fill(fusion.presence().begin(), fusion.presence().end(), uint8_t{0});
    ASSERT_EQ(fusion.run(), cudaSuccess);
    for (const auto value : fusion.y()) EXPECT_EQ(to_float(value), 0.0F);
  }
}

TYPED_TEST(GatedFusionCuda, ANanOfAPresentModalityReachesY) {
  if constexpr (!kIsInt8<TypeParam>) {
    for (const int batch : {2, 35}) {
      Case<TypeParam> fusion(batch, 24, {40, 9});
      fusion.presence()[2] = 1;  // of row 1, whose features begin at 40
      set(fusion.modality(0).x[45], kNan);
      ASSERT_EQ(fusion.run(), cudaSuccess);
      for (size_t column = 0; column < 24; ++column) EXPECT_TRUE(std::isnan(to_float(fusion.y()[24 + column])));
    }
  }
}

TYPED_TEST(GatedFusionCuda, SizesOutOfRangeAreRefused) {
  mmedge::CudaFusion<TypeParam> fusion{};
  fusion.modality_count = 1;
  fusion.dimension = 1;
  EXPECT_EQ(mmedge::gated_fusion(fusion, nullptr), cudaSuccess);  // of no rows
  const auto refused = [&](auto change) {
    auto changed = fusion;
    change(changed);
    EXPECT_EQ(mmedge::gated_fusion(changed, nullptr), cudaErrorInvalidValue);
  };
  refused([](auto& changed) { changed.modality_count = 0; });
  refused([](auto& changed) { changed.modality_count = mmedge::kCudaFusionMostModalities + 1; });
  refused([](auto& changed) { changed.dimension = 0; });
  for (const int batch : {-1, 65535 * 4 + 1, std::numeric_limits<int>::max()}) {
    refused([&](auto& changed) { changed.batch = batch; });
  }
  refused([](auto& changed) { changed.modalities[0].features = 65537; });
}

}  // namespace
