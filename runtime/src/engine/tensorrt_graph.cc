// Graphs on TensorRT: an engine from mmedge build, its tensors on the device, and a CUDA graph of every shape.
#include <algorithm>
#include <list>
#include <tuple>

#include "engine/cuda_driver.h"
#include "engine/device_image.h"
#include "engine/engine.h"
#include "engine/engine_store.h"
#include "engine/exiting.h"
#include "engine/tensorrt_library.h"
#include "error.h"

namespace mmedge {
namespace {

constexpr size_t kMostVariants = 16, kMostRecordings = 8;
constexpr size_t kAlignment = 256;  // of the addresses that TensorRT takes

// What a port is bound to: a tensor of the host, or the caller's own device memory.
struct Binding {
  Tensor* tensor = nullptr;
  const void* data = nullptr;
  std::vector<int64_t> shape;       // with the batch dimension
  DevicePointer address = nullptr;  // what the engine is told
  bool copied = false;              // between the tensor and a buffer of ours, in each run
};

// A run at these addresses, of the engine's tensors and of the host's.
struct Recording {
  std::vector<const void*> addresses;
  bool ran = false;
  std::unique_ptr<CudaGraph> graph;
};

// The state for one set of input shapes: what a context has recorded of a stream is of the shapes it had then.
struct Variant {
  std::vector<int64_t> shapes;  // of all inputs, one after the other
  std::unique_ptr<TensorrtContext> context;
  std::vector<const void*> told;  // addresses, as in the last recording that was chosen; empty where not all were taken
  std::list<Recording> recordings;  // used last first
};

// The element that `is_it` finds, or else one that `make` makes, moved to the front of a list of at most so many.
template <class Element, class IsIt, class Make>
Element& bring_to_front(std::list<Element>& list, size_t most, IsIt is_it, Make make) {
  const auto found = std::find_if(list.begin(), list.end(), is_it);
  if (found != list.end()) {
    list.splice(list.begin(), list, found);
  } else {
    list.push_front(make());
    if (list.size() > most) list.pop_back();
  }
  return list.front();
}

class TensorrtExecution : public Execution {
 public:
  // Inside a CudaScope of the device.
  TensorrtExecution(const CudaDevice& device, TensorrtEngine& engine, MakeDeviceImageConversion make_image_conversion,
                    const ExecutionOptions& options)
      : device_(device),
        engine_(engine),
        make_image_conversion_(make_image_conversion),
        stream_(device, options.stream),
        scratch_(device),
        inputs_(engine.inputs().size()),
        outputs_(engine.outputs().size()),
        images_(engine.inputs().size()),
        records_(!options.profile_layers),
        profiles_(options.profile_layers) {
    scratch_.reserve(engine.scratch_size());
    for (size_t i = 0; i < inputs_.size() + outputs_.size(); ++i) buffers_.emplace_back(device);
  }

  TensorrtExecution(const TensorrtExecution&) = delete;
  TensorrtExecution& operator=(const TensorrtExecution&) = delete;

  ~TensorrtExecution() override {
    if (exiting()) {
      for (Variant& variant : variants_) std::ignore = variant.context.release();
      return;
    }
    const CudaScope scope(device_);
    stream_.drain();  // a frame that was set and never run may still be converted
    variants_.clear();
  }

  void bind_input(size_t index, Tensor& tensor) override { bind(inputs_[index], buffers_[index], tensor); }

  void bind_output(size_t index, Tensor& tensor) override {
    bind(outputs_[index], buffers_[inputs_.size() + index], tensor);
  }

  void bind_device_input(size_t index, const void* data, std::span<const int64_t> shape) override {
    const CudaScope scope(device_);
    if (!is_memory_of(device_, data)) {
      fail(MME_INVALID_ARGUMENT, "the tensor's data is not memory of GPU ", device_.number(), " (", device_.name(),
           ")");
    }
    if (reinterpret_cast<uintptr_t>(data) % kAlignment != 0) {
      fail(MME_INVALID_ARGUMENT, "the tensor's data begins at ", data,
           "; TensorRT takes addresses that are a multiple of ", kAlignment, " bytes: copy it to memory of its own");
    }
    bind_address(index, data, static_cast<DevicePointer>(const_cast<void*>(data)), shape);  // it is only read
  }

  bool converts_images() const override { return make_image_conversion_ != nullptr; }

  ImageArea convert_image(size_t index, const ImageToTensorSpec& spec, const ImageFrame& frame,
                          std::span<const int64_t> shape) override {
    const CudaScope scope(device_);
    size_t bytes = element_size(engine_.inputs()[index].type);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    buffers_[index].reserve(bytes);
    std::unique_ptr<DeviceImage>& image = images_[index];
    if (image == nullptr) image = std::make_unique<DeviceImage>(device_, make_image_conversion_);
    const ImageArea area = image->convert(spec, frame, buffers_[index].get(), stream_);
    bind_address(index, nullptr, buffers_[index].get(), shape);
    return area;
  }

  void wait_for(CUstream_st* stream) override {
    const CudaScope scope(device_);
    stream_.wait_for(stream);
  }

  const void* device_output(size_t index) const override { return outputs_[index].address; }
  std::span<const LayerTime> layer_times() const override { return layer_times_; }

  void run() override {
    if (exiting()) fail(MME_ENGINE_FAILED, "the process is exiting; TensorRT cannot run any more");
    const CudaScope scope(device_);
    layer_times_.clear();
    if (changed_) choose_variant();
    if (recording_->graph != nullptr) {
      stream_.launch(*recording_->graph);
    } else if (!records_ || !recording_->ran || !record()) {
      enqueue();
    }
    stream_.synchronize();
    recording_->ran = true;
  }

 private:
  static bool is_batched(std::span<const int64_t> batched, std::span<const int64_t> shape) {
    return !batched.empty() && std::ranges::equal(batched.subspan(1), shape);
  }

  void bind(Binding& binding, DeviceBuffer& buffer, Tensor& tensor) {
    if (binding.tensor == &tensor && binding.data == tensor.data() && is_batched(binding.shape, tensor.shape())) return;
    const CudaScope scope(device_);
    // On a GPU with memory of its own reading the host's over the bus would be slower than copying.
    const bool copied = !device_.integrated();
    if (copied) buffer.reserve(tensor.bytes());
    rebind(binding, &tensor, tensor.data(), copied ? buffer.get() : device_address(tensor.data()), copied,
           tensor.shape());
  }

  void bind_address(size_t index, const void* data, DevicePointer address, std::span<const int64_t> shape) {
    Binding& input = inputs_[index];
    if (input.tensor == nullptr && input.data == data && input.address == address && is_batched(input.shape, shape)) {
      return;
    }
    rebind(input, nullptr, data, address, false, shape);
  }

  void rebind(Binding& binding, Tensor* tensor, const void* data, DevicePointer address, bool copied,
              std::span<const int64_t> shape) {
    binding.tensor = tensor;
    binding.data = data;
    binding.address = address;
    binding.copied = copied;
    binding.shape.assign(1, 1);
    binding.shape.insert(binding.shape.end(), shape.begin(), shape.end());
    changed_ = true;
  }

  // The context for what is bound now, told of it.
  void choose_variant() {
    shapes_.clear();
    addresses_.clear();
    for (const Binding& input : inputs_) shapes_.insert(shapes_.end(), input.shape.begin(), input.shape.end());
    for (const auto* bindings : {&inputs_, &outputs_}) {
      for (const Binding& binding : *bindings) {
        addresses_.push_back(binding.address);
        addresses_.push_back(binding.data);
      }
    }
    variant_ = &bring_to_front(
        variants_, kMostVariants, [this](const Variant& known) { return known.shapes == shapes_; },
        [this] { return make_variant(); });
    if (variant_->told != addresses_) {
      variant_->told.clear();  // should one of them be refused
      tell_addresses();
      variant_->told = addresses_;
    }
    recording_ = &bring_to_front(
        variant_->recordings, kMostRecordings, [this](const Recording& known) { return known.addresses == addresses_; },
        [this] { return Recording{addresses_, false, nullptr}; });
    changed_ = false;
  }

  Variant make_variant() {
    Variant variant;
    variant.context.reset(engine_.create_context(scratch_.get()));
    if (variant.context == nullptr) refuse("make a context");
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const std::string& name = engine_.inputs()[i].name;
      if (!variant.context->set_shape(name.c_str(), inputs_[i].shape.data(), inputs_[i].shape.size())) {
        refuse("take the size of input \"", name, "\", which the engine was not built for");
      }
    }
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const std::string& name = engine_.outputs()[i].name;
      if (!variant.context->has_shape(name.c_str(), outputs_[i].shape.data(), outputs_[i].shape.size())) {
        fail(MME_ENGINE_FAILED, "the engine gives output \"", name,
             "\" another size than the bundle says; build it anew");
      }
    }
    if (profiles_) variant.context->profile(layer_times_);
    variant.shapes = shapes_;
    return variant;
  }

  void tell_addresses() {
    const auto tell = [this](const PortInfo& port, const Binding& binding) {
      if (!variant_->context->set_address(port.name.c_str(), binding.address)) {
        refuse("take the address of \"", port.name, "\"");
      }
    };
    for (size_t i = 0; i < inputs_.size(); ++i) tell(engine_.inputs()[i], inputs_[i]);
    for (size_t i = 0; i < outputs_.size(); ++i) tell(engine_.outputs()[i], outputs_[i]);
  }

  void enqueue() {
    for (const Binding& input : inputs_) {
      if (input.copied) stream_.copy_to_device(input.address, input.data, input.tensor->bytes());
    }
    if (!variant_->context->enqueue(stream_.get())) refuse("run the graph");
    for (const Binding& output : outputs_) {
      if (output.copied) stream_.copy_to_host(output.tensor->data(), output.address, output.tensor->bytes());
    }
  }

  // Whether the run was recorded, and launched. TensorRT wants one run at the same shapes first.
  bool record() {
    if (!stream_.begin_capture()) {
      records_ = false;  // nor will it be recorded later
      return false;
    }
    try {
      enqueue();
    } catch (const Error&) {
      stream_.end_capture();
      records_ = false;
      return false;  // if there is more to it than recording, the run that follows says so
    } catch (...) {  // a lack of memory, which may pass
      stream_.end_capture();
      throw;
    }
    recording_->graph = stream_.end_capture();
    records_ = recording_->graph != nullptr;
    if (records_) stream_.launch(*recording_->graph);
    return records_;
  }

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... doing) {
    fail(MME_ENGINE_FAILED, "TensorRT failed to ", doing..., ": ", engine_.take_errors());
  }

  const CudaDevice& device_;
  TensorrtEngine& engine_;
  MakeDeviceImageConversion make_image_conversion_;  // null: the CPU does it
  CudaStream stream_;
  DeviceBuffer scratch_;
  std::vector<Binding> inputs_, outputs_;
  std::vector<DeviceBuffer> buffers_;                 // of the inputs, then of the outputs
  std::vector<std::unique_ptr<DeviceImage>> images_;  // of the inputs that frames were converted for
  std::vector<LayerTime> layer_times_;
  std::list<Variant> variants_;  // used last first
  Variant* variant_ = nullptr;
  Recording* recording_ = nullptr;
  std::vector<int64_t> shapes_;         // of what is bound,
  std::vector<const void*> addresses_;  // and where
  bool changed_ = true;                 // something was bound since the last run
  bool records_, profiles_;
};

class TensorrtGraph : public Graph {
 public:
  TensorrtGraph(const CudaDevice& device, const TensorrtLibrary& library, const StoredEngine& stored)
      : device_(device),
        memory_(device),
        images_([&device] {
          const CudaScope scope(device);
          return device_image_conversion();
        }()),
        description_(concat(library.description, ", ", stored.path.filename().string(), " on ", device.name(),
                            ", images converted by the ", images_.make ? "GPU" : "CPU: " + images_.fault)) {
    const LoadTensorrtEngine load = tensorrt_backend(library);
    const std::string plugin = stored.plugin ? tensorrt_plugin() : "";
    std::string errors;
    const CudaScope scope(device);
    engine_.reset(load(library.handle,
                       {stored.bytes.data(), stored.bytes.size(), stored.version_compatible,
                        plugin.empty() ? nullptr : plugin.c_str()},
                       &errors));
    if (engine_ == nullptr) {
      fail(MME_ENGINE_FAILED, library.description, " refuses ", stored.path.string(), ": ",
           errors.empty() ? "it does not say why" : errors);
    }
  }

  TensorrtGraph(const TensorrtGraph&) = delete;
  TensorrtGraph& operator=(const TensorrtGraph&) = delete;

  ~TensorrtGraph() override {
    if (exiting()) {
      std::ignore = engine_.release();
      return;
    }
    const CudaScope scope(device_);
    engine_.reset();
  }

  const std::vector<PortInfo>& inputs() const override { return engine_->inputs(); }
  const std::vector<PortInfo>& outputs() const override { return engine_->outputs(); }
  const std::string& description() const override { return description_; }
  HostMemory* host_memory() const override { return &memory_; }

  std::unique_ptr<Execution> create_execution(const ExecutionOptions& options) const override {
    if (exiting()) fail(MME_ENGINE_FAILED, "the process is exiting; TensorRT cannot run any more");
    const CudaScope scope(device_);
    return std::make_unique<TensorrtExecution>(device_, *engine_, images_.make, options);
  }

 private:
  const CudaDevice& device_;
  mutable PinnedMemory memory_;
  DeviceImageLibrary images_;
  std::string description_;
  std::unique_ptr<TensorrtEngine> engine_;
};

}  // namespace

std::unique_ptr<Graph> load_tensorrt(const TensorrtOptions& options) {
  const TensorrtLibrary& library = tensorrt_library(options.library);
  const CudaDevice& device = [&]() -> const CudaDevice& {
    try {
      return CudaDevice::get(options.device);
    } catch (const Error& error) {
      fail(error.status(), "found ", library.description, ", but ", error.what());
    }
  }();
  const StoredEngine stored =
      find_engine(options.engines, options.graph_sha256, {library.version, device.compute_capability(), device.model()},
                  options.bundle);
  return std::make_unique<TensorrtGraph>(device, library, stored);
}

}  // namespace mmedge
