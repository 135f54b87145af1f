// The CUDA kernels that a session preprocesses with. They are in a library of their own, libmmedge_cuda.so, which nvcc
// builds where it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/image_to_tensor/image_to_tensor_conversion.h"

struct CUstream_st;

namespace mmedge {

// image_to_tensor for frames of one geometry.
class DeviceImageConversion {
 public:
  virtual ~DeviceImageConversion() = default;
  // What the kernel needs on the device, aligned to 16 bytes.
  virtual std::span<const int32_t> tables() const noexcept = 0;
  // `tables`: the device's copy. Null, or what CUDA says is wrong.
  virtual const char* launch(const int32_t* tables, const CudaImageFrame& frame, void* tensor,
                             CUstream_st* stream) const noexcept = 0;
};

// Null where memory is short.
using MakeDeviceImageConversion = DeviceImageConversion* (*)(const ImageToTensorSpec&, const ImageGeometry&) noexcept;
// Null, or what CUDA says is wrong with its kernel on the device whose context is current.
using CheckDeviceImageConversion = const char* (*)() noexcept;

// The names the library gives them; others for every change of what is above.
inline constexpr const char* kMakeDeviceImageConversion = "mmedge_make_image_conversion_1";
inline constexpr const char* kCheckDeviceImageConversion = "mmedge_check_image_conversion_1";

}  // namespace mmedge
