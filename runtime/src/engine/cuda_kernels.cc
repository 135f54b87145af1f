#include "engine/cuda_kernels.h"

#include <exception>
#include <utility>

#include "kernels/image_to_tensor/image_to_tensor_cuda.h"

namespace mmedge {
namespace {

class Conversion : public DeviceImageConversion {
 public:
  explicit Conversion(CudaImagePlan plan) : plan_(std::move(plan)) {}

  std::span<const int32_t> tables() const noexcept override { return plan_.tables; }

  const char* launch(const int32_t* tables, const CudaImageFrame& frame, void* tensor,
                     CUstream_st* stream) const noexcept override {
    const cudaError_t error = image_to_tensor(plan_, tables, {&frame, 1}, tensor, stream);
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }

 private:
  CudaImagePlan plan_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* mmedge_check_image_conversion_1() noexcept {
  const cudaError_t error = check_image_to_tensor();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

extern "C" __attribute__((visibility("default"))) DeviceImageConversion* mmedge_make_image_conversion_1(
    const ImageToTensorSpec& spec, const ImageGeometry& geometry) noexcept {
  try {
    return new Conversion(make_cuda_image_plan(spec, geometry));
  } catch (const std::exception&) {
    return nullptr;
  }
}

}  // namespace mmedge
