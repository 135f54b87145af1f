// What the manifest asks for one input, said in kernels.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "error.h"
#include "kernels/image_to_tensor/image_to_tensor_plan.h"
#include "tensor.h"

namespace mmedge {

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
  virtual void audio(const mme_audio& audio, Tensor& output);

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

// Throws MME_INVALID_ARGUMENT naming the key that is wrong.
std::unique_ptr<Preprocess> make_preprocess(const nlohmann::json& parameters);
std::unique_ptr<Preprocess> make_image_preprocess(const nlohmann::json& parameters);
std::unique_ptr<Preprocess> make_audio_preprocess(const nlohmann::json& parameters);

}  // namespace mmedge
