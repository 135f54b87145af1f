// What a session needs of an inference engine: load a graph once, run it from many threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/image_to_tensor/image_to_tensor.h"
#include "tensor.h"

struct CUstream_st;

namespace mmedge {

struct PortInfo {
  std::string name;
  ElementType type;
  std::vector<int64_t> shape;  // with the batch dimension; -1 varies
};

struct LayerTime {
  std::string name;
  int64_t nanoseconds;
};

struct ExecutionOptions {
  CUstream_st* stream = nullptr;  // of CUDA, to run on; null: one of its own
  bool profile_layers = false;
};

// One caller's bound tensors. Used by one thread at a time.
class Execution {
 public:
  virtual ~Execution() = default;
  // The port's shape is [1, *tensor.shape()]. The memory must stay where it is until it is bound anew; binding what is
  // bound already costs nothing.
  virtual void bind_input(size_t index, Tensor& tensor) = 0;
  virtual void bind_output(size_t index, Tensor& tensor) = 0;
  // Memory of the device in the place of a tensor, until the input is bound anew; `shape` without the batch dimension.
  // Throws MME_INVALID_ARGUMENT where the engine takes none, or it is not the device's.
  virtual void bind_device_input(size_t index, const void* data, std::span<const int64_t> shape);
  // Whether convert_image() may be called.
  virtual bool converts_images() const { return false; }
  // Preprocesses a frame on the device to a tensor of this shape, in the place of one that is bound, until the input is
  // bound anew. The host's bytes have been read when it returns. The part of the frame that the tensor shows.
  virtual ImageArea convert_image(size_t index, const ImageToTensorSpec& spec, const ImageFrame& frame,
                                  std::span<const int64_t> shape);
  // The next run comes after what this stream of CUDA has now. Throws MME_INVALID_ARGUMENT where the engine has none.
  virtual void wait_for(CUstream_st* stream);
  // Where the device has an output since the last run; null where the engine computes in the host's memory.
  virtual const void* device_output(size_t) const { return nullptr; }
  // Of the last run, where they were asked for.
  virtual std::span<const LayerTime> layer_times() const { return {}; }
  // Throws MME_ENGINE_FAILED.
  virtual void run() = 0;
};

// A loaded graph: immutable, shared by threads.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual const std::vector<PortInfo>& inputs() const = 0;
  virtual const std::vector<PortInfo>& outputs() const = 0;
  // Throws MME_INVALID_ARGUMENT where the engine lacks an option.
  virtual std::unique_ptr<Execution> create_execution(const ExecutionOptions& options) const = 0;
  // Where the tensors that are bound should lie; null: anywhere.
  virtual HostMemory* host_memory() const { return nullptr; }
  // Engine, version and where it was found.
  virtual const std::string& description() const = 0;
};

struct OnnxRuntimeOptions {
  std::string library;   // path of libonnxruntime.so; empty: look for it
  std::string provider;  // "cpu", "cuda", "tensorrt" or "tensorrt-rtx"
  int device;
  int threads;
  std::string affinities;  // as mme_model_options has it
  bool arena, spinning, flush_denormals;
  std::string cache;      // a directory; empty: none
  std::string sha256;     // of the graph
  std::string precision;  // of the graph, as the manifest has it
};

// Throws MME_ENGINE_UNAVAILABLE where no library from 1.23 on is found or it lacks the provider, MME_ENGINE_FAILED
// where it refuses the graph, MME_INVALID_ARGUMENT on an option that cannot be.
std::unique_ptr<Graph> load_onnxruntime(std::span<const uint8_t> graph, const OnnxRuntimeOptions& options);

struct TensorrtOptions {
  std::string library;  // path of libnvinfer.so; empty: look for it
  int device;
  std::string engines;       // a file that mmedge build wrote, or the directory of such files; empty: the user's cache
  std::string graph_sha256;  // what the engine must have been built of
  std::string bundle;        // its path, for messages
};

// An engine that mmedge build compiled of a bundle's graph, on TensorRT. Throws MME_ENGINE_UNAVAILABLE where there is
// no TensorRT, backend of ours, driver, GPU or engine; MME_ENGINE_FAILED where the engine is of another GPU or
// TensorRT, is damaged, or is refused.
std::unique_ptr<Graph> load_tensorrt(const TensorrtOptions& options);

}  // namespace mmedge
