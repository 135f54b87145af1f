// ONNX Runtime, opened with dlopen so that libmmedge installs beside any build of it.
#pragma once

#include <onnxruntime_c_api.h>

#include <filesystem>
#include <memory>
#include <string>

#include "engine/exiting.h"

namespace mmedge {

struct OnnxRuntimeLibrary {
  const OrtApiBase* base;
  const OrtApi* api;
  OrtEnv* env;
  std::string requested;  // what was asked for, and the file it was
  std::string file;
  std::string version;
  std::string description;
};

// One library a process: the first that is asked for and loads. It is never closed. Throws MME_ENGINE_UNAVAILABLE.
const OnnxRuntimeLibrary& onnxruntime_library(const std::string& requested);

// RegisterCustomOps of libmmedge_onnxruntime_cuda.so, for sessions of the CUDA provider; null where that library is not
// beside this one, and ONNX Runtime computes the bodies of the operators. Throws MME_ENGINE_UNAVAILABLE where it is
// there and of no use. Looked for once a process.
using RegisterOperators = OrtStatus*(ORT_API_CALL*)(OrtSessionOptions*, const OrtApiBase*);
RegisterOperators cuda_operators();

// Where Python packages lie beside mmedge, if this library is in mmedge/runtime of one.
std::filesystem::path site_packages();

// Throws MME_ENGINE_FAILED.
void check(const OrtApi* api, OrtStatus* status, const char* doing);

template <class T>
struct Release {
  void (*release)(T*);
  void operator()(T* object) const {
    if (!exiting()) release(object);
  }
};
template <class T>
using Owned = std::unique_ptr<T, Release<T>>;

}  // namespace mmedge
