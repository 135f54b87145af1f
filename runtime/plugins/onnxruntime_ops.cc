#include "onnxruntime_ops.h"

#include <memory>
#include <mutex>
#include <vector>

#include "fusion_kernels.h"

namespace mmedge {
namespace {

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
    ONNXTensorElementDataType type = static_cast<const Operator*>(op)->type;
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED) {
      check_status(api, api->GetTensorElementType(info_of(1), &type));
    }
    check_status(api, api->SetTensorElementType(made, type));
    check_status(api, api->SetDimensions(made, shape, 2));
    check_status(api, api->SetSymbolicDimensions(made, symbols, 2));
    check_status(api, api->ShapeInferContext_SetOutputTypeShape(context, 0, made));
  });
}

// ---- The domain ----

struct Domain {
  explicit Domain(const OrtApi* made_by) : api(made_by), operators(make_operators(made_by)) {
    check_status(api, api->CreateCustomOpDomain("mmedge", &domain));
    for (const Operator& op : operators) check_status(api, api->CustomOpDomain_Add(domain, &op));
  }

  const OrtApi* api;
  const std::vector<Operator> operators;
  OrtCustomOpDomain* domain = nullptr;
};

// One a library of ONNX Runtime in this process, never destroyed: sessions refer to it until the last one ends.
const Domain& domain_of(const OrtApi* api) {
  static std::mutex mutex;
  static auto& domains = *new std::vector<std::unique_ptr<const Domain>>();
  const std::scoped_lock lock(mutex);
  for (const auto& domain : domains) {
    if (domain->api == api) return *domain;
  }
  return *domains.emplace_back(std::make_unique<const Domain>(api));
}

}  // namespace

void check_status(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  fail(MME_ENGINE_FAILED, "ONNX Runtime: ", message);
}

Operator fusion_operator(const OrtApi* api, ONNXTensorElementDataType type) {
  Operator op{};
  op.api = api;
  op.type = type;
  op.version = kOrtApiVersion;
  op.GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_VARIADIC;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetOutputType = [](const OrtCustomOp* of, size_t index) {
    return index == 0 ? static_cast<const Operator*>(of)->type : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
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

Operator gated_fusion_operator(const OrtApi* api, ONNXTensorElementDataType type) {
  Operator op = fusion_operator(api, type);
  op.bias = 3;
  op.GetName = [](const OrtCustomOp*) { return "GatedFusion"; };
  op.GetInputType = [](const OrtCustomOp* of, size_t index) {
    return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL : static_cast<const Operator*>(of)->type;
  };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return static_cast<int>(kFusionInputs); };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp* of) {
    return static_cast<const Operator*>(of)->type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED ? 1 : 0;
  };
  return op;
}

void register_mmedge_ops(const OrtApi* api, OrtSessionOptions* options) {
  check_status(api, api->AddCustomOpDomain(options, domain_of(api).domain));
  set_session_options(api, options);
}

}  // namespace mmedge

OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(mmedge::kOrtApiVersion);
  if (api == nullptr) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "mmedge's operators need ONNX Runtime 1.23 or newer");
  }
  return mmedge::guarded(api, [&] { mmedge::register_mmedge_ops(api, options); });
}
