// What a session needs of an inference engine: load a graph once, run it from many threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor.h"

namespace mmedge {

struct PortInfo {
  std::string name;
  ElementType type;
  std::vector<int64_t> shape;  // with the batch dimension; -1 varies
};

// One caller's bound tensors. Used by one thread at a time.
class Execution {
 public:
  virtual ~Execution() = default;
  // The port's shape is [1, *tensor.shape()]. The memory must stay where it is until it is bound anew; binding what is
  // bound already costs nothing.
  virtual void bind_input(size_t index, Tensor& tensor) = 0;
  virtual void bind_output(size_t index, Tensor& tensor) = 0;
  // Throws MME_ENGINE_FAILED.
  virtual void run() = 0;
};

// A loaded graph: immutable, shared by threads.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual const std::vector<PortInfo>& inputs() const = 0;
  virtual const std::vector<PortInfo>& outputs() const = 0;
  virtual std::unique_ptr<Execution> create_execution() const = 0;
  // Engine, version and where it was found.
  virtual const std::string& description() const = 0;
};

struct OnnxRuntimeOptions {
  std::string library;   // path of libonnxruntime.so; empty: look for it
  std::string provider;  // "cpu", "cuda" or "tensorrt"
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

}  // namespace mmedge
