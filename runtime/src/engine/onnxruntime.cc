// Graphs on ONNX Runtime's C API.
#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/floating_point_mode.h"
#include "engine/onnxruntime_library.h"
#include "engine/tensorrt_rtx_provider.h"
#include "error.h"
#include "kernels/instruction_set.h"
#include "onnxruntime_ops.h"

namespace mmedge {
namespace {

struct TypePair {
  ElementType ours;
  ONNXTensorElementDataType theirs;
};
constexpr TypePair kTypes[] = {{ElementType::kFloat32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
                               {ElementType::kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
                               {ElementType::kUint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
                               {ElementType::kInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
                               {ElementType::kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
                               {ElementType::kBool, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL}};

ElementType from_onnx(ONNXTensorElementDataType type) {
  const auto* found =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](auto& pair) { return pair.theirs == type; });
  return found == std::end(kTypes) ? ElementType::kOther : found->ours;
}

ONNXTensorElementDataType to_onnx(ElementType type) {
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes), [&](auto& pair) { return pair.ours == type; });
  return found == std::end(kTypes) ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED : found->theirs;
}

class OnnxRuntimeExecution : public Execution {
 public:
  // copies_inputs: the provider has memory of its own, to which ONNX Runtime copies an input when it is bound.
  OnnxRuntimeExecution(const OrtApi* api, OrtSession* session, bool flush_denormals, bool copies_inputs,
                       const std::vector<PortInfo>& inputs, const std::vector<PortInfo>& outputs)
      : api_(api), session_(session), flush_denormals_(flush_denormals), copies_inputs_(copies_inputs) {
    OrtMemoryInfo* memory = nullptr;
    check(api_, api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "describe host memory");
    memory_ = {memory, {api_->ReleaseMemoryInfo}};
    OrtIoBinding* binding = nullptr;
    check(api_, api_->CreateIoBinding(session_, &binding), "bind tensors");
    binding_ = {binding, {api_->ReleaseIoBinding}};
    for (const PortInfo& port : inputs) inputs_.emplace_back(api_, port.name.c_str());
    for (const PortInfo& port : outputs) outputs_.emplace_back(api_, port.name.c_str());
  }

  void bind_input(size_t index, Tensor& tensor) override {
    Bound& bound = inputs_[index];
    if (holds(bound, tensor)) return;
    point_at(bound, tensor);
    if (!copies_inputs_) bind(bound);
    bound.data = tensor.data();
  }

  void bind_output(size_t index, Tensor& tensor) override {
    Bound& bound = outputs_[index];
    if (holds(bound, tensor)) return;
    point_at(bound, tensor);
    check(api_, api_->BindOutput(binding_.get(), bound.name, bound.value.get()), "bind an output");
    bound.data = tensor.data();
  }

  void run() override {
    if (exiting()) fail(MME_ENGINE_FAILED, "the process is exiting; ONNX Runtime cannot run any more");
    // The engine's option reaches its own threads and the one the graph was loaded in, not every caller's.
    const FloatingPointMode mode(flush_denormals_);
    if (copies_inputs_) std::for_each(inputs_.begin(), inputs_.end(), [this](const Bound& bound) { bind(bound); });
    check(api_, api_->RunWithBinding(session_, nullptr, binding_.get()), "run the graph");
  }

 private:
  struct Bound {
    Bound(const OrtApi* api, const char* port) : name(port), value(nullptr, {api->ReleaseValue}) {}

    const char* name;
    Owned<OrtValue> value;
    const void* data = nullptr;                                // null until it is bound
    std::array<int64_t, Tensor::kMostDimensions + 1> shape{};  // with the batch dimension
    size_t rank = 0;
  };

  void bind(const Bound& input) {
    check(api_, api_->BindInput(binding_.get(), input.name, input.value.get()), "bind an input");
  }

  static bool holds(const Bound& bound, const Tensor& tensor) {
    const auto shape = tensor.shape();
    return bound.data == tensor.data() && bound.rank == shape.size() + 1 &&
           std::equal(shape.begin(), shape.end(), bound.shape.begin() + 1);
  }

  void point_at(Bound& bound, Tensor& tensor) {
    const auto shape = tensor.shape();
    bound.data = nullptr;
    bound.shape[0] = 1;
    std::copy(shape.begin(), shape.end(), bound.shape.begin() + 1);
    bound.rank = shape.size() + 1;
    OrtValue* value = nullptr;
    check(api_,
          api_->CreateTensorWithDataAsOrtValue(memory_.get(), tensor.data(), tensor.bytes(), bound.shape.data(),
                                               bound.rank, to_onnx(tensor.type()), &value),
          "describe a tensor");
    bound.value.reset(value);
  }

  const OrtApi* api_;
  OrtSession* session_;
  bool flush_denormals_, copies_inputs_;
  Owned<OrtMemoryInfo> memory_;
  Owned<OrtIoBinding> binding_;
  std::vector<Bound> inputs_, outputs_;
};

void require_provider(const OnnxRuntimeLibrary& library, const std::string& name) {
  char** providers = nullptr;
  int count = 0;
  check(library.api, library.api->GetAvailableProviders(&providers, &count), "list its providers");
  const std::vector<std::string> found(providers, providers + count);
  check(library.api, library.api->ReleaseAvailableProviders(providers, count), "list its providers");
  if (std::find(found.begin(), found.end(), name) != found.end()) return;
  std::string names;
  for (const std::string& other : found) names += (names.empty() ? "" : ", ") + other;
  fail(MME_ENGINE_UNAVAILABLE, library.description, " has no ", name, ", only ", names,
       "; install a build that has it (pip install onnxruntime-gpu), or ask for provider \"cpu\"");
}

// Null: none. In a graph of float16 alpha may be so, which the operator's is not.
RegisterOperators cuda_operators_for(const OnnxRuntimeOptions& options) {
  return options.provider == "cuda" && options.precision != "fp16" ? cuda_operators() : nullptr;
}

std::string describe(const OnnxRuntimeLibrary& library, const OnnxRuntimeOptions& options) {
  const char* operators = "";
  if (options.provider == "cuda") {
    operators = cuda_operators_for(options) != nullptr ? ", with mmedge's operators" : ", without mmedge's operators";
  }
  return concat(library.description, ", provider ", options.provider, operators);
}

class SessionOptions {
 public:
  SessionOptions(const OnnxRuntimeLibrary& library, const OnnxRuntimeOptions& options)
      : api_(library.api), options_(nullptr, {library.api->ReleaseSessionOptions}) {
    OrtSessionOptions* made = nullptr;
    check(api_, api_->CreateSessionOptions(&made), "make session options");
    options_.reset(made);
    check(api_, api_->SetIntraOpNumThreads(made, options.threads), "set the thread count");
    check(api_, api_->SetInterOpNumThreads(made, 1), "set the thread count");
    set("session.intra_op.allow_spinning", options.spinning ? "1" : "0");
    set("session.set_denormal_as_zero", options.flush_denormals ? "1" : "0");
    // Weights outside the graph would be taken from wherever the process happens to be, unchecked.
    set("session.model_external_initializers_file_folder_path", "/dev/null");
    if (!options.affinities.empty()) set("session.intra_op_thread_affinities", options.affinities.c_str());
    if (!options.arena) {
      check(api_, api_->DisableCpuMemArena(made), "leave out its arena");
      check(api_, api_->DisableMemPattern(made), "leave out its memory plan");
    }
    if (options.provider != "cpu") {
      append_provider(library, options);
    } else if (options.precision != "fp16") {  // what is not integer in an INT8 graph is float32
      register_mmedge_ops(api_, made);
      has_operators_ = true;
    }
  }

  OrtSessionOptions* get() const { return options_.get(); }
  bool has_operators() const { return has_operators_; }
  void set(const char* key, const char* value) {
    check(api_, api_->AddSessionConfigEntry(options_.get(), key, value), key);
  }

 private:
  void append_provider(const OnnxRuntimeLibrary& library, const OnnxRuntimeOptions& options) {
    const std::string device = concat(options.device);
    const char* key = "device_id";
    const char* value = device.c_str();
    // A node the provider lacks would otherwise run on the CPU, unsaid.
    set("session.disable_cpu_ep_fallback", "1");
    if (options.provider == "cuda") {
      if (const RegisterOperators register_operators = cuda_operators_for(options)) {
        check(api_, register_operators(options_.get(), library.base), "register mmedge's operators for CUDA");
        has_operators_ = true;
      }
      require_provider(library, "CUDAExecutionProvider");
      OrtCUDAProviderOptionsV2* cuda = nullptr;
      check(api_, api_->CreateCUDAProviderOptions(&cuda), "make CUDA options");
      const Owned<OrtCUDAProviderOptionsV2> owned{cuda, {api_->ReleaseCUDAProviderOptions}};
      check(api_, api_->UpdateCUDAProviderOptions(cuda, &key, &value, 1), "set CUDA options");
      check(api_, api_->SessionOptionsAppendExecutionProvider_CUDA_V2(options_.get(), cuda), "start CUDA");
    } else if (options.provider == "tensorrt") {
      require_provider(library, "TensorrtExecutionProvider");
      OrtTensorRTProviderOptionsV2* tensorrt = nullptr;
      check(api_, api_->CreateTensorRTProviderOptions(&tensorrt), "make TensorRT options");
      const Owned<OrtTensorRTProviderOptionsV2> owned{tensorrt, {api_->ReleaseTensorRTProviderOptions}};
      check(api_, api_->UpdateTensorRTProviderOptions(tensorrt, &key, &value, 1), "set TensorRT options");
      check(api_, api_->SessionOptionsAppendExecutionProvider_TensorRT_V2(options_.get(), tensorrt), "start TensorRT");
    } else if (options.provider == "tensorrt-rtx") {
      append_tensorrt_rtx(library, options_.get(), options.device);
    } else {
      fail(MME_INVALID_ARGUMENT, "options->provider is \"", options.provider,
           "\"; expected cpu, cuda, tensorrt or tensorrt-rtx");
    }
  }

  const OrtApi* api_;
  Owned<OrtSessionOptions> options_;
  bool has_operators_ = false;
};

class OnnxRuntimeGraph : public Graph {
 public:
  OnnxRuntimeGraph(const OnnxRuntimeLibrary& library, std::span<const uint8_t> bytes, const OnnxRuntimeOptions& options)
      : api_(library.api),
        description_(describe(library, options)),
        session_(nullptr, {library.api->ReleaseSession}),
        flush_denormals_(options.flush_denormals),
        on_cpu_(options.provider == "cpu") {
    if (exiting()) fail(MME_ENGINE_FAILED, "the process is exiting; ONNX Runtime cannot load a graph any more");
    if (options.cache.empty()) {
      create(library, bytes, SessionOptions(library, options));
    } else {
      create_cached(library, bytes, options);
    }
    read_ports(api_->SessionGetInputCount, api_->SessionGetInputName, api_->SessionGetInputTypeInfo, inputs_);
    read_ports(api_->SessionGetOutputCount, api_->SessionGetOutputName, api_->SessionGetOutputTypeInfo, outputs_);
  }

  const std::vector<PortInfo>& inputs() const override { return inputs_; }
  const std::vector<PortInfo>& outputs() const override { return outputs_; }
  const std::string& description() const override { return description_; }

  std::unique_ptr<Execution> create_execution(const ExecutionOptions& options) const override {
    if (options.stream != nullptr || options.profile_layers) {
      fail(MME_INVALID_ARGUMENT, "options->stream and profile_layers are for models of engine \"tensorrt\"");
    }
    return std::make_unique<OnnxRuntimeExecution>(api_, session_.get(), flush_denormals_, !on_cpu_, inputs_, outputs_);
  }

 private:
  void create(const OnnxRuntimeLibrary& library, std::span<const uint8_t> bytes, const SessionOptions& options) {
    // The first session with our operators names their domain in a table of the process, which has no lock of its own.
    static std::mutex mutex;
    static std::atomic<bool> named{false};
    std::unique_lock<std::mutex> lock;
    if (!named) lock = std::unique_lock(mutex);
    const FloatingPointMode mode(false);  // the engine would leave this thread's changed
    OrtSession* session = nullptr;
    check(api_, api_->CreateSessionFromArray(library.env, bytes.data(), bytes.size(), options.get(), &session),
          "load the graph");
    session_.reset(session);
    if (options.has_operators()) named = true;
  }

  // False where the cache has nothing that loads: a driver or a device may have changed under it.
  bool create_from(const GraphCache& cache, const OnnxRuntimeLibrary& library, const OnnxRuntimeOptions& options) {
    const auto kept = cache.load();
    if (!kept) return false;
    const SessionOptions warm(library, options);
    check(api_, api_->SetSessionGraphOptimizationLevel(warm.get(), ORT_DISABLE_ALL), "set the optimisation level");
    try {
      create(library, *kept, warm);
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  // The cache holds the optimised graph, or for TensorRT the compiled engine inside an EPContext node. Both are this
  // machine's and this library's own.
  void create_cached(const OnnxRuntimeLibrary& library, std::span<const uint8_t> bytes,
                     const OnnxRuntimeOptions& options) {
    const GraphCache cache(options.cache, concat(options.sha256.substr(0, 32), "-", library.version, "-mmedge",
                                                 MMEDGE_VERSION, "-", options.provider, options.device, "-",
                                                 instruction_set(), sums_bytes_in_16_bits() ? "-u8u8" : "",
                                                 cuda_operators_for(options) != nullptr ? "-fused" : ""));
    if (create_from(cache, library, options)) return;
    SessionOptions cold(library, options);
    if (options.provider.starts_with("tensorrt")) {
      cold.set("ep.context_enable", "1");
      cold.set("ep.context_embed_mode", "1");
      cold.set("ep.context_file_path", cache.scratch().c_str());
    } else {
      check(api_, api_->SetOptimizedModelFilePath(cold.get(), cache.scratch().c_str()), "name the cached graph");
    }
    try {
      create(library, bytes, cold);
    } catch (const Error&) {  // it may be the disk; what is wrong with the graph is so without the cache
      cache.drop();
      return create(library, bytes, SessionOptions(library, options));
    }
    cache.keep();
  }

  template <class Count, class Name, class Type>
  void read_ports(Count get_count, Name get_name, Type get_type, std::vector<PortInfo>& ports) {
    OrtAllocator* allocator = nullptr;
    check(api_, api_->GetAllocatorWithDefaultOptions(&allocator), "get an allocator");
    size_t count = 0;
    check(api_, get_count(session_.get(), &count), "count its ports");
    for (size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      check(api_, get_name(session_.get(), i, allocator, &name), "name its ports");
      PortInfo port{name, ElementType::kOther, {}};
      check(api_, api_->AllocatorFree(allocator, name), "free a name");
      OrtTypeInfo* type = nullptr;
      check(api_, get_type(session_.get(), i, &type), "describe its ports");
      const Owned<OrtTypeInfo> owned{type, {api_->ReleaseTypeInfo}};
      const OrtTensorTypeAndShapeInfo* tensor = nullptr;
      check(api_, api_->CastTypeInfoToTensorInfo(type, &tensor), "describe its ports");
      if (tensor != nullptr) {
        ONNXTensorElementDataType element{};
        size_t rank = 0;
        check(api_, api_->GetTensorElementType(tensor, &element), "describe its ports");
        check(api_, api_->GetDimensionsCount(tensor, &rank), "describe its ports");
        port.type = from_onnx(element);
        port.shape.resize(rank);
        check(api_, api_->GetDimensions(tensor, port.shape.data(), rank), "describe its ports");
      }
      ports.push_back(std::move(port));
    }
  }

  const OrtApi* api_;
  std::string description_;
  Owned<OrtSession> session_;
  bool flush_denormals_, on_cpu_;
  std::vector<PortInfo> inputs_, outputs_;
};

}  // namespace

std::unique_ptr<Graph> load_onnxruntime(std::span<const uint8_t> graph, const OnnxRuntimeOptions& options) {
  return std::make_unique<OnnxRuntimeGraph>(onnxruntime_library(options.library), graph, options);
}

}  // namespace mmedge
