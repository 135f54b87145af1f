// What the operators of onnxruntime_ops.h compute, as ONNX Runtime's callbacks call it.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>

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

std::unique_ptr<FusionKernel> make_gated_fusion(const OrtApi* api, const OrtKernelInfo* info);
std::unique_ptr<FusionKernel> make_q_gated_fusion(const OrtApi* api, const OrtKernelInfo* info);

}  // namespace mmedge
