#include "preprocess/preprocess.h"

#include "kernels/instruction_set.h"
#include "tokenizer/tokenizer.h"

namespace mmedge {

void Preprocess::image(const mme_image& /*image*/, Tensor& /*output*/) {
  fail(MME_INVALID_ARGUMENT, "this input takes ", modality(), ", not an image");
}

void Preprocess::text(std::string_view /*text*/, Tensor& /*output*/) {
  fail(MME_INVALID_ARGUMENT, "this input takes ", modality(), ", not text");
}

void Preprocess::audio(const mme_audio& /*audio*/, Tensor& /*output*/) { refuse_audio(); }

void Preprocess::push_audio(const mme_audio& /*audio*/) { refuse_audio(); }

void Preprocess::window(Tensor& /*output*/) { refuse_audio(); }

void Preprocess::push_frames(const mme_audio& /*audio*/, Tensor& /*output*/) { refuse_audio(); }

void Preprocess::end_frames(Tensor& /*output*/) { refuse_audio(); }

void Preprocess::reset_audio() { refuse_audio(); }

void Preprocess::refuse_audio() const { fail(MME_INVALID_ARGUMENT, "this input takes ", modality(), ", not audio"); }

std::shared_ptr<const Tokenizer> PreprocessFiles::tokenizer(const std::string& name) {
  const std::scoped_lock lock(mutex_);
  auto& tokenizer = tokenizers_[name];
  if (tokenizer == nullptr) {
    const std::vector<uint8_t> bytes = read_(name);
    try {
      tokenizer = std::make_shared<const Tokenizer>(bytes);
    } catch (const Error& error) {
      fail(error.status(), "file \"", name, "\": ", error.what());
    }
  }
  return tokenizer;
}

bool names_file(const nlohmann::json& parameters, const std::string& name) {
  return parameters.is_object() && parameters.value("tokenizer", nlohmann::json()) == name;
}

std::unique_ptr<Preprocess> make_preprocess(const nlohmann::json& parameters, PreprocessFiles& files) {
  choose_instruction_set();
  const std::string type = parameters.is_object() ? parameters.value("type", nlohmann::json()).dump() : "none";
  if (type == "\"image\"") return make_image_preprocess(parameters);
  if (type == "\"log_mel\"" || type == "\"mfcc\"") return make_audio_preprocess(parameters);
  if (type == "\"waveform\"") return make_waveform_preprocess(parameters);
  if (type == "\"text\"") return make_text_preprocess(parameters, files);
  fail(MME_INVALID_ARGUMENT, "preprocess: \"type\" is ", type, "; expected image, log_mel, mfcc, waveform or text");
}

}  // namespace mmedge
