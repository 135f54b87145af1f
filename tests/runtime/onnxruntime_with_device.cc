// In place of a build of ONNX Runtime with CUDA and a GPU: the library that MMEDGE_TEST_ONNXRUNTIME names, whose CUDA
// provider computes on the CPU. As with a GPU, binding an input copies what is in it then.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

const OrtApi* real = nullptr;
std::unordered_set<const void*> on_device;  // session options, sessions and bindings
bool binding_fails = false;

OrtStatus* bind_copy(OrtIoBinding* binding, const char* name, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  OrtAllocator* allocator = nullptr;
  ONNXTensorElementDataType type{};
  size_t rank = 0, bytes = 0;
  const void* from = nullptr;
  void* to = nullptr;
  OrtValue* copy = nullptr;
  OrtStatus* status = real->GetTensorTypeAndShape(value, &info);
  if (status == nullptr) status = real->GetTensorElementType(info, &type);
  if (status == nullptr) status = real->GetDimensionsCount(info, &rank);
  std::vector<int64_t> shape(rank);
  if (status == nullptr) status = real->GetDimensions(info, shape.data(), rank);
  if (status == nullptr) status = real->GetAllocatorWithDefaultOptions(&allocator);
  if (status == nullptr) status = real->CreateTensorAsOrtValue(allocator, shape.data(), rank, type, &copy);
  if (status == nullptr) status = real->GetTensorData(value, &from);
  if (status == nullptr) status = real->GetTensorSizeInBytes(value, &bytes);
  if (status == nullptr) status = real->GetTensorMutableData(copy, &to);
  if (status == nullptr) {
    std::memcpy(to, from, bytes);
    status = real->BindInput(binding, name, copy);
  }
  if (copy != nullptr) real->ReleaseValue(copy);
  if (info != nullptr) real->ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

const OrtApiBase* real_base() {
  const char* path = std::getenv("MMEDGE_TEST_ONNXRUNTIME");
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) std::abort();
  return reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"))();
}

const OrtApi* get_api(uint32_t version) noexcept {
  static OrtApi made;
  real = real_base()->GetApi(version);
  if (real == nullptr) return nullptr;
  made = *real;
  made.GetAvailableProviders = [](char*** names, int* count) noexcept -> OrtStatus* {
    static char name[] = "CUDAExecutionProvider";
    static char* all[] = {name};
    *names = all;
    *count = 1;
    return nullptr;
  };
  made.ReleaseAvailableProviders = [](char**, int) noexcept -> OrtStatus* { return nullptr; };
  made.CreateCUDAProviderOptions = [](OrtCUDAProviderOptionsV2** options) noexcept -> OrtStatus* {
    static char some;
    *options = reinterpret_cast<OrtCUDAProviderOptionsV2*>(&some);
    return nullptr;
  };
  made.UpdateCUDAProviderOptions = [](OrtCUDAProviderOptionsV2*, const char* const*, const char* const*,
                                      size_t) noexcept -> OrtStatus* { return nullptr; };
  made.ReleaseCUDAProviderOptions = [](OrtCUDAProviderOptionsV2*) noexcept {};
  made.SessionOptionsAppendExecutionProvider_CUDA_V2 = [](OrtSessionOptions* options,
                                                          const OrtCUDAProviderOptionsV2*) noexcept -> OrtStatus* {
    on_device.insert(options);
    return nullptr;
  };
  made.AddSessionConfigEntry = [](OrtSessionOptions* options, const char* key,
                                  const char* value) noexcept -> OrtStatus* {
    if (std::strcmp(key, "session.disable_cpu_ep_fallback") == 0) return nullptr;
    return real->AddSessionConfigEntry(options, key, value);
  };
  made.CreateSessionFromArray = [](const OrtEnv* env, const void* graph, size_t size, const OrtSessionOptions* options,
                                   OrtSession** session) noexcept -> OrtStatus* {
    OrtStatus* status = real->CreateSessionFromArray(env, graph, size, options, session);
    if (on_device.contains(options)) on_device.insert(*session);
    return status;
  };
  made.CreateIoBinding = [](OrtSession* session, OrtIoBinding** binding) noexcept -> OrtStatus* {
    OrtStatus* status = real->CreateIoBinding(session, binding);
    if (on_device.contains(session)) on_device.insert(*binding);
    return status;
  };
  made.BindInput = [](OrtIoBinding* binding, const char* name, const OrtValue* value) noexcept -> OrtStatus* {
    if (std::exchange(binding_fails, false)) return real->CreateStatus(ORT_FAIL, "as was asked for");
    return on_device.contains(binding) ? bind_copy(binding, name, value) : real->BindInput(binding, name, value);
  };
  // What comes to lie where one of these lay is another.
  made.ReleaseSessionOptions = [](OrtSessionOptions* options) noexcept {
    on_device.erase(options);
    real->ReleaseSessionOptions(options);
  };
  made.ReleaseSession = [](OrtSession* session) noexcept {
    on_device.erase(session);
    real->ReleaseSession(session);
  };
  made.ReleaseIoBinding = [](OrtIoBinding* binding) noexcept {
    on_device.erase(binding);
    real->ReleaseIoBinding(binding);
  };
  return &made;
}

}  // namespace

// The next input is not bound.
extern "C" __attribute__((visibility("default"))) void fail_next_binding() { binding_fails = true; }

extern "C" __attribute__((visibility("default"))) const OrtApiBase* OrtGetApiBase() noexcept {
  static const OrtApiBase base = {get_api, real_base()->GetVersionString};
  return &base;
}
