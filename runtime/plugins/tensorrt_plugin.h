// The operators of the ONNX domain "mmedge" as plugins of TensorRT 10 and 11, version "1", namespace "mmedge":
// kernels/gated_fusion/gated_fusion_cuda.h. export/plugins.py writes graphs that use them.
//
//   GatedFusion   Inputs: presence int32 [B, M], zeros and ones, then for each of the M modalities, up to 8,
//                 x [B, F_m], weight, bias [D], norm_weight [D], norm_bias [D], gate_weight [1, D], gate_bias [1].
//                 x and weight are float32 or float16, the others float32.
//   QGatedFusion  the same of features and weights in 8 bits. For each modality: x int8 [B, F_m], weight, scale [D],
//                 offset int32 [D], then as above from bias on, float32.
//
// Both have a field `epsilon`, 1e-5 if not given, and two outputs: y [B, D] of x's type, float32 from integers, and
// alpha float32 [B, M]. B may be any number in a run; M, F_m and D are those of the network. Formats are linear.
//
// A weight comes packed, in the order in which the kernel reads: it is constant, and there is nobody to pack it at run
// time. It is [ceil(F / 4), P, 4], P being D rounded up to 64, with weight[c][f] of the row-major [D, F] at
// [f / 4][c][f % 4] and zeros elsewhere. Integers are int32 words of four, the first feature in the lowest byte:
// [ceil(F / 16), P, 4]. Presence is int32 because plugins take neither bool nor uint8.
//
// The interfaces of plugins and their creators are the same in the headers of TensorRT 10.3, 10.16 and 11.1, so that
// one library serves 10 and 11. Those of loggers are not: what was compiled for the other one says nothing, and returns
// the same codes.
#pragma once

#include <NvInferRuntime.h>

#include "mmedge.h"

namespace mmedge {

constexpr const char* kPluginVersion = "1";
constexpr const char* kPluginNamespace = "mmedge";

}  // namespace mmedge

// NOLINTBEGIN(readability-identifier-naming): TensorRT's names
// What IPluginRegistry::loadLibrary() looks for. One without it can hand the creators to registerCreator(). They need
// no release, and are the same in each call. No function of TensorRT is linked.
extern "C" MME_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
// With NULL, or before it is called, nothing is said of errors but their codes.
extern "C" MME_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
// NOLINTEND(readability-identifier-naming)
