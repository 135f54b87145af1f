// libmmedge_cuda.so with emulated kernels: launched when the stream gets there, as on a GPU.
#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "emulator.h"
#include "engine/cuda_kernels.h"

namespace mmedge {

// cuda_kernels.cc's own functions, under other names.
extern "C" DeviceImageConversion* make_immediate_conversion(const ImageToTensorSpec& spec,
                                                            const ImageGeometry& geometry) noexcept;
extern "C" const char* check_emulated_conversion() noexcept;

namespace {

struct Launch {
  const DeviceImageConversion* conversion;
  const int32_t* tables;
  CudaImageFrame frame;
  void* tensor;
  CUstream_st* stream;
};

class DeferredConversion : public DeviceImageConversion {
 public:
  explicit DeferredConversion(DeviceImageConversion* conversion) : conversion_(conversion) {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    enqueue_ = reinterpret_cast<decltype(enqueue_)>(dlsym(driver, "cuLaunchHostFunc"));
  }

  std::span<const int32_t> tables() const noexcept override { return conversion_->tables(); }

  const char* launch(const int32_t* tables, const CudaImageFrame& frame, void* tensor,
                     CUstream_st* stream) const noexcept override {
    auto* const launch = new (std::nothrow) Launch{conversion_.get(), tables, frame, tensor, stream};
    const auto run = [](void* data) {
      const std::unique_ptr<Launch> own(static_cast<Launch*>(data));
      emulator::set_only_stream(own->stream);
      const char* const fault = own->conversion->launch(own->tables, own->frame, own->tensor, own->stream);
      emulator::set_only_stream(nullptr);
      if (fault != nullptr) std::abort();  // nobody is left to tell
    };
    return enqueue_(stream, run, launch) == 0 ? nullptr : "not enqueued";
  }

 private:
  std::unique_ptr<DeviceImageConversion> conversion_;
  int (*enqueue_)(CUstream_st*, void (*)(void*), void*) = nullptr;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* mmedge_check_image_conversion_1() noexcept {
  return std::getenv("MMEDGE_TEST_NO_KERNELS") ? "no kernel image is available" : check_emulated_conversion();
}

extern "C" __attribute__((visibility("default"))) DeviceImageConversion* mmedge_make_image_conversion_1(
    const ImageToTensorSpec& spec, const ImageGeometry& geometry) noexcept {
  DeviceImageConversion* conversion = make_immediate_conversion(spec, geometry);
  return conversion == nullptr ? nullptr : new (std::nothrow) DeferredConversion(conversion);
}

}  // namespace mmedge
