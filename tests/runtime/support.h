// What the tests share: structs filled in, the small bundles, and a preprocessor that cleans up.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "mmedge.h"

inline std::filesystem::path bundle_path(const char* name) {
  const char* folder = std::getenv("MMEDGE_TEST_BUNDLES");
  if (folder == nullptr) ADD_FAILURE() << "MMEDGE_TEST_BUNDLES is not set";
  return std::filesystem::path(folder ? folder : ".") / name;
}

inline mme_image make_image(mme_image_format format, int width, int height, const std::vector<uint8_t>& pixels,
                            size_t stride = 0) {
  mme_image image{};
  image.struct_size = sizeof image;
  image.format = format;
  image.width = width;
  image.height = height;
  image.planes[0] = pixels.data();
  image.strides[0] = stride ? stride : static_cast<size_t>(width) * (format == MME_IMAGE_GREY8 ? 1 : 3);
  image.sizes[0] = pixels.size();
  return image;
}

inline mme_audio make_audio(const std::vector<float>& samples, int sample_rate, int channels = 1) {
  mme_audio audio{};
  audio.struct_size = sizeof audio;
  audio.format = MME_AUDIO_FLOAT32;
  audio.channels = channels;
  audio.sample_rate = sample_rate;
  audio.samples = samples.data();
  audio.frames = samples.size() / static_cast<size_t>(channels);
  return audio;
}

// A preprocessor; run() gives the tensor's values and keeps its shape.
class TestPreprocessor {
 public:
  explicit TestPreprocessor(const std::string& parameters) {
    EXPECT_EQ(mme_preprocessor_create(parameters.c_str(), &handle), MME_OK) << mme_last_error();
  }
  TestPreprocessor(const TestPreprocessor&) = delete;
  TestPreprocessor& operator=(const TestPreprocessor&) = delete;
  ~TestPreprocessor() { mme_preprocessor_destroy(handle); }

  std::vector<float> run(const mme_image& image) { return take(mme_preprocessor_image(handle, &image, &tensor)); }
  std::vector<float> run(const mme_audio& audio) { return take(mme_preprocessor_audio(handle, &audio, &tensor)); }

  mme_preprocessor* handle = nullptr;
  mme_status status = MME_OK;
  std::vector<int64_t> shape;

 private:
  std::vector<float> take(mme_status result) {
    status = result;
    if (status != MME_OK) return {};
    shape.assign(tensor.shape, tensor.shape + tensor.rank);
    const auto* values = static_cast<const float*>(tensor.data);
    return {values, values + tensor.size / sizeof(float)};
  }

  mme_tensor tensor{sizeof(mme_tensor), nullptr, MME_FLOAT32, nullptr, 0, 0, nullptr};
};
