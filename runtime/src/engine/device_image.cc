#include "engine/device_image.h"

#include <dlfcn.h>

#include <cstring>

#include "engine/own_library.h"
#include "error.h"

namespace mmedge {
namespace {

constexpr size_t kRowAlignment = 256;

void resize(Tensor& bytes, size_t count) {
  const auto size = static_cast<int64_t>(count);
  bytes.resize(ElementType::kUint8, {&size, 1});
}

size_t aligned(size_t bytes) { return (bytes + kRowAlignment - 1) / kRowAlignment * kRowAlignment; }

}  // namespace

DeviceImageLibrary device_image_conversion() {
  const auto [library, fault] = open_own("libmmedge_cuda.so");
  if (library == nullptr) return {nullptr, fault};
  const auto make = reinterpret_cast<MakeDeviceImageConversion>(dlsym(library, kMakeDeviceImageConversion));
  const auto check = reinterpret_cast<CheckDeviceImageConversion>(dlsym(library, kCheckDeviceImageConversion));
  if (make == nullptr || check == nullptr) return {nullptr, "libmmedge_cuda.so is of another version of mmedge"};
  if (const char* unfit = check()) return {nullptr, concat("libmmedge_cuda.so does not run here: ", unfit)};
  return {make, ""};
}

DeviceImage::DeviceImage(const CudaDevice& device, MakeDeviceImageConversion make)
    : device_(device),
      make_(make),
      pinned_(device),
      staging_(ElementType::kUint8, &pinned_),
      tables_(ElementType::kUint8, &pinned_),
      frame_buffer_(device),
      tables_buffer_(device) {}

ImageArea DeviceImage::convert(const ImageToTensorSpec& spec, const ImageFrame& frame, DevicePointer tensor,
                               CudaStream& stream) {
  if (geometry_ != frame.geometry) {
    stream.synchronize();  // a frame that was set and not run may be in use, with its tables
    geometry_.reset();
    conversion_.reset(make_(spec, frame.geometry));
    if (conversion_ == nullptr) throw std::bad_alloc();
    const auto tables = std::as_bytes(conversion_->tables());
    resize(tables_, tables.size());
    std::memcpy(tables_.data(), tables.data(), tables.size());
    tables_buffer_.reserve(tables.size());
    stream.copy_to_device(tables_buffer_.get(), tables_.data(), tables.size());
    area_ = image_area(spec, frame.geometry);
    geometry_ = frame.geometry;
  }
  const CudaImageFrame there = upload(frame, stream);
  const char* const fault =
      conversion_->launch(reinterpret_cast<const int32_t*>(tables_buffer_.get()), there, tensor, stream.get());
  if (fault != nullptr) fail(MME_ENGINE_FAILED, "CUDA failed to convert the frame: ", fault);
  return area_;
}

CudaImageFrame DeviceImage::upload(const ImageFrame& frame, CudaStream& stream) {
  CudaImageFrame there{};
  if (frame.on_device) {
    for (int plane = 0; plane < 3 && frame.rows[plane] > 0; ++plane) {
      if (!is_memory_of(device_, frame.planes[plane])) {
        fail(MME_INVALID_ARGUMENT, "image: plane ", plane, " is not memory of GPU ", device_.number(), " (",
             device_.name(), ")");
      }
      there.planes[plane] = frame.planes[plane];
      there.strides[plane] = frame.strides[plane];
    }
    return there;
  }
  size_t total = 0;
  for (int plane = 0; plane < 3; ++plane) total += aligned(frame.row_bytes[plane]) * frame.rows[plane];
  // A frame that was set before and not run may still be on its way from here. Overwriting it is harmless: this frame's
  // conversion follows on the same stream, to the same tensor.
  resize(staging_, total);
  auto* to = static_cast<std::byte*>(staging_.data());
  DevicePointer base = nullptr;
  if (device_.integrated()) {
    base = device_address(to);
  } else {
    frame_buffer_.reserve(total);
    base = frame_buffer_.get();
  }
  size_t offset = 0;
  for (int plane = 0; plane < 3; ++plane) {
    there.planes[plane] = reinterpret_cast<const uint8_t*>(base + offset);
    there.strides[plane] = static_cast<int64_t>(aligned(frame.row_bytes[plane]));
    for (size_t row = 0; row < frame.rows[plane]; ++row) {
      std::memcpy(to + offset, frame.planes[plane] + static_cast<ptrdiff_t>(row) * frame.strides[plane],
                  frame.row_bytes[plane]);
      offset += aligned(frame.row_bytes[plane]);
    }
  }
  if (!device_.integrated()) stream.copy_to_device(base, to, total);
  return there;
}

}  // namespace mmedge
