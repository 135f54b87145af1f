// What the manifest asks for one input, said in kernels.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "error.h"

namespace mmedge {

struct Tensor {
  std::vector<int64_t> shape;  // no batch dimension
  std::vector<float> values;
};

// Turns one modality's raw data into a tensor. Used by one thread at a time; reuses its buffers.
class Preprocess {
 public:
  virtual ~Preprocess() = default;

  virtual const char* modality() const = 0;
  // The tensor's shape; -1 where it depends on the data.
  virtual std::vector<int64_t> shape() const = 0;
  virtual void image(const mme_image& image, Tensor& output);
  virtual void audio(const mme_audio& audio, Tensor& output);
};

// Throws MME_INVALID_ARGUMENT naming the key that is wrong.
std::unique_ptr<Preprocess> make_preprocess(const nlohmann::json& parameters);
std::unique_ptr<Preprocess> make_image_preprocess(const nlohmann::json& parameters);
std::unique_ptr<Preprocess> make_audio_preprocess(const nlohmann::json& parameters);

}  // namespace mmedge
