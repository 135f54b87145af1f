// The TensorRT plugins' creators, and a node of their operators with its numbers, on which a test runs a plugin as
// TensorRT does.
#pragma once

#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "device_memory.h"
#include "kernels/gated_fusion/gated_fusion.h"
#include "tensorrt_plugin.h"

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

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr int kOutputs = 2;

inline nvinfer1::IPluginCreatorV3One& creator_of(const std::string& name) {
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
inline auto& core(IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
}
inline auto& build(IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
}
inline auto& runtime(IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

inline std::unique_ptr<IPluginV3> create(const std::string& name, float epsilon = 1e-5F) {
  const PluginField field("epsilon", &epsilon, PluginFieldType::kFLOAT32, 1);
  const PluginFieldCollection fields{1, &field};
  return std::unique_ptr<IPluginV3>(creator_of(name).createPlugin("fusion", &fields, TensorRTPhase::kBUILD));
}

inline PluginTensorDesc describe(DataType type, const std::vector<int64_t>& shape) {
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
    const auto enqueue = [&](cudaStream_t stream) {
      const bool taken = runtime(plugin).enqueue(inputs, outputs, from.data(), to, workspace.data(), stream) == 0;
      return taken ? cudaSuccess : cudaErrorUnknown;
    };
    EXPECT_EQ(on_own_stream(enqueue), cudaSuccess);
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
