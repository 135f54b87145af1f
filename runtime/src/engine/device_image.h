// A camera's frames, turned into an input's tensor on the device.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/cuda_driver.h"
#include "engine/cuda_kernels.h"
#include "kernels/image_to_tensor/image_to_tensor.h"

namespace mmedge {

// The function of libmmedge_cuda.so; null where it cannot be had, or not on the device whose context is current, and
// why.
struct DeviceImageLibrary {
  MakeDeviceImageConversion make;
  std::string fault;
};
DeviceImageLibrary device_image_conversion();

// Used by one thread at a time, in the device's context.
class DeviceImage {
 public:
  DeviceImage(const CudaDevice& device, MakeDeviceImageConversion make);

  // Enqueues the conversion of `frame` to `tensor`. The frame's bytes have been read when it returns, unless they are
  // the device's. Waits for the stream where the geometry is another than before.
  // Gives the part of the frame that the tensor shows. Throws MME_ENGINE_FAILED, or MME_INVALID_ARGUMENT where planes
  // are not this device's.
  ImageArea convert(const ImageToTensorSpec& spec, const ImageFrame& frame, DevicePointer tensor, CudaStream& stream);

 private:
  CudaImageFrame upload(const ImageFrame& frame, CudaStream& stream);

  const CudaDevice& device_;
  MakeDeviceImageConversion make_;
  std::optional<ImageGeometry> geometry_;
  ImageArea area_;
  std::unique_ptr<DeviceImageConversion> conversion_;
  PinnedMemory pinned_;
  Tensor staging_, tables_;  // the frame's rows, and the kernel's tables, in pinned memory
  DeviceBuffer frame_buffer_, tables_buffer_;
};

}  // namespace mmedge
