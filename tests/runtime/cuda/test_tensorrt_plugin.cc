// The TensorRT plugins as TensorRT drives them, with the kernel emulated: judged by the CPU kernel in float32.
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "device_memory.h"
#include "kernels/gated_fusion/gated_fusion.h"
#include "orders.h"
#include "tensorrt_loggers.h"
#include "tensorrt_plugin.h"

namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kOutputs = 2;

nvinfer1::IPluginCreatorV3One& creator_of(const std::string& name) {
  int32_t count = 0;
  auto* const* creators = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
    if (creator->getPluginName() == name) return *creator;
  }
  throw std::runtime_error("no creator of " + name);
}

template <class Capability>
Capability& capability(IPluginV3& plugin, PluginCapabilityType type) {
  return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}
auto& core(IPluginV3& plugin) { return capability<nvinfer1::IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE); }
auto& build(IPluginV3& plugin) { return capability<nvinfer1::IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD); }
auto& runtime(IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

std::unique_ptr<IPluginV3> create(const std::string& name, float epsilon = 1e-5F) {
  const PluginField field("epsilon", &epsilon, PluginFieldType::kFLOAT32, 1);
  const PluginFieldCollection fields{1, &field};
  return std::unique_ptr<IPluginV3>(creator_of(name).createPlugin("fusion", &fields, TensorRTPhase::kBUILD));
}

PluginTensorDesc describe(DataType type, const std::vector<int64_t>& shape) {
  PluginTensorDesc made{};
  made.dims.nbDims = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), made.dims.d);
  made.type = type;
  made.format = TensorFormat::kLINEAR;
  return made;
}

// ---- A node and its numbers ----

template <class Element>
struct Traits;
template <>
struct Traits<float> {
  static constexpr const char* kName = "GatedFusion";
  static constexpr DataType kType = DataType::kFLOAT;
  static constexpr float kTolerance = 1e-5F;
  static float round(float value) { return value; }
  static float from(float value) { return value; }
};
template <>
struct Traits<__half> {
  static constexpr const char* kName = "GatedFusion";
  static constexpr DataType kType = DataType::kHALF;
  static constexpr float kTolerance = 6e-4F;  // y rounded to float16
  static __half round(float value) { return __float2half_rn(value); }
  static float from(__half value) { return __half2float(value); }
};
template <>
struct Traits<int8_t> {
  static constexpr const char* kName = "QGatedFusion";
  static constexpr DataType kType = DataType::kINT8;
  static constexpr float kTolerance = 1e-5F;
};

class Random {
 public:
  float normal(float spread = 1.0F, float mean = 0.0F) {
    return std::normal_distribution<float>(mean, spread)(engine_);
  }
  std::vector<float> normals(size_t count, float spread, float mean = 0.0F) {
    std::vector<float> made(count);
    for (float& value : made) value = normal(spread, mean);
    return made;
  }
  int8_t byte() { return static_cast<int8_t>(std::uniform_int_distribution<int>(-128, 127)(engine_)); }
  bool chance(int of) { return engine_() % static_cast<unsigned>(of) == 0; }

 private:
  std::mt19937 engine_{1};
};

// The inputs of one node in device memory, in order, with their descriptions; and the same for the CPU kernel.
template <class Element>
class Node {
 public:
  using Output = std::conditional_t<std::is_same_v<Element, int8_t>, float, Element>;

  // About one modality in four is missing of a row, all of them of row 0 where it is not alone.
  Node(int batch, int dimension, const std::vector<int>& features) : batch_(batch), dimension_(dimension) {
    std::vector<int32_t> presence;
    for (size_t i = 0; i < size(batch) * features.size(); ++i) {
      presence.push_back(batch > 1 && (i < features.size() || random_.chance(4)) ? 0 : 1);
      presence_.push_back(static_cast<uint8_t>(presence.back()));
    }
    add(DataType::kINT32, {batch, static_cast<int64_t>(features.size())}, presence);
    floats_.resize(features.size());
    for (size_t m = 0; m < features.size(); ++m) add_modality(m, features);
  }

  std::vector<PluginTensorDesc>& descriptions() { return descriptions_; }
  int32_t input_count() const { return static_cast<int32_t>(descriptions_.size()) - kOutputs; }

  // Adds those of the outputs, once.
  void describe_outputs() {
    descriptions_.push_back(
        describe(std::is_same_v<Output, __half> ? DataType::kHALF : DataType::kFLOAT, {batch_, dimension_}));
    descriptions_.push_back(describe(DataType::kFLOAT, {batch_, static_cast<int64_t>(floats_.size())}));
  }

  // y as floats. Fails where the plugin does.
  std::vector<float> run(IPluginV3& plugin) {
    const auto* inputs = descriptions_.data();
    const auto* outputs = inputs + input_count();
    EXPECT_EQ(runtime(plugin).onShapeChange(inputs, input_count(), outputs, kOutputs), 0);
    std::vector<DynamicPluginTensorDesc> dynamic;
    for (const auto& of : descriptions_) dynamic.push_back({of, of.dims, of.dims, of.dims});
    // As many bytes as were asked for, and none of them zero.
    const DeviceVector<std::byte> workspace(
        build(plugin).getWorkspaceSize(dynamic.data(), input_count(), dynamic.data() + input_count(), kOutputs));
    std::vector<const void*> from;
    for (const auto& memory : memory_) from.push_back(memory.data());
    const DeviceVector<Output> y(size(batch_) * size(dimension_));
    const DeviceVector<float> alpha(presence_.size());
    void* const to[] = {y.data(), alpha.data()};
    EXPECT_EQ(runtime(plugin).enqueue(inputs, outputs, from.data(), to, workspace.data(), nullptr), 0);
    alpha_ = alpha.read();
    std::vector<float> made;
    for (const Output value : y.read()) made.push_back(Traits<Output>::from(value));
    return made;
  }

  void run_and_check(IPluginV3& plugin, float epsilon = 1e-5F) {
    const std::vector<float> found = run(plugin);
    std::vector<mmedge::FusionModality> modalities;
    for (const Floats& of : floats_) {
      modalities.push_back({of.x.data(), of.weight.data(), nullptr, of.others[0].data(), of.others[1].data(),
                            of.others[2].data(), of.others[3].data(), of.others[4].data(), of.features, nullptr});
    }
    std::vector<float> y(found.size()), alpha(alpha_.size());
    mmedge::gated_fusion({modalities, presence_.data(), y.data(), alpha.data(), size(dimension_), epsilon}, 0,
                         size(batch_));
    for (size_t i = 0; i < alpha.size(); ++i) EXPECT_NEAR(alpha_[i], alpha[i], 1e-5F) << "alpha " << i;
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(found[i], y[i], Traits<Element>::kTolerance * std::max(1.0F, std::abs(y[i])))
          << "row " << i / size(dimension_) << ", column " << i % size(dimension_);
    }
  }

 private:
  struct Floats {
    size_t features;
    std::vector<float> x, weight;
    std::vector<std::vector<float>> others;  // bias to gate_bias
  };

  static size_t size(int count) { return static_cast<size_t>(count); }

  template <class T>
  void add(DataType type, const std::vector<int64_t>& shape, const std::vector<T>& values) {
    descriptions_.push_back(describe(type, shape));
    DeviceVector<std::byte> memory(values.size() * sizeof(T));
    check_cuda(cudaMemcpy(memory.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    memory_.push_back(std::move(memory));
  }

  // As the plugin's header says.
  void add_weight(const std::vector<Element>& weight, int64_t features) {
    constexpr int64_t count = std::is_same_v<Element, int8_t> ? 16 : 4;
    const int64_t columns = (int64_t{dimension_} + 63) / 64 * 64, vectors = (features + count - 1) / count;
    std::vector<Element> packed(static_cast<size_t>(vectors * columns * count));
    for (int64_t c = 0; c < dimension_; ++c) {
      for (int64_t f = 0; f < features; ++f) {
        packed[static_cast<size_t>((f / count * columns + c) * count + f % count)] =
            weight[static_cast<size_t>(c * features + f)];
      }
    }
    add(std::is_same_v<Element, int8_t> ? DataType::kINT32 : Traits<Element>::kType, {vectors, columns, 4}, packed);
  }

  void add_modality(size_t m, const std::vector<int>& counts) {
    Floats& floats = floats_[m];
    const size_t features = floats.features = size(counts[m]), columns = size(dimension_);
    const float spread = 1.0F / std::sqrt(static_cast<float>(features));
    std::vector<Element> x(size(batch_) * features), weight(columns * features);
    std::vector<float> scale;
    std::vector<int32_t> offset;
    if constexpr (std::is_same_v<Element, int8_t>) {
      const int zero = -7;
      const float step = 0.02F;
      for (int8_t& value : x) floats.x.push_back(step * static_cast<float>((value = random_.byte()) - zero));
      for (size_t c = 0; c < columns; ++c) {
        const float row_step = 0.01F * spread * (1.0F + static_cast<float>(c % 5));
        int sum = 0;
        for (size_t i = c * features; i < (c + 1) * features; ++i) {
          sum += weight[i] = random_.byte();
          floats.weight.push_back(row_step * static_cast<float>(weight[i]));
        }
        scale.push_back(step * row_step);
        offset.push_back(zero * sum);
      }
    } else {
      for (size_t i = 0; i < x.size(); ++i) {  // what a missing modality holds is not to be read
        const bool present = presence_[i / features * counts.size() + m] != 0;
        x[i] = Traits<Element>::round(present ? random_.normal() : kNan);
        floats.x.push_back(Traits<Element>::from(x[i]));
      }
      for (Element& value : weight) {
        value = Traits<Element>::round(random_.normal(spread));
        floats.weight.push_back(Traits<Element>::from(value));
      }
    }
    add(Traits<Element>::kType, {batch_, counts[m]}, x);
    add_weight(weight, counts[m]);
    if constexpr (std::is_same_v<Element, int8_t>) {
      add(DataType::kFLOAT, {dimension_}, scale);
      add(DataType::kINT32, {dimension_}, offset);
    }
    floats.others = {random_.normals(columns, 0.1F), random_.normals(columns, 0.3F, 1.0F),
                     random_.normals(columns, 0.3F), random_.normals(columns, spread), random_.normals(1, 0.1F)};
    for (size_t i = 0; i < 3; ++i) add(DataType::kFLOAT, {dimension_}, floats.others[i]);
    add(DataType::kFLOAT, {1, dimension_}, floats.others[3]);
    add(DataType::kFLOAT, {1}, floats.others[4]);
  }

  Random random_;
  int batch_, dimension_;
  std::vector<uint8_t> presence_;
  std::vector<Floats> floats_;
  std::vector<PluginTensorDesc> descriptions_;
  std::vector<DeviceVector<std::byte>> memory_;
  std::vector<float> alpha_;
};

template <class Element>
Node<Element> make_node(int batch, int dimension = 70, const std::vector<int>& features = {20, 33, 130}) {
  Node<Element> node(batch, dimension, features);
  node.describe_outputs();
  return node;
}

template <class Element>
class TensorRtPlugin : public testing::Test {
 protected:
  static constexpr const char* kName = Traits<Element>::kName;

  void SetUp() override {
    Loggers::set_version(NV_TENSORRT_MAJOR * 10000);
    setLoggerFinder(Loggers::finder());
    Loggers::take_messages();
  }
  void TearDown() override { setLoggerFinder(nullptr); }
};
using Elements = testing::Types<float, __half, int8_t>;
TYPED_TEST_SUITE(TensorRtPlugin, Elements);

// ---- Running ----

TYPED_TEST(TensorRtPlugin, GivesWhatTheCpuKernelGives) {
  const auto plugin = create(this->kName);
  for (const int batch : {1, 3, 17}) {
    SCOPED_TRACE(testing::Message() << "batch " << batch);
    in_every_order([&] { make_node<TypeParam>(batch).run_and_check(*plugin); });
  }
  make_node<TypeParam>(5, 8, {1, 2, 3, 4, 5, 6, 7, 8}).run_and_check(*plugin);
  EXPECT_EQ(Loggers::take_messages(), std::vector<std::string>{});
}

TYPED_TEST(TensorRtPlugin, OfItsSerializedFieldsIsTheSamePlugin) {
  const auto plugin = create(this->kName, 0.25F);
  const PluginFieldCollection* fields = runtime(*plugin).getFieldsToSerialize();
  std::unique_ptr<IPluginV3> same(creator_of(this->kName).createPlugin("", fields, TensorRTPhase::kRUNTIME));
  std::unique_ptr<IPluginV3> clone(plugin->clone()), attached(runtime(*plugin).attachToContext(nullptr));
  auto node = make_node<TypeParam>(3);
  const std::vector<float> expected = node.run(*plugin);
  node.run_and_check(*plugin, 0.25F);
  for (IPluginV3* other : {same.get(), clone.get(), attached.get()}) {
    ASSERT_NE(other, nullptr);
    EXPECT_NE(other, plugin.get());
    EXPECT_EQ(node.run(*other), expected);
    EXPECT_STREQ(core(*other).getPluginName(), this->kName);
  }
  EXPECT_NE(node.run(*create(this->kName)), expected);
}

// ---- What it tells TensorRT ----

TYPED_TEST(TensorRtPlugin, TakesTheTypesOfTheKernelAndNoOther) {
  const auto plugin = create(this->kName);
  const auto node = make_node<TypeParam>(3).descriptions();
  const auto inputs = static_cast<int32_t>(node.size()) - kOutputs;
  std::vector<DynamicPluginTensorDesc> all;
  for (const PluginTensorDesc& of : node) all.push_back({of, of.dims, of.dims, of.dims});
  const auto takes = [&](int32_t position) {
    return build(*plugin).supportsFormatCombination(position, all.data(), inputs, kOutputs);
  };
  for (int32_t position = 0; position < inputs + kOutputs; ++position) {
    PluginTensorDesc& asked = all[static_cast<size_t>(position)].desc;
    const PluginTensorDesc right = asked;
    for (int type = 0; type <= static_cast<int>(DataType::kINT4); ++type) {
      asked.type = static_cast<DataType>(type);
      const bool is_float = asked.type == DataType::kFLOAT || asked.type == DataType::kHALF;
      const bool other_float = position == 1 && !std::is_same_v<TypeParam, int8_t> && is_float;
      EXPECT_EQ(takes(position), asked.type == right.type || other_float) << "position " << position << ", " << type;
    }
    asked = right;
    asked.format = TensorFormat::kCHW4;
    EXPECT_FALSE(takes(position));
    asked = right;
  }
  EXPECT_FALSE(takes(inputs + kOutputs));
}

TYPED_TEST(TensorRtPlugin, ItsOutputsHaveTheBatchOfPresenceAndTheLengthOfTheBias) {
  const auto plugin = create(this->kName);
  auto node = make_node<TypeParam>(3);
  // Of an expression only its address matters here: nothing is computed of it.
  std::vector<char> places(node.descriptions().size() * 3);
  std::vector<nvinfer1::DimsExprs> shapes(static_cast<size_t>(node.input_count()));
  std::vector<DataType> types;
  for (size_t i = 0; i < shapes.size(); ++i) {
    shapes[i].nbDims = node.descriptions()[i].dims.nbDims;
    for (size_t d = 0; d < 3; ++d) {
      shapes[i].d[d] = reinterpret_cast<const nvinfer1::IDimensionExpr*>(&places[i * 3 + d]);
    }
    types.push_back(node.descriptions()[i].type);
  }
  alignas(nvinfer1::IExprBuilder) std::byte builder[sizeof(nvinfer1::IExprBuilder)] = {};
  nvinfer1::DimsExprs made[kOutputs] = {};
  const auto get_shapes = [&] {
    return build(*plugin).getOutputShapes(shapes.data(), node.input_count(), nullptr, 0, made, kOutputs,
                                          *reinterpret_cast<nvinfer1::IExprBuilder*>(builder));
  };
  ASSERT_EQ(get_shapes(), 0);
  const size_t bias = std::is_same_v<TypeParam, int8_t> ? 5 : 3;
  EXPECT_EQ(made[0].nbDims, 2);
  EXPECT_EQ(made[0].d[0], shapes[0].d[0]);
  EXPECT_EQ(made[0].d[1], shapes[bias].d[0]);
  EXPECT_EQ(made[1].nbDims, 2);
  EXPECT_EQ(made[1].d[0], shapes[0].d[0]);
  EXPECT_EQ(made[1].d[1], shapes[0].d[1]);
  DataType found[kOutputs] = {};
  ASSERT_EQ(build(*plugin).getOutputDataTypes(found, kOutputs, types.data(), node.input_count()), 0);
  EXPECT_EQ(found[0], node.descriptions()[static_cast<size_t>(node.input_count())].type);
  EXPECT_EQ(found[1], DataType::kFLOAT);
  EXPECT_EQ(build(*plugin).getNbOutputs(), kOutputs);
  shapes[0].nbDims = 1;
  EXPECT_NE(get_shapes(), 0);
  EXPECT_NE(build(*plugin).getOutputDataTypes(found, kOutputs, types.data(), node.input_count() - 1), 0);
}

// ---- What it refuses ----

TYPED_TEST(TensorRtPlugin, SizesThatDoNotFitAreRefusedAndSaid) {
  const auto plugin = create(this->kName);
  const auto refuse = [&](const char* said, const std::function<void(std::vector<PluginTensorDesc>&)>& change) {
    auto node = make_node<TypeParam>(3);
    change(node.descriptions());
    const auto* inputs = node.descriptions().data();
    EXPECT_NE(runtime(*plugin).onShapeChange(inputs, node.input_count(), inputs + node.input_count(), kOutputs), 0);
    const auto messages = Loggers::take_messages();
    ASSERT_EQ(messages.size(), 1U);
    EXPECT_EQ(messages[0].find(std::string("mmedge: ") + this->kName), 0U) << messages[0];
    EXPECT_NE(messages[0].find(said), std::string::npos) << messages[0];
  };
  refuse("presence and the first bias", [](auto& all) { all[0].dims.nbDims = 1; });
  refuse("of 2 flags a row", [](auto& all) { all[0].dims.d[1] = 2; });
  const auto each = static_cast<size_t>(std::is_same_v<TypeParam, int8_t> ? 9 : 7);
  for (size_t i = 0; i < each; ++i) {
    refuse("the inputs of modality 1",
           [&](auto& all) { all[1 + each + i].dims.d[all[1 + each + i].dims.nbDims - 1] += 16; });
  }
  refuse("the inputs of modality 0", [&](auto& all) { all[1].dims.d[0] = 4; });
  refuse("33 inputs", [&](auto& all) { all.insert(all.begin(), 33 + kOutputs - all.size(), all[0]); });
}

TYPED_TEST(TensorRtPlugin, WhatTheKernelRefusesIsSaid) {
  const auto plugin = create(this->kName);
  auto node = make_node<TypeParam>(3);
  node.descriptions()[0].dims.d[0] = 4 * 65535 + 1;
  const std::vector<const void*> inputs(node.descriptions().size());
  void* const outputs[kOutputs] = {};
  std::vector<std::byte> workspace(1 << 20);
  EXPECT_NE(
      runtime(*plugin).enqueue(node.descriptions().data(), nullptr, inputs.data(), outputs, workspace.data(), nullptr),
      0);
  const auto messages = Loggers::take_messages();
  ASSERT_EQ(messages.size(), 1U);
  EXPECT_NE(messages[0].find("CUDA: "), std::string::npos);
}

TYPED_TEST(TensorRtPlugin, ALoggerOfAnotherMajorVersionIsNotCalled) {
  const auto plugin = create(this->kName);
  for (const int version : {(NV_TENSORRT_MAJOR + 1) * 10000, NV_TENSORRT_MAJOR * 10000}) {
    Loggers::set_version(version);
    setLoggerFinder(Loggers::finder());
    EXPECT_NE(runtime(*plugin).onShapeChange(nullptr, 0, nullptr, 0), 0);
    EXPECT_EQ(Loggers::take_messages().size(), version / 10000 == NV_TENSORRT_MAJOR ? 1U : 0U);
  }
}

TYPED_TEST(TensorRtPlugin, AnEpsilonThatIsNoneIsRefused) {
  const auto made = [&](float value, PluginFieldType type, int32_t length) {
    const PluginField field("epsilon", &value, type, length);
    const PluginFieldCollection fields{1, &field};
    return std::unique_ptr<IPluginV3>(creator_of(this->kName).createPlugin("", &fields, TensorRTPhase::kBUILD));
  };
  EXPECT_NE(made(1e-3F, PluginFieldType::kFLOAT32, 1), nullptr);
  EXPECT_EQ(Loggers::take_messages().size(), 0U);
  EXPECT_EQ(made(1e-3F, PluginFieldType::kINT32, 1), nullptr);
  EXPECT_EQ(made(1e-3F, PluginFieldType::kFLOAT32, 2), nullptr);
  EXPECT_EQ(made(-1.0F, PluginFieldType::kFLOAT32, 1), nullptr);
  EXPECT_EQ(made(kNan, PluginFieldType::kFLOAT32, 1), nullptr);
  EXPECT_EQ(Loggers::take_messages().size(), 4U);
}

// ---- The library ----

TEST(TensorRtPluginLibrary, HasACreatorForEachOperator) {
  int32_t count = 0;
  auto* const* creators = getCreators(count);
  ASSERT_EQ(count, 2);
  const char* const names[] = {"GatedFusion", "QGatedFusion"};
  for (int32_t i = 0; i < count; ++i) {
    EXPECT_STREQ(creators[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE");
    auto& creator = *static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
    const std::unique_ptr<IPluginV3> plugin(creator.createPlugin("", nullptr, TensorRTPhase::kBUILD));
    ASSERT_NE(plugin, nullptr);
    EXPECT_STREQ(creator.getPluginName(), names[i]);
    EXPECT_STREQ(creator.getPluginVersion(), "1");
    EXPECT_STREQ(creator.getPluginNamespace(), "mmedge");
    EXPECT_STREQ(core(*plugin).getPluginName(), names[i]);
    EXPECT_STREQ(core(*plugin).getPluginVersion(), "1");
    EXPECT_STREQ(core(*plugin).getPluginNamespace(), "mmedge");
    ASSERT_EQ(creator.getFieldNames()->nbFields, 1);
    EXPECT_STREQ(creator.getFieldNames()->fields[0].name, "epsilon");
  }
}

}  // namespace
