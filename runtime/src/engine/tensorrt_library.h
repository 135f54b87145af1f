// TensorRT and our backend for its major version, each opened with dlopen.
#pragma once

#include <string>

#include "engine/tensorrt_backend.h"

namespace mmedge {

struct TensorrtLibrary {
  void* handle;
  int major;
  std::string version;  // such as "10.3.0.30"
  std::string requested, file;
  std::string description;
};

// One library a process: the first that is asked for and loads. It is never closed. `requested`: its path; empty:
// MMEDGE_TENSORRT, or the system's newest that there is a backend for, or else its newest. Throws
// MME_ENGINE_UNAVAILABLE.
const TensorrtLibrary& tensorrt_library(const std::string& requested);

// The function of the backend for this version. Throws MME_ENGINE_UNAVAILABLE where this build of mmedge has none.
LoadTensorrtEngine tensorrt_backend(const TensorrtLibrary& library);

// The path of libmmedge_tensorrt_plugin.so. Throws MME_ENGINE_UNAVAILABLE where this build has none.
std::string tensorrt_plugin();

}  // namespace mmedge
