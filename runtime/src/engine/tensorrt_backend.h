// What libmmedge asks of TensorRT, in plain types.
//
// TensorRT's classes have another layout in each major version, so a library of ours speaks to one of them only:
// libmmedge_tensorrt10.so and libmmedge_tensorrt11.so are built from tensorrt.cc with the headers of each. They throw
// nothing and hand over no object of TensorRT's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"

struct CUstream_st;

namespace mmedge {

// One caller's state of an engine. Used by one thread at a time, in the device's context.
class TensorrtContext {
 public:
  virtual ~TensorrtContext() = default;
  // With the batch dimension. False on failure, here and below; here a size that the engine was not built for.
  virtual bool set_shape(const char* input, const int64_t* sizes, size_t rank) noexcept = 0;
  // Of an output, for the inputs' shapes: whether it is this, with the batch dimension.
  virtual bool has_shape(const char* output, const int64_t* sizes, size_t rank) noexcept = 0;
  virtual bool set_address(const char* tensor, void* memory) noexcept = 0;
  virtual bool enqueue(CUstream_st* stream) noexcept = 0;
  // From now on every enqueue() waits for the end and tells `times`, which outlives this, what each layer took.
  virtual void profile(std::vector<LayerTime>& times) noexcept = 0;
};

// An engine ready to run. Its contexts go before it.
class TensorrtEngine {
 public:
  virtual ~TensorrtEngine() = default;
  virtual const std::vector<PortInfo>& inputs() const noexcept = 0;
  virtual const std::vector<PortInfo>& outputs() const noexcept = 0;
  // Bytes that a context needs beside its tensors.
  virtual size_t scratch_size() const noexcept = 0;
  // `scratch`: memory of the device of that size, which contexts share that do not run at once. Null where it cannot be
  // made.
  virtual TensorrtContext* create_context(void* scratch) noexcept = 0;
  // What TensorRT said of errors since it was asked last.
  virtual std::string take_errors() noexcept = 0;
};

struct TensorrtPlan {
  const void* bytes;
  size_t size;
  bool version_compatible;  // it has code of its own, which must be allowed to run
  const char* plugin;       // a library of plugins to load first; null: none
};

// `library`: of TensorRT, as dlopen gave it. Null where the plan cannot be loaded; *errors says why.
using LoadTensorrtEngine = TensorrtEngine* (*)(void* library, const TensorrtPlan& plan, std::string* errors) noexcept;

// The name a backend gives it; another one for every change of what is above.
inline constexpr const char* kLoadTensorrtEngine = "mmedge_load_tensorrt_engine_2";

}  // namespace mmedge
