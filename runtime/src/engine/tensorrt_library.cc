#include "engine/tensorrt_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <vector>

#include "engine/own_library.h"
#include "error.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;

constexpr int kOldest = 100300, kBeyond = 120000;  // 10.3 of JetPack 6.2, and what no backend is for yet

std::string canonical(const std::string& path) {
  std::error_code error;
  const fs::path found = fs::weakly_canonical(path, error);
  return error ? path : found.string();
}

std::string file_of(const void* symbol, const std::string& otherwise) {
  Dl_info where{};
  const bool known = dladdr(symbol, &where) != 0 && where.dli_fname != nullptr;
  return canonical(known ? where.dli_fname : otherwise);
}

std::string backend_of(int major) { return concat("libmmedge_tensorrt", major, ".so"); }

// In the order they are tried. Of the system's the newest first, but before it one that there is a backend for.
std::vector<std::string> candidates(const std::string& requested) {
  if (!requested.empty()) return {requested};
  if (const char* path = std::getenv("MMEDGE_TENSORRT"); path != nullptr && *path != '\0') return {path};
  int majors[] = {11, 10};
  std::stable_partition(std::begin(majors), std::end(majors),
                        [](int major) { return open_own(backend_of(major)).handle != nullptr; });
  std::vector<std::string> names;
  for (const int major : majors) names.push_back(concat("libnvinfer.so.", major));
  return names;
}

TensorrtLibrary open_library(const std::string& requested) {
  void* handle = nullptr;
  std::string name, faults;
  for (const std::string& candidate : candidates(requested)) {
    name = candidate;
    handle = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) break;
    faults += concat(faults.empty() ? "" : "; ", dlerror());
  }
  if (handle == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, "TensorRT was not found: ", faults,
         "; install it (it is part of JetPack), or set MMEDGE_TENSORRT to the path of libnvinfer.so");
  }
  const auto get_version = reinterpret_cast<int (*)()>(dlsym(handle, "getInferLibVersion"));
  if (get_version == nullptr) fail(MME_ENGINE_UNAVAILABLE, name, " is not TensorRT: it has no getInferLibVersion");
  const int number = get_version();  // 100300 is 10.3.0
  const auto get_build = reinterpret_cast<int (*)()>(dlsym(handle, "getInferLibBuildVersion"));
  const std::string version =
      concat(number / 10000, ".", number / 100 % 100, ".", number % 100, ".", get_build == nullptr ? 0 : get_build());
  const std::string file = file_of(reinterpret_cast<const void*>(get_version), name);
  if (number < kOldest || number >= kBeyond) {
    fail(MME_ENGINE_UNAVAILABLE, "found TensorRT ", version, " (", file, "); mmedge runs on 10.3 to 11");
  }
  return {handle, number / 10000, version, requested, file, concat("TensorRT ", version, " (", file, ")")};
}

}  // namespace

const TensorrtLibrary& tensorrt_library(const std::string& requested) {
  static std::mutex mutex;
  static const TensorrtLibrary* opened = nullptr;
  const std::scoped_lock lock(mutex);
  if (opened == nullptr) {
    opened = new TensorrtLibrary(open_library(requested));
  } else if (!requested.empty() && requested != opened->requested && canonical(requested) != opened->file) {
    fail(MME_ENGINE_UNAVAILABLE, "this process already runs ", opened->description, "; it cannot also load ",
         requested);
  }
  return *opened;
}

LoadTensorrtEngine tensorrt_backend(const TensorrtLibrary& library) {
  const std::string name = backend_of(library.major);
  const auto [handle, fault] = open_own(name);
  if (handle == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, "found ", library.description, ", but ", fault,
         "; build mmedge where NvInfer.h of TensorRT ", library.major, " is, or with -DTENSORRT_INCLUDE_DIRS=...");
  }
  const auto load = reinterpret_cast<LoadTensorrtEngine>(dlsym(handle, kLoadTensorrtEngine));
  if (load == nullptr) fail(MME_ENGINE_UNAVAILABLE, name, " is of another version of mmedge; install both together");
  return load;
}

std::string tensorrt_plugin() {
  constexpr const char* name = "libmmedge_tensorrt_plugin.so";
  const auto [handle, fault] = open_own(name);
  if (handle == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, "the engine was built with mmedge's plugin, but ", fault,
         "; build mmedge with -DMMEDGE_CUDA=ON, or the engine without --plugin");
  }
  const void* creators = dlsym(handle, "getCreators");
  if (creators == nullptr)
    fail(MME_ENGINE_UNAVAILABLE, name, " is of another version of mmedge; install both together");
  return file_of(creators, name);
}

}  // namespace mmedge
