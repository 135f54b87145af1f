#include "engine/onnxruntime_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "engine/exiting.h"
#include "error.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;

constexpr int kApiVersion = 23;  // the first that custom operators and plug-in providers are safe on

// ONNX Runtime's telemetry starts with the first OrtEnv, so it is switched off before; an existing setting is kept. At
// load, since setenv() must not run beside another thread's getenv().
__attribute__((constructor)) void switch_off_telemetry() { setenv("ORT_DISABLE_TELEMETRY", "1", 0); }

// The Python package installed beside this library's own, as in SITE/mmedge/runtime and SITE/onnxruntime/capi.
std::string beside_this_library() {
  const fs::path site = site_packages();
  if (site.empty()) return {};
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(site / "onnxruntime" / "capi", error)) {
    if (entry.path().filename().string().starts_with("libonnxruntime.so")) return entry.path().string();
  }
  return {};
}

std::string choose_library(const std::string& requested) {
  if (!requested.empty()) return requested;
  if (const char* path = std::getenv("MMEDGE_ONNXRUNTIME"); path != nullptr && *path != '\0') return path;
  const std::string found = beside_this_library();
  return found.empty() ? "libonnxruntime.so.1" : found;
}

OnnxRuntimeLibrary open_library(const std::string& requested) {
  const std::string path = choose_library(requested);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, "ONNX Runtime was not found: ", dlerror(),
         "; set MMEDGE_ONNXRUNTIME to the path of libonnxruntime.so, or in Python pip install onnxruntime");
  }
  using GetApiBase = const OrtApiBase* (*)();
  const auto get_api_base = reinterpret_cast<GetApiBase>(dlsym(handle, "OrtGetApiBase"));
  if (get_api_base == nullptr) fail(MME_ENGINE_UNAVAILABLE, path, " is not ONNX Runtime: it has no OrtGetApiBase");
  const OrtApiBase* base = get_api_base();
  const std::string version = base->GetVersionString();
  // An older library prints to stderr when asked for an interface it lacks, so look at its number first.
  const bool old = version.starts_with("0.") ||
                   (version.starts_with("1.") && std::strtol(version.c_str() + 2, nullptr, 10) < kApiVersion);
  const OrtApi* api = old ? nullptr : base->GetApi(kApiVersion);
  if (api == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, "found ONNX Runtime ", version, " at ", path, "; mmedge needs 1.", kApiVersion,
         " or newer (pip install -U onnxruntime)");
  }
  OrtEnv* env = nullptr;
  if (const OrtStatus* status = api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "mmedge", &env)) {
    fail(MME_ENGINE_UNAVAILABLE, "ONNX Runtime at ", path, " did not start: ", api->GetErrorMessage(status));
  }
  Dl_info where{};
  const bool known = dladdr(reinterpret_cast<const void*>(get_api_base), &where) != 0;
  const std::string file = fs::weakly_canonical(known ? where.dli_fname : path).string();
  watch_exit();
  return {base, api, env, requested, file, version, concat("ONNX Runtime ", version, " (", file, ")")};
}

RegisterOperators open_cuda_operators() {
  constexpr const char* name = "libmmedge_onnxruntime_cuda.so";
  void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const std::string fault = dlerror();
    if (fault.starts_with(concat(name, ":"))) return nullptr;  // of one that it found it gives the path
    fail(MME_ENGINE_UNAVAILABLE, "found ", name, ", with mmedge's operators for CUDA, but it does not load: ", fault,
         "; install what it lacks, or remove it: without, ONNX Runtime computes them by itself");
  }
  const auto found = reinterpret_cast<RegisterOperators>(dlsym(handle, "RegisterCustomOps"));
  if (found == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, name, " has no RegisterCustomOps: it is of another version of mmedge; install both ",
         "together");
  }
  return found;
}

}  // namespace

const OnnxRuntimeLibrary& onnxruntime_library(const std::string& requested) {
  static std::mutex mutex;
  static const OnnxRuntimeLibrary* opened = nullptr;
  const std::scoped_lock lock(mutex);
  std::error_code error;  // a path that leads nowhere is of another
  if (opened == nullptr) {
    opened = new OnnxRuntimeLibrary(open_library(requested));
  } else if (!requested.empty() && requested != opened->requested &&
             fs::weakly_canonical(requested, error) != opened->file) {
    fail(MME_ENGINE_UNAVAILABLE, "this process already runs ", opened->description, "; it cannot also load ",
         requested);
  }
  return *opened;
}

RegisterOperators cuda_operators() {
  static const RegisterOperators found = open_cuda_operators();
  return found;
}

fs::path site_packages() {
  Dl_info self{};
  if (dladdr(reinterpret_cast<void*>(&site_packages), &self) == 0 || self.dli_fname == nullptr) return {};
  return fs::path(self.dli_fname).parent_path().parent_path().parent_path();
}

void check(const OrtApi* api, OrtStatus* status, const char* doing) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  fail(MME_ENGINE_FAILED, "ONNX Runtime failed to ", doing, ": ", message);
}

}  // namespace mmedge
