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

constexpr size_t kMostVariants = 16;

// What a port is bound to: a tensor of the host, or the caller's own device memory.
struct Binding {
  Tensor* tensor = nullptr;
  const void* data = nullptr;
  std::vector<int64_t> shape;       // with the batch dimension
  DevicePointer address = nullptr;  // what the engine is told
  bool copied = false;              // between the tensor and a buffer of ours, in each run
};

// The state for one set of input shapes: what a context has recorded of a stream is of the shapes it had then.
struct Variant {
  std::vector<std::vector<int64_t>> shapes;
  std::unique_ptr<TensorrtContext> context;
  std::vector<const void*> addresses;  // that the context was told, and where the host's tensors lie
  bool ran = false;                    // at those
  std::unique_ptr<CudaGraph> graph;    // of a run at those
};

class TensorrtExecution : public Execution {
 public:
  // Inside a CudaScope of the device.
  TensorrtExecution(const CudaDevice& device, TensorrtEngine& engine, const ExecutionOptions& options)
      : device_(device),
        engine_(engine),
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
    bind_address(index, data, static_cast<DevicePointer>(const_cast<void*>(data)), shape);  // it is only read
  }

  bool converts_images() const override { return device_image_conversion() != nullptr; }

  ImageArea convert_image(size_t index, const ImageToTensorSpec& spec, const ImageFrame& frame,
                          std::span<const int64_t> shape) override {
    const CudaScope scope(device_);
    size_t bytes = element_size(engine_.inputs()[index].type);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    buffers_[index].reserve(bytes);
    std::unique_ptr<DeviceImage>& image = images_[index];
    if (image == nullptr) image = std::make_unique<DeviceImage>(device_, device_image_conversion());
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
    if (variant_->graph != nullptr) {
      stream_.launch(*variant_->graph);
    } else if (!records_ || !variant_->ran || !record()) {
      enqueue();
    }
    stream_.synchronize();
    variant_->ran = true;
  }

 private:
  static std::vector<int64_t> batched(std::span<const int64_t> shape) {
    std::vector<int64_t> result{1};
    result.insert(result.end(), shape.begin(), shape.end());
    return result;
  }

  void bind(Binding& binding, DeviceBuffer& buffer, Tensor& tensor) {
    const auto shape = tensor.shape();
    if (binding.tensor == &tensor && binding.data == tensor.data() && binding.shape.size() == shape.size() + 1 &&
        std::equal(shape.begin(), shape.end(), binding.shape.begin() + 1)) {
      return;
    }
    const CudaScope scope(device_);
    // On a GPU with memory of its own reading the host's over the bus would be slower than copying.
    const bool copied = !device_.integrated();
    if (copied) buffer.reserve(tensor.bytes());
    binding = {&tensor, tensor.data(), batched(shape), copied ? buffer.get() : device_address(tensor.data()), copied};
    changed_ = true;
  }

  void bind_address(size_t index, const void* data, DevicePointer address, std::span<const int64_t> shape) {
    Binding& input = inputs_[index];
    if (input.tensor == nullptr && input.data == data && input.address == address && !input.shape.empty() &&
        std::ranges::equal(shape, std::span(input.shape).subspan(1))) {
      return;
    }
    input = {nullptr, data, batched(shape), address, false};
    changed_ = true;
  }

  // The context for what is bound now, told of it.
  void choose_variant() {
    std::vector<std::vector<int64_t>> shapes;
    std::vector<const void*> addresses;
    shapes.reserve(inputs_.size());
    addresses.reserve(2 * (inputs_.size() + outputs_.size()));
    for (const Binding& input : inputs_) shapes.push_back(input.shape);
    for (const auto* bindings : {&inputs_, &outputs_}) {
      for (const Binding& binding : *bindings) {
        addresses.push_back(binding.address);
        addresses.push_back(binding.data);
      }
    }
    auto found =
        std::find_if(variants_.begin(), variants_.end(), [&](const Variant& known) { return known.shapes == shapes; });
    if (found == variants_.end()) {
      if (variants_.size() == kMostVariants) variants_.pop_back();
      variants_.push_front(make_variant(std::move(shapes)));
      found = variants_.begin();
    }
    variants_.splice(variants_.begin(), variants_, found);
    variant_ = &variants_.front();
    if (variant_->addresses != addresses) {
      variant_->graph.reset();
      variant_->ran = false;
      tell_addresses();
      variant_->addresses = std::move(addresses);
    }
    changed_ = false;
  }

  Variant make_variant(std::vector<std::vector<int64_t>> shapes) {
    Variant variant;
    variant.context.reset(engine_.create_context(scratch_.get()));
    if (variant.context == nullptr) refuse("make a context");
    for (size_t i = 0; i < shapes.size(); ++i) {
      const std::string& name = engine_.inputs()[i].name;
      if (!variant.context->set_shape(name.c_str(), shapes[i].data(), shapes[i].size())) {
        refuse("take the size of input \"", name, "\", which the engine was not built for");
      }
    }
    if (profiles_) variant.context->profile(layer_times_);
    variant.shapes = std::move(shapes);
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
    records_ = false;  // what cannot be recorded once will not be later
    if (!stream_.begin_capture()) return false;
    try {
      enqueue();
    } catch (const Error&) {
      stream_.end_capture();
      return false;
    }
    variant_->graph = stream_.end_capture();
    if (variant_->graph == nullptr) return false;
    records_ = true;
    stream_.launch(*variant_->graph);
    return true;
  }

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... doing) {
    fail(MME_ENGINE_FAILED, "TensorRT failed to ", doing..., ": ", engine_.take_errors());
  }

  const CudaDevice& device_;
  TensorrtEngine& engine_;
  CudaStream stream_;
  DeviceBuffer scratch_;
  std::vector<Binding> inputs_, outputs_;
  std::vector<DeviceBuffer> buffers_;                 // of the inputs, then of the outputs
  std::vector<std::unique_ptr<DeviceImage>> images_;  // of the inputs that frames were converted for
  std::vector<LayerTime> layer_times_;
  std::list<Variant> variants_;  // used last first
  Variant* variant_ = nullptr;
  bool changed_ = true;  // something was bound since the last run
  bool records_, profiles_;
};

class TensorrtGraph : public Graph {
 public:
  TensorrtGraph(const CudaDevice& device, const TensorrtLibrary& library, const StoredEngine& stored)
      : device_(device),
        memory_(device),
        description_(concat(library.description, ", ", stored.path.filename().string(), " on ", device.name(),
                            ", images converted by the ",
                            device_image_conversion() ? "GPU" : "CPU: this build of mmedge has no libmmedge_cuda.so")) {
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
    return std::make_unique<TensorrtExecution>(device_, *engine_, options);
  }

 private:
  const CudaDevice& device_;
  mutable PinnedMemory memory_;
  std::string description_;
  std::unique_ptr<TensorrtEngine> engine_;
};

[[noreturn]] void takes_nothing_from_a_gpu() {
  fail(MME_INVALID_ARGUMENT,
       "this engine takes nothing from a GPU, only engine \"tensorrt\" does; copy it to the host "
       "first");
}

}  // namespace

void Execution::bind_device_input(size_t, const void*, std::span<const int64_t>) { takes_nothing_from_a_gpu(); }

ImageArea Execution::convert_image(size_t, const ImageToTensorSpec&, const ImageFrame&, std::span<const int64_t>) {
  fail(MME_INTERNAL, "this engine converts no images");
}

void Execution::wait_for(CUstream_st*) { takes_nothing_from_a_gpu(); }

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
      find_engine(options.engines, options.graph_sha256, {library.version, device.compute_capability(), device.name()},
                  options.bundle);
  return std::make_unique<TensorrtGraph>(device, library, stored);
}

}  // namespace mmedge
