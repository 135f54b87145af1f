// TensorRT-RTX as a provider of ONNX Runtime: a plug-in library that a package of its own brings.
#pragma once

#include "engine/onnxruntime_library.h"

namespace mmedge {

// Lets GPU number `device` run the graph. Throws MME_ENGINE_UNAVAILABLE where the plug-in is not there, does not load,
// or finds no GPU; MME_INVALID_ARGUMENT where none has this number.
void append_tensorrt_rtx(const OnnxRuntimeLibrary& library, OrtSessionOptions* options, int device);

}  // namespace mmedge
