// The operators of onnxruntime_ops.h and what they compute, as ONNX Runtime's callbacks call it.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <vector>

#include "error.h"

namespace mmedge {

constexpr uint32_t kOrtApiVersion = 23;                   // the first that custom operators are safe on
constexpr size_t kFusionInputs = 7, kQFusionInputs = 10;  // for each modality

// Throws Error where ONNX Runtime reports one, and releases the report.
void check_status(const OrtApi* api, OrtStatus* status);

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

// One node of a graph. run() may be called by many threads at once; with shapes seen before it allocates nothing. Both
// throw Error.
class FusionKernel {
 public:
  explicit FusionKernel(const OrtApi* api) : api_(api) {}
  FusionKernel(const FusionKernel&) = delete;
  FusionKernel& operator=(const FusionKernel&) = delete;
  virtual ~FusionKernel() = default;

  const OrtApi* api() const { return api_; }
  virtual void run(OrtKernelContext* context) const = 0;

 protected:
  const OrtApi* api_;
};

// What ONNX Runtime's callbacks are handed instead of a bare OrtCustomOp.
struct Operator : OrtCustomOp {
  const OrtApi* api;
  size_t bias;                     // the input that is the first modality's
  ONNXTensorElementDataType type;  // of y, or undefined: as the first modality's x
};

template <class Kernel>
OrtStatus* create_kernel(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  return guarded(api, [&] { *kernel = static_cast<FusionKernel*>(std::make_unique<Kernel>(api, info).release()); });
}

// All but the types of the inputs, the name and CreateKernelV2.
Operator fusion_operator(const OrtApi* api, ONNXTensorElementDataType type);

// GatedFusion, all but CreateKernelV2. `type` is that of y and of all inputs but presence; alpha's is float32.
Operator gated_fusion_operator(const OrtApi* api, ONNXTensorElementDataType type);

// Those of this library. Throws Error.
std::vector<Operator> make_operators(const OrtApi* api);

// What else a session is to know that has them. Throws Error.
void set_session_options(const OrtApi* api, OrtSessionOptions* options);

}  // namespace mmedge
