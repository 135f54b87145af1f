#include "session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#include "error.h"

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

std::vector<int64_t> batched(int64_t batch, std::span<const int64_t> shape) {
  std::vector<int64_t> result{batch};
  result.insert(result.end(), shape.begin(), shape.end());
  return result;
}

size_t find_port(const std::vector<PortInfo>& ports, const std::string& name, ElementType type,
                 const std::vector<int64_t>& shape) {
  for (size_t i = 0; i < ports.size(); ++i) {
    if (ports[i].name != name) continue;
    if (ports[i].type != type || !fits(batched(1, shape), ports[i].shape)) {
      fail(MME_BUNDLE_INVALID, "the graph's \"", name, "\" has shape ", text(ports[i].shape),
           " or a type other than the manifest's; expected ", text(batched(-1, shape)));
    }
    return i;
  }
  fail(MME_BUNDLE_INVALID, "the graph has no \"", name, "\", which the manifest names");
}

}  // namespace

Model::Model(Bundle bundle, std::unique_ptr<Graph> graph) : bundle_(std::move(bundle)), graph_(std::move(graph)) {
  for (const BundleInput& input : bundle_.inputs) {
    const auto preprocess = make_preprocess(input.preprocess);
    if (preprocess->modality() != input.modality || preprocess->shape() != input.shape) {
      fail(MME_BUNDLE_INVALID, "input \"", input.name, "\" of modality ", input.modality, " is declared as ",
           text(input.shape), " but its preprocessing makes ", preprocess->modality(), " ", text(preprocess->shape()));
    }
    input_ports_.push_back(find_port(graph_->inputs(), input.name, ElementType::kFloat32, input.shape));
    preprocess_json_.push_back(input.preprocess.dump());
  }
  presence_port_ =
      find_port(graph_->inputs(), bundle_.presence, ElementType::kBool, {static_cast<int64_t>(bundle_.inputs.size())});
  for (const BundleOutput& output : bundle_.outputs) {
    output_ports_.push_back(find_port(graph_->outputs(), output.name, ElementType::kFloat32, output.shape));
  }
  if (graph_->inputs().size() != input_ports_.size() + 1 || graph_->outputs().size() != output_ports_.size()) {
    fail(MME_BUNDLE_INVALID, "the graph has ", graph_->inputs().size(), " inputs and ", graph_->outputs().size(),
         " outputs, not those the manifest names");
  }
}

Session::Session(std::shared_ptr<const Model> model)
    : model_(std::move(model)),
      execution_(model_->graph().create_execution()),
      inputs_(model_->bundle().inputs.size()),
      presence_(std::make_unique<bool[]>(inputs_.size())) {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const BundleInput& declared = model_->bundle().inputs[i];
    inputs_[i].preprocess = make_preprocess(declared.preprocess);
    timings_.push_back({"preprocess." + declared.name, 0});
  }
  for (const char* stage : {"engine", "postprocess", "total"}) timings_.push_back({stage, 0});
  execution_->bind_input(
      model_->presence_port(),
      {ElementType::kBool, presence_.get(), inputs_.size(), {1, static_cast<int64_t>(inputs_.size())}});
  outputs_.reserve(model_->output_ports().size());
  for (size_t i = 0; i < model_->output_ports().size(); ++i) {
    const std::vector<int64_t>& shape = model_->bundle().outputs[i].shape;
    if (std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size < 1; })) {
      fail(MME_BUNDLE_INVALID, "output shape ", text(shape), " varies; this version needs fixed outputs");
    }
    Output& output = outputs_.emplace_back(Output{Tensor(), model_->output_ports()[i]});
    output.tensor.resize(ElementType::kFloat32, shape);
    execution_->bind_output(output.port,
                            {ElementType::kFloat32, output.tensor.data(), output.tensor.bytes(), batched(1, shape)});
  }
  scores_.resize(model_->bundle().labels.size());
  ranking_.resize(scores_.size());
}

size_t Session::find(const char* input) const {
  const auto& declared = model_->bundle().inputs;
  if (input == nullptr) fail(MME_INVALID_ARGUMENT, "the input's name is NULL");
  std::string names;
  for (size_t i = 0; i < declared.size(); ++i) {
    if (declared[i].name == input) return i;
    names += concat(i == 0 ? "" : ", ", declared[i].name);
  }
  fail(MME_INVALID_ARGUMENT, "the model has no input \"", input, "\"; it has ", names);
}

template <class Fill>
void Session::set(const char* name, Fill fill) {
  const size_t index = find(name);
  Input& input = inputs_[index];
  input.state = State::kUnset;  // a failure must not leave half a tensor to run on
  const int64_t start = now();
  try {
    fill(input, model_->bundle().inputs[index]);
  } catch (const Error& error) {
    fail(error.status(), "input \"", name, "\": ", error.what());
  }
  input.nanoseconds = now() - start;
  input.state = State::kPresent;
}

void Session::set_image(const char* name, const mme_image& image) {
  set(name, [&](Input& input, const BundleInput&) { input.preprocess->image(image, input.tensor); });
}

void Session::set_audio(const char* name, const mme_audio& audio) {
  set(name, [&](Input& input, const BundleInput&) { input.preprocess->audio(audio, input.tensor); });
}

void Session::set_tensor(const char* name, const mme_tensor& tensor) {
  set(name, [&](Input& input, const BundleInput& declared) {
    if (tensor.data_type != MME_FLOAT32) fail(MME_INVALID_ARGUMENT, "expected a float32 tensor");
    if (tensor.data == nullptr || (tensor.rank > 0 && tensor.shape == nullptr)) {
      fail(MME_INVALID_ARGUMENT, "data or shape is NULL");
    }
    if (tensor.rank != declared.shape.size()) {
      fail(MME_INVALID_ARGUMENT, "found a tensor of rank ", tensor.rank, "; expected ", text(declared.shape));
    }
    const std::vector<int64_t> shape(tensor.shape, tensor.shape + tensor.rank);
    size_t count = 1;
    for (size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] < 1 || (declared.shape[i] != -1 && shape[i] != declared.shape[i]) ||
          count > tensor.size / static_cast<size_t>(shape[i])) {
        fail(MME_INVALID_ARGUMENT, "found a tensor of shape ", text(shape), " in ", tensor.size, " bytes; expected ",
             text(declared.shape));
      }
      count *= static_cast<size_t>(shape[i]);
    }
    if (tensor.size != count * sizeof(float)) {
      fail(MME_INVALID_ARGUMENT, "the tensor's buffer holds ", tensor.size, " bytes; shape ", text(shape), " needs ",
           count * sizeof(float));
    }
    const auto* values = static_cast<const float*>(tensor.data);
    for (size_t i = 0; i < count; ++i) {
      if (!std::isfinite(values[i])) fail(MME_BAD_INPUT, "element ", i, " is ", values[i], "; expected finite numbers");
    }
    input.tensor.resize(ElementType::kFloat32, shape);
    std::copy(values, values + count, input.tensor.values<float>().begin());
  });
}

void Session::set_absent(const char* name) {
  Input& input = inputs_[find(name)];
  input.state = State::kAbsent;
  input.nanoseconds = 0;
}

void Session::bind_input(size_t index) {
  Input& input = inputs_[index];
  presence_[index] = input.state == State::kPresent;
  if (input.state == State::kAbsent) {
    // Zeros of the declared shape; the size of a dimension that varies does not matter, so keep the last one.
    if (input.tensor.empty()) {
      std::vector<int64_t> shape = model_->bundle().inputs[index].shape;
      std::replace(shape.begin(), shape.end(), int64_t{-1}, int64_t{16});
      input.tensor.resize(ElementType::kFloat32, shape);
    }
    std::memset(input.tensor.data(), 0, input.tensor.bytes());
  }
  execution_->bind_input(model_->input_ports()[index], {ElementType::kFloat32, input.tensor.data(),
                                                        input.tensor.bytes(), batched(1, input.tensor.shape())});
}

void Session::run() {
  bool any = false;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (inputs_[i].state == State::kUnset) {
      fail(MME_NOT_READY, "input \"", model_->bundle().inputs[i].name,
           "\" was neither set nor marked absent since the last run");
    }
    any = any || inputs_[i].state == State::kPresent;
  }
  if (!any) fail(MME_INVALID_ARGUMENT, "every input is absent; set at least one");

  has_result_ = false;
  const int64_t start = now();
  for (size_t i = 0; i < inputs_.size(); ++i) bind_input(i);
  for (Input& input : inputs_) input.state = State::kUnset;
  execution_->run();
  const int64_t ran = now();
  check_outputs();
  classify();
  const int64_t end = now();

  int64_t total = end - start;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    timings_[i].nanoseconds = inputs_[i].nanoseconds;
    total += inputs_[i].nanoseconds;
  }
  timings_[inputs_.size()].nanoseconds = ran - start;
  timings_[inputs_.size() + 1].nanoseconds = end - ran;
  timings_[inputs_.size() + 2].nanoseconds = total;
  has_result_ = true;
}

void Session::check_outputs() {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    for (const float value : outputs_[i].tensor.values<float>()) {
      if (!std::isfinite(value)) {
        fail(MME_BAD_OUTPUT, "output \"", model_->bundle().outputs[i].name, "\" holds ", value,
             "; the model's weights or precision are at fault");
      }
    }
  }
}

// Softmax in float64 over the first output, then a ranking.
void Session::classify() {
  const auto logits = outputs_[0].tensor.values<float>();
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - most);
  for (size_t i = 0; i < logits.size(); ++i) scores_[i] = static_cast<float>(std::exp(logits[i] - most) / sum);
  std::iota(ranking_.begin(), ranking_.end(), 0);
  std::sort(ranking_.begin(), ranking_.end(), [&](int32_t a, int32_t b) {
    const float left = logits[static_cast<size_t>(a)], right = logits[static_cast<size_t>(b)];
    return left > right || (left == right && a < b);
  });
}

void Session::require_result() const {
  if (!has_result_) fail(MME_NOT_READY, "there is no result: the session was not run, or its last run failed");
}

mme_result Session::result() const {
  require_result();
  const int32_t best = ranking_[0];
  return {sizeof(mme_result),
          model_->bundle().labels[static_cast<size_t>(best)].c_str(),
          best,
          scores_[static_cast<size_t>(best)],
          scores_.size(),
          scores_.data(),
          ranking_.data(),
          outputs_.size(),
          timings_.size(),
          ranking_.size()};
}

mme_tensor Session::output(size_t index) const {
  require_result();
  if (index >= outputs_.size()) {
    fail(MME_INVALID_ARGUMENT, "there is no output ", index, "; the model has ", outputs_.size());
  }
  const Tensor& tensor = outputs_[index].tensor;
  return {sizeof(mme_tensor),   model_->bundle().outputs[index].name.c_str(),
          MME_FLOAT32,          tensor.data(),
          tensor.bytes(),       tensor.shape().size(),
          tensor.shape().data()};
}

mme_timing Session::timing(size_t index) const {
  require_result();
  if (index >= timings_.size()) {
    fail(MME_INVALID_ARGUMENT, "there is no stage ", index, "; a run has ", timings_.size());
  }
  return {sizeof(mme_timing), timings_[index].stage.c_str(), timings_[index].nanoseconds, 0};
}

}  // namespace mmedge
