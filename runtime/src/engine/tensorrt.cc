// A backend of tensorrt_backend.h, for the major version of TensorRT whose headers it is compiled with. It links
// nothing of TensorRT: its functions come from the library that libmmedge has opened.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "engine/tensorrt_backend.h"

namespace mmedge {
namespace {

ElementType from_tensorrt(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return ElementType::kFloat32;
    case nvinfer1::DataType::kHALF:
      return ElementType::kFloat16;
    case nvinfer1::DataType::kINT8:
      return ElementType::kInt8;
    case nvinfer1::DataType::kUINT8:
      return ElementType::kUint8;
    case nvinfer1::DataType::kINT32:
      return ElementType::kInt32;
    case nvinfer1::DataType::kBOOL:
      return ElementType::kBool;
    default:
      return ElementType::kOther;
  }
}

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::scoped_lock lock(mutex_);
      errors_ += errors_.empty() ? message : std::string("; ") + message;
    } catch (...) {  // NOLINT(bugprone-empty-catch): no memory for the message
    }
  }

  std::string take() noexcept {
    const std::scoped_lock lock(mutex_);
    return std::exchange(errors_, {});
  }

 private:
  std::mutex mutex_;
  std::string errors_;
};

class Profiler : public nvinfer1::IProfiler {
 public:
  explicit Profiler(std::vector<LayerTime>& times) : times_(times) {}

  // TensorRT tells the layers of a run in their order.
  void reportLayerTime(const char* name, float milliseconds) noexcept override {
    try {
      times_.push_back({name, static_cast<int64_t>(milliseconds * 1e6F)});
    } catch (...) {  // NOLINT(bugprone-empty-catch): no memory for the name
    }
  }

 private:
  std::vector<LayerTime>& times_;
};

class Context : public TensorrtContext {
 public:
  explicit Context(std::unique_ptr<nvinfer1::IExecutionContext> context) : context_(std::move(context)) {}

  bool set_shape(const char* input, const int64_t* sizes, size_t rank) noexcept override {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(rank);
    if (rank > std::size(dims.d)) return false;
    std::copy_n(sizes, rank, dims.d);
    return context_->setInputShape(input, dims);
  }

  bool has_shape(const char* output, const int64_t* sizes, size_t rank) noexcept override {
    const nvinfer1::Dims dims = context_->getTensorShape(output);
    return std::equal(sizes, sizes + rank, dims.d, dims.d + std::max(dims.nbDims, 0));  // -1 of no such output
  }

  bool set_address(const char* tensor, void* memory) noexcept override {
    return context_->setTensorAddress(tensor, memory);
  }

  bool enqueue(CUstream_st* stream) noexcept override { return context_->enqueueV3(stream); }

  void profile(std::vector<LayerTime>& times) noexcept override {
    profiler_ = std::make_unique<Profiler>(times);
    context_->setProfiler(profiler_.get());
  }

 private:
  std::unique_ptr<Profiler> profiler_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

class Engine : public TensorrtEngine {
 public:
  Engine(void* library, const TensorrtPlan& plan) {
    using Create = void* (*)(void* logger, int32_t version);
    const auto create = reinterpret_cast<Create>(dlsym(library, "createInferRuntime_INTERNAL"));
    if (create == nullptr) return;
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(create(&logger_, NV_TENSORRT_VERSION)));
    if (runtime_ == nullptr) return;
    if (plan.version_compatible) runtime_->setEngineHostCodeAllowed(true);
    if (plan.plugin != nullptr && runtime_->getPluginRegistry().loadLibrary(plan.plugin) == nullptr) return;
    engine_.reset(runtime_->deserializeCudaEngine(plan.bytes, plan.size));
    if (engine_ == nullptr) return;
    for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      const nvinfer1::Dims dims = engine_->getTensorShape(name);
      const bool input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      (input ? inputs_ : outputs_)
          .push_back({name, from_tensorrt(engine_->getTensorDataType(name)), {dims.d, dims.d + dims.nbDims}});
    }
  }

  bool loaded() const { return engine_ != nullptr; }
  const std::vector<PortInfo>& inputs() const noexcept override { return inputs_; }
  const std::vector<PortInfo>& outputs() const noexcept override { return outputs_; }
  std::string take_errors() noexcept override { return logger_.take(); }

  size_t scratch_size() const noexcept override { return static_cast<size_t>(engine_->getDeviceMemorySizeV2()); }

  TensorrtContext* create_context(void* scratch) noexcept override {
    const std::scoped_lock lock(mutex_);  // sessions make theirs at any time
    std::unique_ptr<nvinfer1::IExecutionContext> context(
        engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    if (context == nullptr) return nullptr;
    context->setDeviceMemoryV2(scratch, engine_->getDeviceMemorySizeV2());
    return new (std::nothrow) Context(std::move(context));
  }

 private:
  std::mutex mutex_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<PortInfo> inputs_, outputs_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) TensorrtEngine* mmedge_load_tensorrt_engine_2(
    void* library, const TensorrtPlan& plan, std::string* errors) noexcept {
  try {
    auto engine = std::make_unique<Engine>(library, plan);
    if (engine->loaded()) return engine.release();
    *errors = engine->take_errors();
  } catch (const std::exception& error) {
    *errors = error.what();
  }
  return nullptr;
}

}  // namespace mmedge
