#include "preprocess/preprocess.h"

#include "kernels/instruction_set.h"

namespace mmedge {

void Preprocess::image(const mme_image& /*image*/, Tensor& /*output*/) {
  fail(MME_INVALID_ARGUMENT, "this input takes ", modality(), ", not an image");
}

void Preprocess::audio(const mme_audio& /*audio*/, Tensor& /*output*/) { refuse_audio(); }

void Preprocess::push_audio(const mme_audio& /*audio*/) { refuse_audio(); }

void Preprocess::window(Tensor& /*output*/) { refuse_audio(); }

void Preprocess::push_frames(const mme_audio& /*audio*/, Tensor& /*output*/) { refuse_audio(); }

void Preprocess::end_frames(Tensor& /*output*/) { refuse_audio(); }

void Preprocess::reset_audio() { refuse_audio(); }

void Preprocess::refuse_audio() const { fail(MME_INVALID_ARGUMENT, "this input takes an ", modality(), ", not audio"); }

std::unique_ptr<Preprocess> make_preprocess(const nlohmann::json& parameters) {
  choose_instruction_set();
  const std::string type = parameters.is_object() ? parameters.value("type", nlohmann::json()).dump() : "none";
  if (type == "\"image\"") return make_image_preprocess(parameters);
  if (type == "\"log_mel\"" || type == "\"mfcc\"") return make_audio_preprocess(parameters);
  fail(MME_INVALID_ARGUMENT, "preprocess: \"type\" is ", type, "; expected image, log_mel or mfcc");
}

}  // namespace mmedge
