#include "tensorrt_plugin.h"

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "error.h"
#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/gated_fusion/gated_fusion_cuda.h"

namespace mmedge {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

constexpr int kFailed = 1;
constexpr int kOutputs = 2;
constexpr size_t kWorkspaceAlignment = 256;

// ---- What is said of errors ----

std::atomic<nvinfer1::ILoggerFinder*> logger_finder = nullptr;

// The functions of TensorRT 11's loggers are at other places than those of 10's, unlike those of plugins: to be called
// only by what was compiled for the same of the two. Which one a logger's is, the library that has its code says.
bool is_of_these_headers(const void* object) {
  Dl_info found{};
  if (dladdr(*static_cast<void* const*>(object), &found) == 0) return false;
  const std::unique_ptr<void, int (*)(void*)> library(dlopen(found.dli_fname, RTLD_LAZY | RTLD_NOLOAD), dlclose);
  if (library == nullptr) return false;
  const auto version = reinterpret_cast<int32_t (*)() noexcept>(dlsym(library.get(), "getInferLibVersion"));
  return version != nullptr && version() / 10000 == NV_TENSORRT_MAJOR;
}

template <class... Parts>
int report(const Parts&... parts) noexcept {
  try {
    nvinfer1::ILoggerFinder* finder = logger_finder;
    nvinfer1::ILogger* logger = finder == nullptr ? nullptr : finder->findLogger();
    if (logger != nullptr) {
      const std::string message = concat("mmedge: ", parts...);
      logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
    }
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): no memory for the message; the code says enough
  }
  return kFailed;
}

// ---- The operators ----

// The inputs of each modality: x, weight, then of integers scale and offset, then `bias` and the four after it.
struct Kind {
  const char* name;
  bool integers;
  int each, bias;
};

constexpr Kind kGatedFusion = {"GatedFusion", false, 7, 2};
constexpr Kind kQGatedFusion = {"QGatedFusion", true, 9, 4};

struct Sizes {
  int modalities, batch, dimension;
};

DataType input_type(const Kind& kind, int index, DataType x) {
  if (index == 0) return DataType::kINT32;
  const int of_modality = (index - 1) % kind.each;
  if (of_modality == 0) return x;
  if (of_modality == 1) return kind.integers ? DataType::kINT32 : x;
  return kind.integers && of_modality == 3 ? DataType::kINT32 : DataType::kFLOAT;
}

DataType y_type(const Kind& kind, DataType x) { return kind.integers ? DataType::kFLOAT : x; }

bool is_x_type(const Kind& kind, DataType type) {
  return kind.integers ? type == DataType::kINT8 : type == DataType::kFLOAT || type == DataType::kHALF;
}

bool has_shape(const nvinfer1::Dims& found, std::initializer_list<int64_t> wanted) {
  return found.nbDims >= 0 && std::equal(found.d, found.d + found.nbDims, wanted.begin(), wanted.end());
}

// Whether `found` is the shape of input i of a modality with F features.
bool has_shape_of(const Kind& kind, int i, const nvinfer1::Dims& found, int64_t batch, int64_t features, int64_t d) {
  if (i == 0) return has_shape(found, {batch, features});
  if (i == kind.bias + 3) return has_shape(found, {1, d});
  if (i > 1) return has_shape(found, {i == kind.bias + 4 ? 1 : d});
  const auto columns = static_cast<int>(d), rows = static_cast<int>(features);
  const size_t words = kind.integers ? packed_cuda_fusion_weight_size<int8_t>(columns, rows) / 4
                                     : packed_cuda_fusion_weight_size<float>(columns, rows);
  return found.nbDims == 3 && found.d[0] * found.d[1] * found.d[2] == static_cast<int64_t>(words);
}

// Negative ones are those of a graph, not of a run; too large ones are the kernel's to refuse.
Sizes sizes_of(const nvinfer1::Dims& presence, const nvinfer1::Dims& bias) {
  const auto size = [](int64_t found) { return static_cast<int>(std::clamp<int64_t>(found, 0, INT32_MAX)); };
  return {size(presence.d[1]), size(presence.d[0]), size(bias.d[0])};
}

size_t ticket_bytes(const Sizes& sizes) {
  const size_t bytes = (static_cast<size_t>(sizes.batch) + 3) / 4 * sizeof(unsigned);
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

size_t z_bytes(const Sizes& sizes) {
  return static_cast<size_t>(sizes.batch) * static_cast<size_t>(sizes.modalities) *
         static_cast<size_t>(sizes.dimension) * sizeof(float);
}

// ---- The plugin ----

// NOLINTNEXTLINE(misc-multiple-inheritance): interfaces, with TensorRT's own code for what is not overridden
class FusionPlugin final : public IPluginV3,
                           public nvinfer1::IPluginV3OneCore,
                           public nvinfer1::IPluginV3OneBuild,
                           public nvinfer1::IPluginV3OneRuntime {
 public:
  FusionPlugin(const Kind& kind, float epsilon) : kind_(kind), epsilon_(epsilon) {}
  FusionPlugin(const FusionPlugin&) = delete;
  FusionPlugin& operator=(const FusionPlugin&) = delete;
  ~FusionPlugin() override = default;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override { return new (std::nothrow) FusionPlugin(kind_, epsilon_); }

  const char* getPluginName() const noexcept override { return kind_.name; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  int32_t getNbOutputs() const noexcept override { return kOutputs; }

  int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                             int32_t input_count) const noexcept override {
    if (!has_counts(input_count, output_count)) return kFailed;
    outputs[0] = y_type(kind_, inputs[1]);
    outputs[1] = DataType::kFLOAT;
    return 0;
  }

  int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t, DimsExprs* outputs,
                          int32_t output_count, nvinfer1::IExprBuilder&) noexcept override {
    if (!has_counts(input_count, output_count)) return kFailed;
    const DimsExprs &presence = inputs[0], &bias = inputs[1 + kind_.bias];
    if (presence.nbDims != 2 || bias.nbDims != 1) {
      return report(kind_.name, ": presence has ", presence.nbDims, " dimensions and the first bias ", bias.nbDims,
                    "; expected [B, M] and [D]");
    }
    outputs[0].nbDims = outputs[1].nbDims = 2;
    outputs[0].d[0] = outputs[1].d[0] = presence.d[0];
    outputs[0].d[1] = bias.d[0];
    outputs[1].d[1] = presence.d[1];
    return 0;
  }

  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* all, int32_t input_count,
                                 int32_t output_count) noexcept override {
    if (!has_counts(input_count, output_count) || position < 0 || position >= input_count + output_count) return false;
    const PluginTensorDesc& asked = all[position].desc;
    if (asked.format != nvinfer1::TensorFormat::kLINEAR) return false;
    if (position == 1) return is_x_type(kind_, asked.type);
    const DataType x = position == 0 ? DataType::kFLOAT : all[1].desc.type;
    if (position < input_count) return asked.type == input_type(kind_, position, x);
    return asked.type == (position == input_count ? y_type(kind_, x) : DataType::kFLOAT);
  }

  int32_t configurePlugin(const DynamicPluginTensorDesc*, int32_t input_count, const DynamicPluginTensorDesc*,
                          int32_t output_count) noexcept override {
    return has_counts(input_count, output_count) ? 0 : kFailed;
  }

  size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*,
                          int32_t) const noexcept override {
    const Sizes most = sizes_of(inputs[0].max, inputs[1 + kind_.bias].max);
    return ticket_bytes(most) + z_bytes(most);
  }

  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc*,
                        int32_t output_count) noexcept override {
    return has_counts(input_count, output_count) ? check(inputs, input_count) : kFailed;
  }

  int32_t enqueue(const PluginTensorDesc* descriptions, const PluginTensorDesc*, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    switch (descriptions[1].type) {
      case DataType::kFLOAT:
        return launch<float>(descriptions, inputs, outputs, workspace, stream);
      case DataType::kHALF:
        return launch<__half>(descriptions, inputs, outputs, workspace, stream);
      case DataType::kINT8:
        return launch<int8_t>(descriptions, inputs, outputs, workspace, stream);
      default:
        return report(kind_.name, ": features of TensorRT's type ", static_cast<int>(descriptions[1].type));
    }
  }

  IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

  const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &fields_; }

 private:
  bool has_counts(int32_t inputs, int32_t outputs) const noexcept {
    if (outputs == kOutputs && inputs > 1 && (inputs - 1) % kind_.each == 0) return true;
    report(kind_.name, " has ", inputs, " inputs and ", outputs, " outputs; expected 1 + ", kind_.each,
           " for each modality, and ", kOutputs);
    return false;
  }

  // All that the kernel relies on, of the sizes of one run.
  int check(const PluginTensorDesc* inputs, int input_count) const noexcept {
    const auto& presence = inputs[0].dims;
    if (presence.nbDims != 2 || inputs[1 + kind_.bias].dims.nbDims != 1) {
      return report(kind_.name, ": presence and the first bias are not [B, M] and [D]");
    }
    const Sizes sizes = sizes_of(presence, inputs[1 + kind_.bias].dims);
    const int64_t batch = sizes.batch, d = sizes.dimension, modalities = (input_count - 1) / kind_.each;
    if (presence.d[1] != modalities || modalities > kCudaFusionMostModalities || d < 1) {
      return report(kind_.name, " of ", presence.d[1], " flags a row, ", modalities, " modalities and D = ", d,
                    "; expected as many flags as modalities, up to ", kCudaFusionMostModalities,
                    " of them, and D at least 1");
    }
    for (int64_t m = 0; m < modalities; ++m) {
      const PluginTensorDesc* of = inputs + 1 + m * kind_.each;
      const int64_t features = of[0].dims.nbDims == 2 ? of[0].dims.d[1] : -1;
      bool fits = features >= 0 && std::cmp_less_equal(features, kFusionMostFeatures);
      for (int i = 0; i < kind_.each && fits; ++i) fits = has_shape_of(kind_, i, of[i].dims, batch, features, d);
      if (!fits) {
        return report(kind_.name, ": the inputs of modality ", m, " do not fit a batch of ", batch, " and D = ", d,
                      "; expected x [B, F] of up to ", kFusionMostFeatures,
                      " features, the weight packed for them, gate_weight [1, D], gate_bias [1] and vectors [D]");
      }
    }
    return 0;
  }

  template <class Element>
  int launch(const PluginTensorDesc* descriptions, const void* const* inputs, void* const* outputs, void* workspace,
             cudaStream_t stream) const noexcept {
    const Sizes sizes = sizes_of(descriptions[0].dims, descriptions[1 + kind_.bias].dims);
    CudaFusion<Element> fusion{};
    fusion.modality_count = sizes.modalities;
    for (int m = 0; m < std::min(sizes.modalities, kCudaFusionMostModalities); ++m) {
      const int first = 1 + m * kind_.each;
      const auto floats = [&](int i) { return static_cast<const float*>(inputs[first + i]); };
      const int bias = kind_.bias;
      fusion.modalities[m] = {static_cast<const Element*>(inputs[first]),
                              static_cast<const Element*>(inputs[first + 1]),
                              kind_.integers ? floats(2) : nullptr,
                              kind_.integers ? static_cast<const int32_t*>(inputs[first + 3]) : nullptr,
                              floats(bias),
                              floats(bias + 1),
                              floats(bias + 2),
                              floats(bias + 3),
                              floats(bias + 4),
                              static_cast<int>(descriptions[first].dims.d[1])};
    }
    fusion.batch = sizes.batch;
    fusion.dimension = sizes.dimension;
    fusion.epsilon = epsilon_;
    fusion.presence = static_cast<const uint8_t*>(inputs[0]);
    fusion.presence_stride = sizeof(int32_t);
    fusion.y = static_cast<CudaFusion<Element>::Output*>(outputs[0]);
    fusion.alpha = static_cast<float*>(outputs[1]);
    fusion.tickets = static_cast<unsigned*>(workspace);
    fusion.z = reinterpret_cast<float*>(static_cast<std::byte*>(workspace) + ticket_bytes(sizes));
    // The workspace is anyone's between two runs.
    cudaError_t error = cudaMemsetAsync(workspace, 0, ticket_bytes(sizes), stream);
    if (error == cudaSuccess) error = gated_fusion(fusion, stream);
    return error == cudaSuccess ? 0 : report(kind_.name, ": CUDA: ", cudaGetErrorString(error));
  }

  const Kind& kind_;
  const float epsilon_;
  const PluginField field_{"epsilon", &epsilon_, PluginFieldType::kFLOAT32, 1};
  const PluginFieldCollection fields_{1, &field_};
};

// ---- Its creator ----

class FusionCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit FusionCreator(const Kind& kind) : kind_(kind) {}

  const char* getPluginName() const noexcept override { return kind_.name; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }
  const PluginFieldCollection* getFieldNames() noexcept override { return &fields_; }

  IPluginV3* createPlugin(const char*, const PluginFieldCollection* given, nvinfer1::TensorRTPhase) noexcept override {
    float epsilon = 1e-5F;
    for (int i = 0; given != nullptr && i < given->nbFields; ++i) {
      const PluginField& field = given->fields[i];
      if (field.name == nullptr || std::string_view(field.name) != "epsilon") continue;
      if (field.type != PluginFieldType::kFLOAT32 || field.length != 1 || field.data == nullptr) {
        report(kind_.name, ": epsilon is no single float32");
        return nullptr;
      }
      epsilon = *static_cast<const float*>(field.data);
    }
    if (!std::isfinite(epsilon) || epsilon < 0) {
      report(kind_.name, ": epsilon is ", epsilon, "; expected a number of at least 0");
      return nullptr;
    }
    return new (std::nothrow) FusionPlugin(kind_, epsilon);
  }

 private:
  const Kind& kind_;
  const PluginField field_{"epsilon", nullptr, PluginFieldType::kFLOAT32, 1};
  const PluginFieldCollection fields_{1, &field_};
};

}  // namespace
}  // namespace mmedge

nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  // Never destroyed: TensorRT's registry points to them until the process ends, and may outlive this library's objects.
  static auto& gated_fusion = *new mmedge::FusionCreator(mmedge::kGatedFusion);
  static auto& q_gated_fusion = *new mmedge::FusionCreator(mmedge::kQGatedFusion);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&gated_fusion, &q_gated_fusion};
  count = static_cast<int32_t>(std::size(creators));
  return creators;
}

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  mmedge::logger_finder = finder != nullptr && mmedge::is_of_these_headers(finder) ? finder : nullptr;
}
