#include "session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "error.h"
#include "preprocess/image_frame.h"

namespace mmedge {
namespace {

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string text(std::span<const int64_t> shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += concat(i == 0 ? "" : ", ", shape[i]);
  return result + "]";
}

// Whether `shape` may stand where `declared` is asked for; -1 stands for any size.
bool fits(std::span<const int64_t> shape, std::span<const int64_t> declared) {
  return std::equal(shape.begin(), shape.end(), declared.begin(), declared.end(),
                    [](int64_t size, int64_t wanted) { return wanted == -1 || size == wanted; });
}

size_t find_port(const std::vector<PortInfo>& ports, const std::string& name, ElementType type,
                 std::span<const int64_t> shape) {
  std::vector<int64_t> batched{1};
  batched.insert(batched.end(), shape.begin(), shape.end());
  for (size_t i = 0; i < ports.size(); ++i) {
    if (ports[i].name != name) continue;
    if (ports[i].type != type || !fits(batched, ports[i].shape)) {
      fail(MME_BUNDLE_INVALID, "the graph's \"", name, "\" is ", element_name(ports[i].type), " ", text(ports[i].shape),
           "; the manifest and its preprocessing say ", element_name(type), " ", text(batched));
    }
    return i;
  }
  fail(MME_BUNDLE_INVALID, "the graph has no \"", name, "\", which the manifest names");
}

// The first element that is NaN, infinite or a token's id below 0, which engines count from the end, or `count`.
size_t first_impossible(ElementType type, const std::byte* bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (type == ElementType::kFloat32) {
      float value = 0.0F;
      std::memcpy(&value, bytes + i * sizeof value, sizeof value);
      if (!std::isfinite(value)) return i;
    } else if (type == ElementType::kFloat16) {
      constexpr uint16_t exponent = 0x7c00;
      uint16_t bits = 0;
      std::memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
      if ((bits & exponent) == exponent) return i;
    } else if (type == ElementType::kInt32) {
      int32_t id = 0;
      std::memcpy(&id, bytes + i * sizeof id, sizeof id);
      if (id < 0) return i;
    }
  }
  return count;
}

}  // namespace

Model::Model(Bundle bundle, std::unique_ptr<Graph> graph) : bundle_(std::move(bundle)), graph_(std::move(graph)) {
  files_ = std::make_unique<PreprocessFiles>([this](const std::string& name) {
    const auto found = bundle_.files.find(name);
    if (found == bundle_.files.end()) fail(MME_BUNDLE_INVALID, "file \"", name, "\" is not among the bundle's");
    return found->second;
  });
  for (const BundleInput& input : bundle_.inputs) {
    const auto preprocess = make_preprocess(input.preprocess, *files_);
    const std::string type = element_name(preprocess->type());
    if (preprocess->modality() != input.modality || preprocess->shape() != input.shape || type != input.type) {
      fail(MME_BUNDLE_INVALID, "input \"", input.name, "\" of modality ", input.modality, " is declared as ",
           input.type, " ", text(input.shape), " but its preprocessing makes ", preprocess->modality(), " of ", type,
           " ", text(preprocess->shape()));
    }
    input_types_.push_back(preprocess->type());
    input_ports_.push_back(find_port(graph_->inputs(), input.name, preprocess->type(), input.shape));
    preprocess_json_.push_back(input.preprocess.dump());
  }
  bundle_.files.clear();  // what was made of them is in files_
  const auto count = static_cast<int64_t>(bundle_.inputs.size());
  presence_port_ = find_port(graph_->inputs(), bundle_.presence, ElementType::kBool, {&count, 1});
  for (const BundleOutput& output : bundle_.outputs) {
    output_ports_.push_back(find_port(graph_->outputs(), output.name, ElementType::kFloat32, output.shape));
  }
  if (graph_->inputs().size() != input_ports_.size() + 1 || graph_->outputs().size() != output_ports_.size()) {
    fail(MME_BUNDLE_INVALID, "the graph has ", graph_->inputs().size(), " inputs and ", graph_->outputs().size(),
         " outputs, not those the manifest names");
  }
}

std::unique_ptr<Preprocess> Model::create_preprocess(size_t input) const {
  return make_preprocess(bundle_.inputs[input].preprocess, *files_);
}

Session::Session(std::shared_ptr<const Model> model, size_t top_k, const ExecutionOptions& options)
    : model_(std::move(model)),
      inputs_(model_->bundle().inputs.size()),
      presence_(ElementType::kBool, model_->graph().host_memory()),
      execution_(model_->graph().create_execution(options)) {
  HostMemory* const memory = model_->graph().host_memory();
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const BundleInput& declared = model_->bundle().inputs[i];
    inputs_[i].tensor = Tensor(model_->input_types()[i], memory);
    inputs_[i].preprocess = model_->create_preprocess(i);
    timings_.push_back({"preprocess." + declared.name});
  }
  for (const char* stage : {"engine", "postprocess", "total"}) timings_.push_back({stage});
  stage_count_ = timings_.size();
  const auto input_count = static_cast<int64_t>(inputs_.size());
  presence_.resize(ElementType::kBool, {&input_count, 1});
  execution_->bind_input(model_->presence_port(), presence_);
  outputs_.reserve(model_->output_ports().size());  // they are bound where they lie
  for (size_t i = 0; i < model_->output_ports().size(); ++i) {
    outputs_.emplace_back(ElementType::kFloat32, memory);
    const std::vector<int64_t>& shape = model_->bundle().outputs[i].shape;
    if (std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size < 1; })) {
      fail(MME_BUNDLE_INVALID, "output shape ", text(shape), " varies; this version needs fixed outputs");
    }
    outputs_[i].resize(ElementType::kFloat32, shape);
    execution_->bind_output(model_->output_ports()[i], outputs_[i]);
  }
  postprocess_ = std::make_unique<Postprocess>(model_->bundle(), outputs_, top_k);
}

size_t Session::find(const char* input) const {
  const auto& declared = model_->bundle().inputs;
  if (input == nullptr) fail(MME_INVALID_ARGUMENT, "the input's name is NULL");
  for (size_t i = 0; i < declared.size(); ++i) {
    if (declared[i].name == input) return i;
  }
  std::string names;
  for (const BundleInput& known : declared) names += concat(names.empty() ? "" : ", ", known.name);
  fail(MME_INVALID_ARGUMENT, "the model has no input \"", input, "\"; it has ", names);
}

template <class Fill>
void Session::set(const char* name, State state, Fill fill) {
  Input& input = inputs_[find(name)];
  // The pushes of one run count together.
  const bool goes_on = state == State::kStreamed && input.state == State::kStreamed;
  input.unset();  // a failure must not leave half a tensor to run on
  const int64_t start = now();
  try {
    fill(input);
  } catch (const Error& error) {
    if (goes_on) input.state = State::kStreamed;  // nothing of a refused push was used
    fail(error.status(), "input \"", name, "\": ", error.what());
  }
  if (!goes_on) {
    input.begin = start;
    input.nanoseconds = 0;
  }
  input.nanoseconds += now() - start;
  input.state = state;
}

void Session::set_image(const char* name, const mme_image& image) {
  const size_t index = find(name);
  const ImageToTensorSpec* spec = inputs_[index].preprocess->image_spec();
  if (spec != nullptr && execution_->converts_images()) {
    set(name, State::kBound, [&](Input& input) {
      const ImageFrame frame = check_image(image);
      input.area =
          execution_->convert_image(model_->input_ports()[index], *spec, frame, model_->bundle().inputs[index].shape);
    });
    return;
  }
  set(name, State::kPresent, [&](Input& input) {
    input.preprocess->image(image, input.tensor);
    input.area = input.preprocess->area();
  });
}

void Session::set_audio(const char* name, const mme_audio& audio) {
  set(name, State::kPresent, [&](Input& input) { input.preprocess->audio(audio, input.tensor); });
}

void Session::push_audio(const char* name, const mme_audio& audio) {
  set(name, State::kStreamed, [&](Input& input) { input.preprocess->push_audio(audio); });
}

void Session::reset_audio(const char* name) {
  Input& input = inputs_[find(name)];
  input.preprocess->reset_audio();
  if (input.state == State::kStreamed) input.state = State::kUnset;
}

void Session::set_text(const char* name, std::string_view text) {
  set(name, State::kPresent, [&](Input& input) { input.preprocess->text(text, input.tensor); });
}

void Session::set_tensor(const char* name, const mme_tensor& tensor) {
  const size_t index = find(name);
  const std::vector<int64_t>& declared = model_->bundle().inputs[index].shape;
  const ElementType type = model_->input_types()[index];
  const bool on_device = tensor.memory == MME_MEMORY_CUDA;
  set(name, on_device ? State::kBound : State::kPresent, [&](Input& input) {
    if (tensor.data_type != to_data_type(type)) {
      fail(MME_INVALID_ARGUMENT, "found a tensor of type ", tensor.data_type, "; expected ", to_data_type(type), ", ",
           element_name(type));
    }
    if (tensor.memory != MME_MEMORY_HOST && !on_device) {
      fail(MME_INVALID_ARGUMENT, "found a tensor in memory ", tensor.memory, "; expected ", MME_MEMORY_HOST, " or ",
           MME_MEMORY_CUDA, ", host or CUDA");
    }
    if (tensor.data == nullptr || (tensor.rank > 0 && tensor.shape == nullptr)) {
      fail(MME_INVALID_ARGUMENT, "data or shape is NULL");
    }
    if (tensor.rank != declared.size()) {
      fail(MME_INVALID_ARGUMENT, "found a tensor of rank ", tensor.rank, "; expected ", text(declared));
    }
    const std::span<const int64_t> shape(tensor.shape, tensor.rank);
    size_t count = 1;
    for (size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] < 1 || (declared[i] != -1 && shape[i] != declared[i]) ||
          count > tensor.size / static_cast<size_t>(shape[i])) {
        fail(MME_INVALID_ARGUMENT, "found a tensor of shape ", text(shape), " in ", tensor.size, " bytes; expected ",
             text(declared));
      }
      count *= static_cast<size_t>(shape[i]);
    }
    if (tensor.size != count * element_size(type)) {
      fail(MME_INVALID_ARGUMENT, "the tensor's buffer holds ", tensor.size, " bytes; shape ", text(shape), " needs ",
           count * element_size(type));
    }
    if (on_device) {
      execution_->bind_device_input(model_->input_ports()[index], tensor.data, shape);
      return;
    }
    const auto* bytes = static_cast<const std::byte*>(tensor.data);
    if (const size_t wrong = first_impossible(type, bytes, count); wrong < count) {
      fail(MME_BAD_INPUT, "element ", wrong, " is ",
           type == ElementType::kInt32 ? "below 0, no token's id" : "not a finite number");
    }
    input.tensor.resize(type, shape);
    std::memcpy(input.tensor.data(), bytes, tensor.size);
  });
}

void Session::set_absent(const char* name) {
  Input& input = inputs_[find(name)];
  input.state = State::kAbsent;
  input.area.reset();
  input.begin = input.nanoseconds = 0;
}

void Session::bind_input(size_t index) {
  Input& input = inputs_[index];
  presence_.values<bool>()[index] = input.state != State::kAbsent;
  if (input.state == State::kBound) return;
  if (input.state == State::kStreamed) {
    const int64_t start = now();
    input.preprocess->window(input.tensor);
    input.nanoseconds += now() - start;
  } else if (input.state == State::kAbsent) {
    // Zeros of the declared shape; the size of a dimension that varies does not matter, so keep the last one.
    if (input.tensor.empty()) {
      std::vector<int64_t> shape = model_->bundle().inputs[index].shape;
      std::replace(shape.begin(), shape.end(), int64_t{-1}, int64_t{16});
      input.tensor.resize(model_->input_types()[index], shape);
    }
    std::memset(input.tensor.data(), 0, input.tensor.bytes());
  }
  execution_->bind_input(model_->input_ports()[index], input.tensor);
}

void Session::run() {
  bool any = false;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (inputs_[i].state == State::kUnset) {
      fail(MME_NOT_READY, "input \"", model_->bundle().inputs[i].name,
           "\" was neither set nor marked absent since the last run");
    }
    any = any || inputs_[i].state != State::kAbsent;
  }
  if (!any) fail(MME_INVALID_ARGUMENT, "every input is absent; set at least one");

  has_result_ = false;
  const auto use_up = [this] {
    for (Input& input : inputs_) input.state = State::kUnset;
  };
  try {
    for (size_t i = 0; i < inputs_.size(); ++i) bind_input(i);
  } catch (...) {
    use_up();
    throw;
  }
  use_up();
  const int64_t start = now();
  execution_->run();
  const int64_t ran = now();
  check_outputs();
  const std::optional<size_t> seen = postprocess_->region_input();
  postprocess_->run(presence_.values<bool>(), seen ? inputs_[*seen].area : std::nullopt);
  const int64_t end = now();

  StageTime* stage = timings_.data();
  StageTime total{{}, start, end - start};
  for (const Input& input : inputs_) {
    stage->begin = input.begin;
    stage->nanoseconds = input.nanoseconds;
    if (input.begin != 0) total.begin = std::min(total.begin, input.begin);
    total.nanoseconds += input.nanoseconds;
    ++stage;
  }
  const auto record = [&](int64_t begin, int64_t nanoseconds) {
    stage->begin = begin;
    stage->nanoseconds = nanoseconds;
    ++stage;
  };
  record(start, ran - start);
  record(ran, end - ran);
  record(total.begin, total.nanoseconds);
  timings_.resize(stage_count_);
  int64_t begin = start;  // a layer begins where the one before it ends
  for (const LayerTime& layer : execution_->layer_times()) {
    timings_.push_back({"layer." + layer.name, begin, layer.nanoseconds});
    begin += layer.nanoseconds;
  }
  has_result_ = true;
}

void Session::check_outputs() {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    for (const float value : outputs_[i].values<float>()) {
      if (!std::isfinite(value)) {
        fail(MME_BAD_OUTPUT, "output \"", model_->bundle().outputs[i].name, "\" holds ", value,
             "; the model's weights or precision are at fault");
      }
    }
  }
}

void Session::require_result() const {
  if (!has_result_) fail(MME_NOT_READY, "there is no result: the session was not run, or its last run failed");
}

mme_result Session::result() const {
  require_result();
  mme_result found = postprocess_->result();
  found.output_count = outputs_.size();
  found.timing_count = timings_.size();
  return found;
}

mme_region Session::region() const {
  if (postprocess_->region_input()) require_result();
  return postprocess_->region();
}

mme_tensor Session::output(size_t index) const {
  require_result();
  if (index >= outputs_.size()) {
    fail(MME_INVALID_ARGUMENT, "there is no output ", index, "; the model has ", outputs_.size());
  }
  return describe(outputs_[index], model_->bundle().outputs[index].name.c_str());
}

mme_tensor Session::device_output(size_t index) const {
  mme_tensor found = output(index);
  found.data = execution_->device_output(model_->output_ports()[index]);
  found.memory = MME_MEMORY_CUDA;
  if (found.data == nullptr) {
    fail(MME_INVALID_ARGUMENT, "this engine has its outputs in host memory: ", model_->graph().description());
  }
  return found;
}

mme_timing Session::timing(size_t index) const {
  require_result();
  if (index >= timings_.size()) {
    fail(MME_INVALID_ARGUMENT, "there is no stage ", index, "; a run has ", timings_.size());
  }
  return {sizeof(mme_timing), timings_[index].stage.c_str(), timings_[index].nanoseconds, timings_[index].begin};
}

}  // namespace mmedge
