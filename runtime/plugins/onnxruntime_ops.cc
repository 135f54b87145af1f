#include "onnxruntime_ops.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "error.h"
#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/instruction_set.h"
#include "tensor.h"

namespace mmedge {
namespace {

constexpr uint32_t kApiVersion = 23;  // the first that custom operators are safe on
constexpr size_t kInputsPerModality = 7;

void check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  fail(MME_ENGINE_FAILED, "ONNX Runtime: ", message);
}

// No exception may reach ONNX Runtime.
template <class Body>
OrtStatus* guarded(const OrtApi* api, Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
}

// A tensor's size is asked for in bytes: asking for its shape allocates.
struct FloatInput {
  const float* data;
  size_t count;
};

FloatInput floats(const OrtApi* api, const OrtValue* value) {
  const void* data = nullptr;
  size_t bytes = 0;
  check(api, api->GetTensorData(value, &data));
  check(api, api->GetTensorSizeInBytes(value, &bytes));
  return {static_cast<const float*>(data), bytes / sizeof(float)};
}

// ---- GatedFusion ----

// The seven inputs of modality m, in the order of the graph; x's is not looked at.
FusionModality parameters(size_t m, size_t dimension, const FloatInput* inputs) {
  const size_t wanted[] = {0, inputs[1].count, dimension, dimension, dimension, dimension, 1};
  for (size_t i = 1; i < kInputsPerModality; ++i) {
    if (inputs[i].count != wanted[i] || inputs[i].count % (i == 1 ? dimension : 1) != 0) {
      fail(MME_INVALID_ARGUMENT, "GatedFusion: input ", 1 + m * kInputsPerModality + i, " holds ", inputs[i].count,
           " numbers; expected weight [D, F], bias, norm_weight, norm_bias [D], gate_weight [1, D] and gate_bias [1] of"
           " D = ",
           dimension);
    }
  }
  return {nullptr,        inputs[1].data, nullptr,
          inputs[2].data, inputs[3].data, inputs[4].data,
          inputs[5].data, inputs[6].data, inputs[1].count / dimension};
}

size_t dimension_of(const FloatInput& bias) {
  if (bias.count == 0) fail(MME_INVALID_ARGUMENT, "GatedFusion: a bias is empty; expected D numbers, D at least 1");
  return bias.count;
}

class GatedFusionKernel {
 public:
  GatedFusionKernel(const OrtApi* api, const OrtKernelInfo* info) : api_(api) {
    choose_instruction_set();
    size_t inputs = 0;
    check(api, api->KernelInfo_GetInputCount(info, &inputs));
    if (inputs < 1 + kInputsPerModality || (inputs - 1) % kInputsPerModality != 0) {
      fail(MME_INVALID_ARGUMENT, "GatedFusion has ", inputs, " inputs; expected 1 + 7 for each modality");
    }
    if (OrtStatus* status = api->KernelInfoGetAttribute_float(info, "epsilon", &epsilon_)) {
      api->ReleaseStatus(status);
      epsilon_ = 1e-5F;
    }
    modalities_.resize((inputs - 1) / kInputsPerModality);
    size_t packed_size = 0;
    for (size_t m = 0; m < modalities_.size(); ++m) {
      FloatInput found[kInputsPerModality] = {};
      if (!constants(info, m, found)) continue;
      if (dimension_ == 0) dimension_ = dimension_of(found[2]);
      modalities_[m] = parameters(m, dimension_, found);
      packed_size += packed_fusion_weight_size(dimension_, modalities_[m].features);
    }
    pack(packed_size);
  }

  const OrtApi* api() const { return api_; }

  void run(OrtKernelContext* context) const {
    // Kept by the thread: one object serves all threads of a session.
    thread_local std::vector<FusionModality> modalities;
    modalities.assign(modalities_.begin(), modalities_.end());
    size_t dimension = dimension_;
    for (size_t m = 0; m < modalities.size(); ++m) {
      if (modalities[m].weight == nullptr) modalities[m] = computed(context, m, dimension);
    }
    const OrtValue* presence = input(context, 0);
    const void* present = nullptr;
    size_t rows = 0;
    check(api_, api_->GetTensorData(presence, &present));
    check(api_, api_->GetTensorSizeInBytes(presence, &rows));
    if (rows % modalities.size() != 0) {
      fail(MME_INVALID_ARGUMENT, "GatedFusion: presence holds ", rows, " flags; expected [B, ", modalities.size(), "]");
    }
    rows /= modalities.size();
    for (size_t m = 0; m < modalities.size(); ++m) {
      const FloatInput x = floats(api_, input(context, 1 + m * kInputsPerModality));
      if (x.count != rows * modalities[m].features) {
        fail(MME_INVALID_ARGUMENT, "GatedFusion: x of modality ", m, " holds ", x.count, " numbers; expected [", rows,
             ", ", modalities[m].features, "]");
      }
      modalities[m].x = x.data;
    }
    float* const y = output(context, 0, rows, dimension);
    float* const alpha = output(context, 1, rows, modalities.size());
    compute(context, {modalities, static_cast<const uint8_t*>(present), y, alpha, dimension, epsilon_}, rows);
  }

 private:
  const OrtValue* input(OrtKernelContext* context, size_t index) const {
    const OrtValue* value = nullptr;
    check(api_, api_->KernelContext_GetInput(context, index, &value));
    return value;
  }

  // NULL where the node leaves the output out.
  float* output(OrtKernelContext* context, size_t index, size_t rows, size_t columns) const {
    size_t count = 0;
    check(api_, api_->KernelContext_GetOutputCount(context, &count));
    if (index >= count) return nullptr;
    const int64_t shape[] = {static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
    OrtValue* value = nullptr;
    check(api_, api_->KernelContext_GetOutput(context, index, shape, 2, &value));
    if (value == nullptr) return nullptr;
    void* data = nullptr;
    check(api_, api_->GetTensorMutableData(value, &data));
    return static_cast<float*>(data);
  }

  // Whether all six parameters of modality m are constants of the graph, and those.
  bool constants(const OrtKernelInfo* info, size_t m, FloatInput* found) const {
    for (size_t i = 1; i < kInputsPerModality; ++i) {
      int constant = 0;
      const OrtValue* value = nullptr;
      check(api_, api_->KernelInfoGetConstantInput_tensor(info, 1 + m * kInputsPerModality + i, &constant, &value));
      if (constant == 0 || value == nullptr) return false;
      found[i] = floats(api_, value);
    }
    return true;
  }

  // The parameters of modality m as this run computed them.
  FusionModality computed(OrtKernelContext* context, size_t m, size_t& dimension) const {
    FloatInput found[kInputsPerModality] = {};
    for (size_t i = 1; i < kInputsPerModality; ++i) {
      found[i] = floats(api_, input(context, 1 + m * kInputsPerModality + i));
    }
    if (dimension == 0) dimension = dimension_of(found[2]);
    return parameters(m, dimension, found);
  }

  void pack(size_t size) {
    const auto count = static_cast<int64_t>(size);
    packed_.resize(ElementType::kFloat32, {&count, 1});
    auto* next = static_cast<float*>(packed_.data());
    for (FusionModality& modality : modalities_) {
      if (modality.weight == nullptr) continue;
      pack_fusion_weight(modality.weight, dimension_, modality.features, next);
      modality.packed = next;
      next += packed_fusion_weight_size(dimension_, modality.features);
    }
  }

  // On the session's own threads where there is more than one chunk of rows.
  void compute(OrtKernelContext* context, const Fusion& fusion, size_t rows) const {
    if (rows <= kFusionChunk) return gated_fusion(fusion, 0, rows);
    struct Call {
      const Fusion& fusion;
      size_t rows;
      std::atomic<bool> out_of_memory;
    } call{fusion, rows, false};
    const auto chunk = [](void* data, size_t index) {
      auto& [fused, count, failed] = *static_cast<Call*>(data);
      try {
        const size_t first = index * kFusionChunk;
        gated_fusion(fused, first, std::min(first + kFusionChunk, count));
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    };
    check(api_, api_->KernelContext_ParallelFor(context, chunk, (rows + kFusionChunk - 1) / kFusionChunk, 0, &call));
    if (call.out_of_memory) throw std::bad_alloc();
  }

  const OrtApi* api_;
  float epsilon_ = 0.0F;
  size_t dimension_ = 0;                    // 0: no modality is constant
  std::vector<FusionModality> modalities_;  // without x; weight is NULL where the parameters are computed
  Tensor packed_;
};

// What ONNX Runtime's callbacks are handed instead of a bare OrtCustomOp.
struct Operator : OrtCustomOp {
  const OrtApi* api;
};

template <class T>
struct Release {
  void (*release)(T*);
  void operator()(T* object) const { release(object); }
};

// y is [B, D]: B as presence has it, D as the first bias does. Nothing is said of alpha: the context does not tell
// whether the node has it, and must not be asked for an output that is left out.
OrtStatus* infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi* api = static_cast<const Operator*>(op)->api;
  return guarded(api, [&] {
    const auto info_of = [&](size_t index) {
      OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's own
      check(api, api->ShapeInferContext_GetInputTypeShape(context, index, &info));
      return info;
    };
    int64_t shape[] = {-1, -1};
    const char* symbols[] = {"", ""};
    const auto take = [&](const OrtTensorTypeAndShapeInfo* info, size_t rank, size_t at) {
      size_t found = 0;
      check(api, api->GetDimensionsCount(info, &found));
      if (found != rank) return;  // not known
      int64_t sizes[2] = {};
      const char* names[2] = {};
      check(api, api->GetDimensions(info, sizes, rank));
      check(api, api->GetSymbolicDimensions(info, names, rank));
      shape[at] = sizes[0];
      symbols[at] = names[0];
    };
    take(info_of(0), 2, 0);
    take(info_of(3), 1, 1);
    OrtTensorTypeAndShapeInfo* made = nullptr;
    check(api, api->CreateTensorTypeAndShapeInfo(&made));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, Release<OrtTensorTypeAndShapeInfo>> output(
        made, {api->ReleaseTensorTypeAndShapeInfo});
    check(api, api->SetTensorElementType(made, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    check(api, api->SetDimensions(made, shape, 2));
    check(api, api->SetSymbolicDimensions(made, symbols, 2));
    check(api, api->ShapeInferContext_SetOutputTypeShape(context, 0, made));
  });
}

Operator gated_fusion_operator(const OrtApi* api) {
  Operator op{};
  op.api = api;
  op.version = kApiVersion;
  op.GetName = [](const OrtCustomOp*) { return "GatedFusion"; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_VARIADIC;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return static_cast<int>(kInputsPerModality); };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.InferOutputShapeFn = infer_shape;
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* given, const OrtKernelInfo* info, void** kernel) {
    return guarded(given, [&] { *kernel = std::make_unique<GatedFusionKernel>(given, info).release(); });
  };
  op.KernelDestroy = [](void* kernel) { std::unique_ptr<GatedFusionKernel>(static_cast<GatedFusionKernel*>(kernel)); };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto* fusion = static_cast<const GatedFusionKernel*>(kernel);
    return guarded(fusion->api(), [&] { fusion->run(context); });
  };
  return op;
}

// ---- The domain ----

struct Domain {
  explicit Domain(const OrtApi* api) : gated_fusion(gated_fusion_operator(api)) {
    check(api, api->CreateCustomOpDomain("mmedge", &domain));
    check(api, api->CustomOpDomain_Add(domain, &gated_fusion));
  }

  Operator gated_fusion;
  OrtCustomOpDomain* domain = nullptr;
};

// One a library of ONNX Runtime in this process, never destroyed: sessions refer to it until the last one ends.
const Domain& domain_of(const OrtApi* api) {
  static std::mutex mutex;
  static auto& domains = *new std::vector<std::unique_ptr<const Domain>>();
  const std::scoped_lock lock(mutex);
  for (const auto& domain : domains) {
    if (domain->gated_fusion.api == api) return *domain;
  }
  return *domains.emplace_back(std::make_unique<const Domain>(api));
}

}  // namespace

void register_mmedge_ops(const OrtApi* api, OrtSessionOptions* options) {
  choose_instruction_set();
  check(api, api->AddCustomOpDomain(options, domain_of(api).domain));
}

}  // namespace mmedge

OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(mmedge::kApiVersion);
  if (api == nullptr) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "mmedge's operators need ONNX Runtime 1.23 or newer");
  }
  return mmedge::guarded(api, [&] { mmedge::register_mmedge_ops(api, options); });
}
