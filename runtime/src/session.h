// A model ready to run: preprocess, engine, postprocess, all buffers made at creation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bundle.h"
#include "engine/engine.h"
#include "postprocess.h"
#include "preprocess/preprocess.h"

namespace mmedge {

// A checked bundle and its loaded graph: immutable, shared by threads and by its sessions.
class Model {
 public:
  Model(Bundle bundle, std::unique_ptr<Graph> graph);

  const Bundle& bundle() const { return bundle_; }
  const Graph& graph() const { return *graph_; }
  // Ports of the graph for bundle().inputs, for the presence mask, and for bundle().outputs.
  const std::vector<size_t>& input_ports() const { return input_ports_; }
  const std::vector<ElementType>& input_types() const { return input_types_; }
  size_t presence_port() const { return presence_port_; }
  const std::vector<size_t>& output_ports() const { return output_ports_; }
  const std::vector<std::string>& preprocess_json() const { return preprocess_json_; }
  // The preprocessing of an input, for one session.
  std::unique_ptr<Preprocess> create_preprocess(size_t input) const;

 private:
  Bundle bundle_;
  std::unique_ptr<Graph> graph_;
  std::vector<size_t> input_ports_, output_ports_;
  std::vector<ElementType> input_types_;
  size_t presence_port_ = 0;
  std::vector<std::string> preprocess_json_;
  std::unique_ptr<PreprocessFiles> files_;
};

struct StageTime {
  std::string stage;
  int64_t begin = 0, nanoseconds = 0;
};

// Everything is made at creation, or when an input first has a size: later runs on inputs of the same sizes allocate
// nothing and take no lock, but for what the engine does.
class Session {
 public:
  Session(std::shared_ptr<const Model> model, size_t top_k, const ExecutionOptions& options);

  // Called first, so that a call that fails leaves no earlier tensor to run on.
  void unset(const char* input) { inputs_[find(input)].unset(); }
  void set_image(const char* input, const mme_image& image);
  void set_audio(const char* input, const mme_audio& audio);
  void push_audio(const char* input, const mme_audio& audio);
  void reset_audio(const char* input);
  void set_text(const char* input, std::string_view text);
  void set_tensor(const char* input, const mme_tensor& tensor);
  void set_absent(const char* input);
  void wait_for(CUstream_st* stream) { execution_->wait_for(stream); }
  void run();

  // Of the last run; throw MME_NOT_READY before the first.
  mme_result result() const;
  mme_region region() const;
  mme_tensor output(size_t index) const;
  mme_tensor device_output(size_t index) const;
  mme_timing timing(size_t index) const;

 private:
  enum class State { kUnset, kPresent, kBound, kStreamed, kAbsent };  // kBound: device memory, bound already
  struct Input {
    std::unique_ptr<Preprocess> preprocess;
    Tensor tensor;
    std::optional<ImageArea> area;  // of the frame that was set
    State state = State::kUnset;
    int64_t begin = 0, nanoseconds = 0;  // of its preprocessing for the next run

    void unset() {
      area.reset();
      state = State::kUnset;
    }
  };

  size_t find(const char* input) const;
  template <class Fill>
  void set(const char* input, State state, Fill fill);
  void bind_input(size_t index);
  void check_outputs();
  void require_result() const;

  std::shared_ptr<const Model> model_;
  std::vector<Input> inputs_;
  std::vector<Tensor> outputs_;
  Tensor presence_;
  std::unique_ptr<Execution> execution_;  // goes before what is bound in it
  std::unique_ptr<Postprocess> postprocess_;
  std::vector<StageTime> timings_;  // inputs in order, then engine, postprocess, total, and the engine's layers
  size_t stage_count_ = 0;          // without the layers
  bool has_result_ = false;
};

}  // namespace mmedge
