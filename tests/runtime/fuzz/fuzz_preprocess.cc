// Preprocessing parameters: the input is their JSON; what it describes is tried where it is small.
#include <cmath>
#include <vector>

#include "reader.h"

namespace {

void check(const mme_tensor& tensor) {
  for (size_t i = 0; i < tensor.size / sizeof(float) && tensor.data_type == MME_FLOAT32; ++i) {
    require(std::isfinite(static_cast<const float*>(tensor.data)[i]), "a tensor holds finite numbers");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string parameters(reinterpret_cast<const char*>(data), size);
  mme_preprocessor* preprocessor = nullptr;
  const mme_status created = mme_preprocessor_create(parameters.c_str(), &preprocessor);
  require(created == MME_OK || created == MME_INVALID_ARGUMENT, "parameters are usable or not");
  if (!succeeded(created)) return 0;
  mme_input_info info{};
  info.struct_size = sizeof info;
  require(succeeded(mme_preprocessor_get_info(preprocessor, &info)), "a preprocessor has an info");
  int64_t count = 1;
  for (size_t i = 0; i < info.rank; ++i) count *= info.shape[i] < 0 ? 100 : info.shape[i];
  if (count < (1 << 20)) {
    mme_tensor tensor{};
    tensor.struct_size = sizeof tensor;
    const std::vector<uint8_t> pixels(13 * 11 * 3, 200);
    mme_image image{};
    image.struct_size = sizeof image;
    image.width = 13;
    image.height = 11;
    image.planes[0] = pixels.data();
    image.strides[0] = 13 * 3;
    image.sizes[0] = pixels.size();
    if (succeeded(mme_preprocessor_image(preprocessor, &image, &tensor))) check(tensor);
    std::vector<float> samples(3000);
    for (size_t i = 0; i < samples.size(); ++i) samples[i] = static_cast<float>(i % 37) / 37.0F - 0.5F;
    mme_audio audio{};
    audio.struct_size = sizeof audio;
    audio.format = MME_AUDIO_FLOAT32;
    audio.channels = 1;
    audio.sample_rate = 16000;
    audio.samples = samples.data();
    audio.frames = samples.size();
    if (succeeded(mme_preprocessor_audio(preprocessor, &audio, &tensor))) check(tensor);
    if (succeeded(mme_preprocessor_push_audio(preprocessor, &audio, &tensor))) {
      check(tensor);
      if (succeeded(mme_preprocessor_end_audio(preprocessor, &tensor))) check(tensor);
    }
  }
  require(succeeded(mme_preprocessor_destroy(preprocessor)), "a preprocessor is released");
  return 0;
}
