// A provider of ONNX Runtime that has memory of its own, with onnxruntime_with_device.cc in its place.
#include "support.h"

namespace {

constexpr int kWidth = 40, kHeight = 30;

class DeviceProvider : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("MMEDGE_TEST_ONNXRUNTIME", std::getenv("MMEDGE_ONNXRUNTIME"), 1);
    setenv("MMEDGE_ONNXRUNTIME", MMEDGE_STAND_IN, 1);
  }

  // The scores of pictures that are grey throughout, one run after the other; level -1: no picture, but a sound.
  static std::vector<std::vector<float>> scores(const char* provider, const std::vector<int>& levels) {
    mme_model_options options{};
    options.struct_size = sizeof options;
    options.provider = provider;
    mme_model* model = nullptr;
    mme_session* session = nullptr;
    EXPECT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), &options, &model), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
    std::vector<std::vector<float>> found;
    for (const int level : levels) {
      const std::vector<uint8_t> pixels(size_t{kWidth} * kHeight * 3, static_cast<uint8_t>(level));
      const mme_image image = make_image(MME_IMAGE_RGB8, kWidth, kHeight, pixels);
      const std::vector<float> samples(16000, 0.25F);
      const mme_audio audio = make_audio(samples, 16000);
      if (level < 0) {
        EXPECT_EQ(mme_session_set_absent(session, "image"), MME_OK);
        EXPECT_EQ(mme_session_set_audio(session, "audio", &audio), MME_OK) << mme_last_error();
      } else {
        EXPECT_EQ(mme_session_set_image(session, "image", &image), MME_OK) << mme_last_error();
        EXPECT_EQ(mme_session_set_absent(session, "audio"), MME_OK);
      }
      mme_result result{};
      result.struct_size = sizeof result;
      EXPECT_EQ(mme_session_run(session, &result), MME_OK) << mme_last_error();
      found.emplace_back(result.scores, result.scores + result.class_count);
    }
    EXPECT_EQ(mme_session_destroy(session), MME_OK);
    EXPECT_EQ(mme_model_close(model), MME_OK);
    return found;
  }
};

TEST_F(DeviceProvider, EveryRunIsOfWhatWasSetForIt) {
  const std::vector<int> levels = {10, 200, -1, 10, 90};
  const auto expected = scores("cpu", levels), found = scores("cuda", levels);
  ASSERT_EQ(found.size(), levels.size());
  for (size_t run = 0; run < levels.size(); ++run) {
    ASSERT_EQ(found[run].size(), expected[run].size());
    for (size_t i = 0; i < expected[run].size(); ++i) EXPECT_NEAR(found[run][i], expected[run][i], 1e-5) << run;
  }
}

}  // namespace
