#include "onnxruntime_ops.h"

#include <memory>
#include <mutex>
#include <vector>

#include "fusion_kernels.h"
#include "kernels/instruction_set.h"

namespace mmedge {
namespace {

// What ONNX Runtime's callbacks are handed instead of a bare OrtCustomOp.
struct Operator : OrtCustomOp {
  const OrtApi* api;
  size_t bias;  // the input that is the first modality's
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
      check_status(api, api->ShapeInferContext_GetInputTypeShape(context, index, &info));
      return info;
    };
    int64_t shape[] = {-1, -1};
    const char* symbols[] = {"", ""};
    const auto take = [&](const OrtTensorTypeAndShapeInfo* info, size_t rank, size_t at) {
      size_t found = 0;
      check_status(api, api->GetDimensionsCount(info, &found));
      if (found != rank) return;  // not known
      int64_t sizes[2] = {};
      const char* names[2] = {};
      check_status(api, api->GetDimensions(info, sizes, rank));
      check_status(api, api->GetSymbolicDimensions(info, names, rank));
      shape[at] = sizes[0];
      symbols[at] = names[0];
    };
    take(info_of(0), 2, 0);
    take(info_of(static_cast<const Operator*>(op)->bias), 1, 1);
    OrtTensorTypeAndShapeInfo* made = nullptr;
    check_status(api, api->CreateTensorTypeAndShapeInfo(&made));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, Release<OrtTensorTypeAndShapeInfo>> output(
        made, {api->ReleaseTensorTypeAndShapeInfo});
    check_status(api, api->SetTensorElementType(made, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    check_status(api, api->SetDimensions(made, shape, 2));
    check_status(api, api->SetSymbolicDimensions(made, symbols, 2));
    check_status(api, api->ShapeInferContext_SetOutputTypeShape(context, 0, made));
  });
}

using Make = std::unique_ptr<FusionKernel> (*)(const OrtApi*, const OrtKernelInfo*);

template <Make make>
OrtStatus* create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  return guarded(api, [&] { *kernel = make(api, info).release(); });
}

Operator fusion_operator(const OrtApi* api) {
  Operator op{};
  op.api = api;
  op.version = kOrtApiVersion;
  op.GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_VARIADIC;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.InferOutputShapeFn = infer_shape;
  op.KernelDestroy = [](void* kernel) { std::unique_ptr<FusionKernel>(static_cast<FusionKernel*>(kernel)); };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto* fusion = static_cast<const FusionKernel*>(kernel);
    return guarded(fusion->api(), [&] { fusion->run(context); });
  };
  return op;
}

Operator gated_fusion_operator(const OrtApi* api) {
  Operator op = fusion_operator(api);
  op.bias = 3;
  op.GetName = [](const OrtCustomOp*) { return "GatedFusion"; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return static_cast<int>(kFusionInputs); };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = create<make_gated_fusion>;
  return op;
}

Operator q_gated_fusion_operator(const OrtApi* api) {
  Operator op = fusion_operator(api);
  op.bias = 6;
  op.GetName = [](const OrtCustomOp*) { return "QGatedFusion"; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) {  // floats and integers in turn
    return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return static_cast<int>(kQFusionInputs); };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.CreateKernelV2 = create<make_q_gated_fusion>;
  return op;
}

// ---- The domain ----

struct Domain {
  explicit Domain(const OrtApi* api)
      : gated_fusion(gated_fusion_operator(api)), q_gated_fusion(q_gated_fusion_operator(api)) {
    check_status(api, api->CreateCustomOpDomain("mmedge", &domain));
    check_status(api, api->CustomOpDomain_Add(domain, &gated_fusion));
    check_status(api, api->CustomOpDomain_Add(domain, &q_gated_fusion));
  }

  Operator gated_fusion, q_gated_fusion;
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
  check_status(api, api->AddCustomOpDomain(options, domain_of(api).domain));
}

}  // namespace mmedge

OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(mmedge::kOrtApiVersion);
  if (api == nullptr) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "mmedge's operators need ONNX Runtime 1.23 or newer");
  }
  return mmedge::guarded(api, [&] { mmedge::register_mmedge_ops(api, options); });
}
