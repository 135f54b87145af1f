// A node's inputs, attributes and outputs, as the operators' kernels read them. All throw Error.
#pragma once

#include <iterator>
#include <memory>

#include "fusion_kernels.h"

namespace mmedge {

// A tensor's size is asked for in bytes: asking for its shape allocates.
template <class T>
struct Values {
  const T* data;
  size_t count;
};

template <class T>
Values<T> values(const OrtApi* api, const OrtValue* value) {
  const void* data = nullptr;
  size_t bytes = 0;
  check_status(api, api->GetTensorData(value, &data));
  check_status(api, api->GetTensorSizeInBytes(value, &bytes));
  return {static_cast<const T*>(data), bytes / sizeof(T)};
}

using Floats = Values<float>;

inline size_t count_modalities(const OrtApi* api, const OrtKernelInfo* info, const char* name, size_t each) {
  size_t inputs = 0;
  check_status(api, api->KernelInfo_GetInputCount(info, &inputs));
  if (inputs < 1 + each || (inputs - 1) % each != 0) {
    fail(MME_INVALID_ARGUMENT, name, " has ", inputs, " inputs; expected 1 + ", each, " for each modality");
  }
  return (inputs - 1) / each;
}

// Of a tensor's elements.
inline ONNXTensorElementDataType input_type(const OrtApi* api, const OrtKernelInfo* info, size_t index) {
  OrtTypeInfo* made = nullptr;
  check_status(api, api->KernelInfo_GetInputTypeInfo(info, index, &made));
  const std::unique_ptr<OrtTypeInfo, void (*)(OrtTypeInfo*)> type(made, api->ReleaseTypeInfo);
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;  // a part of `type`
  check_status(api, api->CastTypeInfoToTensorInfo(type.get(), &tensor));
  ONNXTensorElementDataType found = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  check_status(api, api->GetTensorElementType(tensor, &found));
  return found;
}

inline const char* name_of(ONNXTensorElementDataType type) {
  constexpr const char* names[] = {"of no type", "float32", "uint8", "int8",    "uint16",  "int16",  "int32",
                                   "int64",      "string",  "bool",  "float16", "float64", "uint32", "uint64"};
  return static_cast<size_t>(type) < std::size(names) ? names[type] : "of another type";
}

// ONNX Runtime itself does so only where an operator's inputs are all of one type.
inline void check_type(const OrtApi* api, const OrtKernelInfo* info, const char* name, size_t index,
                       ONNXTensorElementDataType wanted) {
  const ONNXTensorElementDataType found = input_type(api, info, index);
  if (found == wanted) return;
  fail(MME_INVALID_ARGUMENT, name, ": input ", index, " is ", name_of(found), "; expected ", name_of(wanted));
}

inline float read_epsilon(const OrtApi* api, const OrtKernelInfo* info) {
  float epsilon = 1e-5F;
  if (OrtStatus* status = api->KernelInfoGetAttribute_float(info, "epsilon", &epsilon)) {
    api->ReleaseStatus(status);
    epsilon = 1e-5F;
  }
  return epsilon;
}

// An input that is a constant of the graph; NULL where it is none.
inline const OrtValue* constant(const OrtApi* api, const OrtKernelInfo* info, size_t index) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check_status(api, api->KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  return is_constant != 0 ? value : nullptr;
}

inline const OrtValue* input(const OrtApi* api, const OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  check_status(api, api->KernelContext_GetInput(context, index, &value));
  return value;
}

// NULL where the node names no such output.
template <class T>
T* output(const OrtApi* api, OrtKernelContext* context, size_t index, size_t rows, size_t columns) {
  const int64_t shape[] = {static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
  OrtValue* value = nullptr;
  check_status(api, api->KernelContext_GetOutput(context, index, shape, 2, &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check_status(api, api->GetTensorMutableData(value, &data));
  return static_cast<T*>(data);
}

// bool [B, modalities]: the flags, and B.
inline Values<uint8_t> read_presence(const OrtApi* api, const OrtKernelContext* context, size_t modalities) {
  const auto flags = values<uint8_t>(api, input(api, context, 0));
  if (flags.count % modalities != 0) {
    fail(MME_INVALID_ARGUMENT, "GatedFusion: presence holds ", flags.count, " flags; expected [B, ", modalities, "]");
  }
  return {flags.data, flags.count / modalities};
}

inline void check_features(size_t m, size_t found, size_t rows, size_t features) {
  if (found != rows * features) {
    fail(MME_INVALID_ARGUMENT, "GatedFusion: x of modality ", m, " holds ", found, " numbers; expected [", rows, ", ",
         features, "]");
  }
}

}  // namespace mmedge
