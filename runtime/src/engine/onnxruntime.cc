// ONNX Runtime, opened with dlopen so that libmmedge installs beside any build of it.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "engine/engine.h"
#include "error.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;

constexpr int kApiVersion = 23;  // the first that custom operators and plug-in providers are safe on

// Set when the process's exit handlers reach us. ONNX Runtime's own statics go right after, so from then on its
// objects are left to the operating system.
std::atomic<bool> exiting{false};

struct Library {
  const OrtApi* api;
  OrtEnv* env;
  std::string requested;  // what was asked for, and the file it was
  std::string file;
  std::string description;
};

// The Python package installed beside this library's own, as in SITE/mmedge/runtime and SITE/onnxruntime/capi.
std::string beside_this_library() {
  Dl_info self{};
  if (dladdr(reinterpret_cast<void*>(&beside_this_library), &self) == 0 || self.dli_fname == nullptr) return {};
  std::error_code error;
  const fs::path site = fs::path(self.dli_fname).parent_path().parent_path().parent_path();
  for (const auto& entry : fs::directory_iterator(site / "onnxruntime" / "capi", error)) {
    if (entry.path().filename().string().starts_with("libonnxruntime.so")) return entry.path().string();
  }
  return {};
}

std::string choose_library(const std::string& requested) {
  if (!requested.empty()) return requested;
  if (const char* path = std::getenv("MMEDGE_ONNXRUNTIME"); path != nullptr && *path != '\0') return path;
  const std::string found = beside_this_library();
  return found.empty() ? "libonnxruntime.so.1" : found;
}

Library open_library(const std::string& requested) {
  const std::string path = choose_library(requested);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, "ONNX Runtime was not found: ", dlerror(),
         "; install it (pip install onnxruntime) or set MMEDGE_ONNXRUNTIME to the path of libonnxruntime.so");
  }
  using GetApiBase = const OrtApiBase* (*)();
  const auto get_api_base = reinterpret_cast<GetApiBase>(dlsym(handle, "OrtGetApiBase"));
  if (get_api_base == nullptr) fail(MME_ENGINE_UNAVAILABLE, path, " is not ONNX Runtime: it has no OrtGetApiBase");
  const OrtApiBase* base = get_api_base();
  const std::string version = base->GetVersionString();
  // An older library prints to stderr when asked for an interface it lacks, so look at its number first.
  const bool old = version.starts_with("0.") ||
                   (version.starts_with("1.") && std::strtol(version.c_str() + 2, nullptr, 10) < kApiVersion);
  const OrtApi* api = old ? nullptr : base->GetApi(kApiVersion);
  if (api == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, "found ONNX Runtime ", version, " at ", path, "; mmedge needs 1.", kApiVersion,
         " or newer (pip install -U onnxruntime)");
  }
  OrtEnv* env = nullptr;
  if (const OrtStatus* status = api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "mmedge", &env)) {
    fail(MME_ENGINE_UNAVAILABLE, "ONNX Runtime at ", path, " did not start: ", api->GetErrorMessage(status));
  }
  Dl_info where{};
  const bool known = dladdr(reinterpret_cast<const void*>(get_api_base), &where) != 0;
  const std::string file = fs::weakly_canonical(known ? where.dli_fname : path).string();
  std::atexit([] { exiting.store(true); });
  return {api, env, requested, file, concat("ONNX Runtime ", version, " (", file, ")")};
}

// One library a process: the first that is asked for and loads. It is never closed.
const Library& library(const std::string& requested) {
  static std::mutex mutex;
  static const Library* opened = nullptr;
  const std::scoped_lock lock(mutex);
  if (opened == nullptr) {
    opened = new Library(open_library(requested));
  } else if (!requested.empty() && requested != opened->requested && fs::weakly_canonical(requested) != opened->file) {
    fail(MME_ENGINE_UNAVAILABLE, "this process already runs ", opened->description, "; it cannot also load ",
         requested);
  }
  return *opened;
}

void check(const OrtApi* api, OrtStatus* status, const char* doing) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  fail(MME_ENGINE_FAILED, "ONNX Runtime failed to ", doing, ": ", message);
}

template <class T>
struct Release {
  void (*release)(T*);
  void operator()(T* object) const {
    if (!exiting.load()) release(object);
  }
};
template <class T>
using Owned = std::unique_ptr<T, Release<T>>;

ElementType element_type(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return ElementType::kFloat32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
      return ElementType::kBool;
    default:
      return ElementType::kOther;
  }
}

class OnnxRuntimeExecution : public Execution {
 public:
  OnnxRuntimeExecution(const OrtApi* api, OrtSession* session, const std::vector<PortInfo>& inputs,
                       const std::vector<PortInfo>& outputs)
      : api_(api), session_(session) {
    OrtMemoryInfo* memory = nullptr;
    check(api_, api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "describe host memory");
    memory_ = {memory, {api_->ReleaseMemoryInfo}};
    for (const PortInfo& port : inputs) input_names_.push_back(port.name.c_str());
    for (const PortInfo& port : outputs) output_names_.push_back(port.name.c_str());
    for (size_t i = 0; i < inputs.size(); ++i) inputs_.emplace_back(nullptr, Release<OrtValue>{api_->ReleaseValue});
    for (size_t i = 0; i < outputs.size(); ++i) outputs_.emplace_back(nullptr, Release<OrtValue>{api_->ReleaseValue});
    raw_inputs_.resize(inputs.size());
    raw_outputs_.resize(outputs.size());
  }

  void bind_input(size_t index, const TensorView& view) override { bind(inputs_[index], raw_inputs_[index], view); }
  void bind_output(size_t index, const TensorView& view) override { bind(outputs_[index], raw_outputs_[index], view); }

  void run() override {
    if (exiting.load()) fail(MME_ENGINE_FAILED, "the process is exiting; ONNX Runtime cannot run any more");
    check(api_,
          api_->Run(session_, nullptr, input_names_.data(), raw_inputs_.data(), raw_inputs_.size(),
                    output_names_.data(), raw_outputs_.size(), raw_outputs_.data()),
          "run the graph");
  }

 private:
  template <class Raw>
  void bind(Owned<OrtValue>& owned, Raw& raw, const TensorView& view) {
    const auto type =
        view.type == ElementType::kBool ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    OrtValue* value = nullptr;
    check(api_,
          api_->CreateTensorWithDataAsOrtValue(memory_.get(), view.data, view.size, view.shape.data(),
                                               view.shape.size(), type, &value),
          "bind a tensor");
    owned.reset(value);
    raw = value;
  }

  const OrtApi* api_;
  OrtSession* session_;
  Owned<OrtMemoryInfo> memory_;
  std::vector<const char*> input_names_, output_names_;
  std::vector<Owned<OrtValue>> inputs_, outputs_;
  std::vector<const OrtValue*> raw_inputs_;
  std::vector<OrtValue*> raw_outputs_;
};

class OnnxRuntimeGraph : public Graph {
 public:
  OnnxRuntimeGraph(const Library& library, std::span<const uint8_t> bytes, int threads)
      : api_(library.api), description_(library.description) {
    if (exiting.load()) fail(MME_ENGINE_FAILED, "the process is exiting; ONNX Runtime cannot load a graph any more");
    OrtSessionOptions* raw_options = nullptr;
    check(api_, api_->CreateSessionOptions(&raw_options), "make session options");
    const Owned<OrtSessionOptions> options{raw_options, {api_->ReleaseSessionOptions}};
    check(api_, api_->SetIntraOpNumThreads(raw_options, threads), "set the thread count");
    check(api_, api_->SetInterOpNumThreads(raw_options, 1), "set the thread count");
    check(api_, api_->AddSessionConfigEntry(raw_options, "session.set_denormal_as_zero", "1"), "flush denormals");
    OrtSession* session = nullptr;
    check(api_, api_->CreateSessionFromArray(library.env, bytes.data(), bytes.size(), raw_options, &session),
          "load the graph");
    session_ = {session, {api_->ReleaseSession}};
    read_ports(api_->SessionGetInputCount, api_->SessionGetInputName, api_->SessionGetInputTypeInfo, inputs_);
    read_ports(api_->SessionGetOutputCount, api_->SessionGetOutputName, api_->SessionGetOutputTypeInfo, outputs_);
  }

  const std::vector<PortInfo>& inputs() const override { return inputs_; }
  const std::vector<PortInfo>& outputs() const override { return outputs_; }
  const std::string& description() const override { return description_; }

  std::unique_ptr<Execution> create_execution() const override {
    return std::make_unique<OnnxRuntimeExecution>(api_, session_.get(), inputs_, outputs_);
  }

 private:
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
        port.type = element_type(element);
        port.shape.resize(rank);
        check(api_, api_->GetDimensions(tensor, port.shape.data(), rank), "describe its ports");
      }
      ports.push_back(std::move(port));
    }
  }

  const OrtApi* api_;
  std::string description_;
  Owned<OrtSession> session_;
  std::vector<PortInfo> inputs_, outputs_;
};

}  // namespace

std::unique_ptr<Graph> load_onnxruntime(std::span<const uint8_t> graph, const OnnxRuntimeOptions& options) {
  return std::make_unique<OnnxRuntimeGraph>(library(options.library), graph, options.threads);
}

}  // namespace mmedge
