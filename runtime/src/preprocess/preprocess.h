// What the manifest asks for one input, said in kernels.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"
#include "kernels/image_to_tensor/image_to_tensor_plan.h"
#include "tensor.h"

namespace mmedge {

class Tokenizer;

// Turns one modality's raw data into a tensor. Used by one thread at a time; reuses its buffers.
class Preprocess {
 public:
  virtual ~Preprocess() = default;

  virtual const char* modality() const = 0;
  virtual ElementType type() const { return ElementType::kFloat32; }
  // The tensor's shape; -1 where it depends on the data.
  virtual std::vector<int64_t> shape() const = 0;
  virtual void image(const mme_image& image, Tensor& output);
  virtual ImageArea area() const { return {}; }  // of the last image
  // For an engine that converts images itself; null where this takes no images.
  virtual const ImageToTensorSpec* image_spec() const { return nullptr; }
  virtual void audio(const mme_audio& audio, Tensor& output);
  virtual void text(std::string_view text, Tensor& output);

  // A stream seen through its last window: push_audio() computes the new hops, window() writes the tensor.
  virtual void push_audio(const mme_audio& audio);
  virtual void window(Tensor& output);
  // A stream seen frame by frame: the frames these samples completed, and those that needed the clip's end.
  virtual void push_frames(const mme_audio& audio, Tensor& output);
  virtual void end_frames(Tensor& output);
  // Forgets the stream.
  virtual void reset_audio();

 private:
  [[noreturn]] void refuse_audio() const;
};

// The files that parameters name. What is made of one is made once and shared. For any thread.
class PreprocessFiles {
 public:
  using Read = std::function<std::vector<uint8_t>(const std::string& name)>;
  // `read` throws where there is no such file.
  explicit PreprocessFiles(Read read) : read_(std::move(read)) {}

  std::shared_ptr<const Tokenizer> tokenizer(const std::string& name);

 private:
  Read read_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Tokenizer>> tokenizers_;
};

// Whether `parameters` name the file.
bool names_file(const nlohmann::json& parameters, const std::string& name);

// Throws MME_INVALID_ARGUMENT naming the key or the file that is wrong.
std::unique_ptr<Preprocess> make_preprocess(const nlohmann::json& parameters, PreprocessFiles& files);
std::unique_ptr<Preprocess> make_image_preprocess(const nlohmann::json& parameters);
std::unique_ptr<Preprocess> make_audio_preprocess(const nlohmann::json& parameters);
std::unique_ptr<Preprocess> make_waveform_preprocess(const nlohmann::json& parameters);
std::unique_ptr<Preprocess> make_text_preprocess(const nlohmann::json& parameters, PreprocessFiles& files);

}  // namespace mmedge
