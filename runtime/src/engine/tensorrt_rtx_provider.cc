#include "engine/tensorrt_rtx_provider.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <vector>

#include "error.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPlugin = "libonnxruntime_providers_nv_tensorrt_rtx.so";
constexpr const char* kProvider = "NvTensorRTRTXExecutionProvider";

fs::path find_plugin() {
  if (const char* path = std::getenv("MMEDGE_TENSORRT_RTX"); path != nullptr && *path != '\0') return path;
  const fs::path site = site_packages();
  return site.empty() ? fs::path(kPlugin) : site / "onnxruntime_ep_nv_tensorrt_rtx" / kPlugin;
}

// TensorRT-RTX lies beside the plug-in, which asks for it by names that no search path leads to.
void load_neighbours(const fs::path& plugin) {
  std::error_code error;
  for (const char* stem : {"libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so."}) {
    for (const auto& entry : fs::directory_iterator(plugin.parent_path(), error)) {
      if (entry.path().filename().string().starts_with(stem)) dlopen(entry.path().c_str(), RTLD_NOW | RTLD_GLOBAL);
    }
  }
}

// Once a process: ONNX Runtime keeps what is registered.
void register_plugin(const OnnxRuntimeLibrary& library) {
  static std::mutex mutex;
  static bool registered = false;
  const std::scoped_lock lock(mutex);
  if (registered) return;
  const fs::path plugin = find_plugin();
  load_neighbours(plugin);
  if (OrtStatus* status = library.api->RegisterExecutionProviderLibrary(library.env, kProvider, plugin.c_str())) {
    const std::string message = library.api->GetErrorMessage(status);
    library.api->ReleaseStatus(status);
    fail(MME_ENGINE_UNAVAILABLE, "TensorRT-RTX is not usable: ", message,
         "; it needs an NVIDIA driver and the package onnxruntime-ep-nv-tensorrt-rtx-cu13, or MMEDGE_TENSORRT_RTX as "
         "the "
         "path of ",
         kPlugin);
  }
  registered = true;
}

}  // namespace

void append_tensorrt_rtx(const OnnxRuntimeLibrary& library, OrtSessionOptions* options, int device) {
  register_plugin(library);
  const OrtEpDevice* const* devices = nullptr;
  size_t count = 0;
  check(library.api, library.api->GetEpDevices(library.env, &devices, &count), "list its devices");
  std::vector<const OrtEpDevice*> gpus;
  for (size_t i = 0; i < count; ++i) {
    if (std::strcmp(library.api->EpDevice_EpName(devices[i]), kProvider) == 0) gpus.push_back(devices[i]);
  }
  if (gpus.empty()) fail(MME_ENGINE_UNAVAILABLE, "TensorRT-RTX finds no GPU it can run on");
  if (device < 0 || static_cast<size_t>(device) >= gpus.size()) {
    fail(MME_INVALID_ARGUMENT, "options->device is ", device, "; TensorRT-RTX finds ", gpus.size(), " GPUs, from 0 on");
  }
  check(library.api,
        library.api->SessionOptionsAppendExecutionProvider_V2(options, library.env, &gpus[static_cast<size_t>(device)],
                                                              1, nullptr, nullptr, 0),
        "start TensorRT-RTX");
}

}  // namespace mmedge
