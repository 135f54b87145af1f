// The operators of the ONNX domain "mmedge", version 1, as custom operators of ONNX Runtime. For the CPU, in libmmedge
// and libmmedge_onnxruntime.so:
//
//   GatedFusion   kernels/gated_fusion. Inputs: presence bool [B, M], then for each of the M modalities x [B, F_m],
//                 weight [D, F_m], bias [D], norm_weight [D], norm_bias [D], gate_weight [1, D], gate_bias [1].
//                 Attribute: epsilon, 1e-5 if not given. Outputs: y [B, D], and alpha [B, M], which a node may leave
//                 out.
//
//   QGatedFusion  the same of features and weights in 8 bits. Inputs: presence, then for each modality
//                 x uint8 [B, F_m], x_scale [], x_zero_point uint8 [], weight int8 [D, F_m], weight_scale [D], bias,
//                 norm_weight, norm_bias, gate_weight, gate_bias. All but presence and the xs must be constants of the
//                 graph. No session is made with inputs of other types.
//
// For float32 graphs, and what is float32 in those of 8 bits, only: where an operator is registered, ONNX Runtime no
// longer looks at the function body a graph carries, and refuses a graph that uses the operator with another type
// (INVALID_GRAPH). Register it for sessions that run float32 graphs on the CPU, and leave others to the body.
//
// For its CUDA provider, in libmmedge_onnxruntime_cuda.so: GatedFusion of up to 8 modalities in float32 or float16, all
// floating inputs and y of one of them, alpha always float32. All but presence and the xs must be constants of the
// graph. What runs on one stream shares the memory between its two steps. Register it for sessions of that provider.
//
// Weights that are constant in the graph are copied, rearranged, when a session is made: it takes their size more.
// One session may run on many threads at once. A run whose shapes were seen before allocates nothing here.
#pragma once

#include <onnxruntime_c_api.h>

#include "mmedge.h"

namespace mmedge {

// `api` must be of version 23 or newer. The operators stay registered with `options`, and with the sessions made from
// them, for as long as those live. On an x86 processor without VNNI it also sets session.x64quantprecision, since
// ONNX Runtime's own products of uint8 and int8 cut off there at 16 bits otherwise. Throws Error (MME_ENGINE_FAILED,
// MME_INVALID_ARGUMENT).
void register_mmedge_ops(const OrtApi* api, OrtSessionOptions* options);

}  // namespace mmedge

// For SessionOptions.register_custom_ops_library: what either library exports.
// NOLINTNEXTLINE(readability-identifier-naming): ONNX Runtime's name
extern "C" MME_API OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);
