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

// A tensor somebody else owns.
struct TensorView {
  ElementType type;
  void* data;
  size_t size;  // bytes
  std::vector<int64_t> shape;
};

// One caller's bound tensors. Used by one thread at a time.
class Execution {
 public:
  virtual ~Execution() = default;
  // The memory must stay where it is until it is bound anew.
  virtual void bind_input(size_t index, const TensorView& view) = 0;
  virtual void bind_output(size_t index, const TensorView& view) = 0;
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
  std::string library;  // path of libonnxruntime.so; empty: look for it
  int threads;
};

// Throws MME_ENGINE_UNAVAILABLE where no library from 1.23 on is found, MME_ENGINE_FAILED where it refuses the graph.
std::unique_ptr<Graph> load_onnxruntime(std::span<const uint8_t> graph, const OnnxRuntimeOptions& options);

}  // namespace mmedge
