// TensorRT behind tensorrt_backend.h, with ONNX Runtime in its place: the "plan" is an ONNX file. Like TensorRT it
// reads and writes memory of the device, at the time the stream gets there.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <new>

#include "engine/tensorrt_backend.h"

namespace mmedge {
namespace {

constexpr size_t kScratch = 4096;

bool told(const char* variable, const std::string& tensor) {
  const char* name = std::getenv(variable);
  return name != nullptr && name == tensor;
}

class Context : public TensorrtContext {
 public:
  Context(const Graph& graph, void* scratch)
      : graph_(graph), execution_(graph.create_execution({})), scratch_(scratch) {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    launch_ = reinterpret_cast<decltype(launch_)>(dlsym(driver, "cuLaunchHostFunc"));
    for (const PortInfo& output : graph.outputs()) {
      tensors_[output.name].resize(output.type, std::span(output.shape).subspan(1));
    }
  }

  bool set_shape(const char* input, const int64_t* sizes, size_t rank) noexcept override {
    for (const PortInfo& port : graph_.inputs()) {
      if (port.name == input) tensors_[input].resize(port.type, std::span(sizes, rank).subspan(1));
    }
    return true;
  }

  bool has_shape(const char* output, const int64_t* sizes, size_t rank) noexcept override {
    return !told("MMEDGE_TEST_RESIZES", output) &&
           std::ranges::equal(tensors_.at(output).shape(), std::span(sizes, rank).subspan(1));
  }

  bool set_address(const char* tensor, void* memory) noexcept override {
    if (told("MMEDGE_TEST_REFUSES", tensor)) return false;
    addresses_[tensor] = memory;
    return true;
  }

  bool enqueue(CUstream_st* stream) noexcept override {
    launches_.push_back({this, addresses_});
    const auto run = [](void* data) {
      const auto& launch = *static_cast<Launch*>(data);
      launch.context->run(launch.addresses);
    };
    return launch_(stream, run, &launches_.back()) == 0;
  }

  void profile(std::vector<LayerTime>& times) noexcept override { times_ = &times; }

 private:
  using Addresses = std::map<std::string, void*>;
  struct Launch {
    Context* context;
    Addresses addresses;  // as they were: what is recorded of a stream keeps them
  };

  void run(const Addresses& addresses) {
    static_cast<char*>(scratch_)[kScratch - 1] = 1;
    for (size_t i = 0; i < graph_.inputs().size(); ++i) {
      const std::string& name = graph_.inputs()[i].name;
      Tensor& tensor = tensors_.at(name);
      std::memcpy(tensor.data(), addresses.at(name), tensor.bytes());
      execution_->bind_input(i, tensor);
    }
    for (size_t i = 0; i < graph_.outputs().size(); ++i) {
      execution_->bind_output(i, tensors_.at(graph_.outputs()[i].name));
    }
    execution_->run();
    for (const PortInfo& output : graph_.outputs()) {
      const Tensor& tensor = tensors_.at(output.name);
      std::memcpy(addresses.at(output.name), tensor.data(), tensor.bytes());
    }
    if (times_ != nullptr) times_->assign({{"first", 1000}, {"second", 2000}});
  }

  const Graph& graph_;
  std::unique_ptr<Execution> execution_;
  void* scratch_;
  std::map<std::string, Tensor> tensors_;
  Addresses addresses_;
  std::list<Launch> launches_;
  std::vector<LayerTime>* times_ = nullptr;
  int (*launch_)(CUstream_st*, void (*)(void*), void*) = nullptr;
};

class Engine : public TensorrtEngine {
 public:
  explicit Engine(const TensorrtPlan& plan)
      : graph_(load_onnxruntime({static_cast<const uint8_t*>(plan.bytes), plan.size},
                                {.provider = "cpu", .threads = 1, .arena = true, .flush_denormals = true})) {}

  const std::vector<PortInfo>& inputs() const noexcept override { return graph_->inputs(); }
  const std::vector<PortInfo>& outputs() const noexcept override { return graph_->outputs(); }
  size_t scratch_size() const noexcept override { return kScratch; }
  TensorrtContext* create_context(void* scratch) noexcept override {
    return new (std::nothrow) Context(*graph_, scratch);
  }
  std::string take_errors() noexcept override { return "no error"; }

 private:
  std::unique_ptr<Graph> graph_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) TensorrtEngine* mmedge_load_tensorrt_engine_2(
    void*, const TensorrtPlan& plan, std::string* errors) noexcept {
  try {
    return new Engine(plan);
  } catch (const std::exception& error) {
    *errors = error.what();
    return nullptr;
  }
}

}  // namespace mmedge
