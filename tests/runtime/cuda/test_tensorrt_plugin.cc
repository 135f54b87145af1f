// The TensorRT plugins as TensorRT drives them, with the kernel emulated: judged by the CPU kernel in float32.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "orders.h"
#include "tensorrt_loggers.h"
#include "tensorrt_node.h"

namespace {

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
