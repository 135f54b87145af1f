// A provider of ONNX Runtime that has memory of its own, with onnxruntime_with_device.cc in its place.
#include <dlfcn.h>

#include "support.h"

namespace {

constexpr int kWidth = 40, kHeight = 30;

class DeviceProvider : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("MMEDGE_TEST_ONNXRUNTIME", std::getenv("MMEDGE_ONNXRUNTIME"), 1);
    setenv("MMEDGE_ONNXRUNTIME", MMEDGE_STAND_IN, 1);
  }

  static void open(const char* provider, mme_model*& model, mme_session*& session) {
    mme_model_options options{};
    options.struct_size = sizeof options;
    options.provider = provider;
    ASSERT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), &options, &model), MME_OK) << mme_last_error();
    ASSERT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
  }

  // The scores of pictures that are grey throughout, one run after the other; level -1: no picture, but a sound.
  static std::vector<std::vector<float>> scores(const char* provider, const std::vector<int>& levels) {
    mme_model* model = nullptr;
    mme_session* session = nullptr;
    open(provider, model, session);
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

TEST_F(DeviceProvider, AnInputThatCouldNotBeBoundOnceUsesUpTheInputsAndIsBoundTheNextTime) {
  const std::vector<uint8_t> pixels(size_t{kWidth} * kHeight * 3, 90);
  const mme_image image = make_image(MME_IMAGE_RGB8, kWidth, kHeight, pixels);
  for (const char* provider : {"cpu", "cuda"}) {
    mme_model* model = nullptr;
    mme_session* session = nullptr;
    open(provider, model, session);
    mme_result result{};
    result.struct_size = sizeof result;
    const auto set = [&] {
      EXPECT_EQ(mme_session_set_image(session, "image", &image), MME_OK) << mme_last_error();
      EXPECT_EQ(mme_session_set_absent(session, "audio"), MME_OK);
    };
    set();
    reinterpret_cast<void (*)()>(dlsym(dlopen(MMEDGE_STAND_IN, RTLD_NOW | RTLD_NOLOAD), "fail_next_binding"))();
    EXPECT_EQ(mme_session_run(session, &result), MME_ENGINE_FAILED) << provider;
    EXPECT_EQ(mme_session_run(session, &result), MME_NOT_READY) << provider;
    set();
    EXPECT_EQ(mme_session_run(session, &result), MME_OK) << provider << ": " << mme_last_error();
    const std::vector<float> found(result.scores, result.scores + result.class_count);
    EXPECT_EQ(found, scores(provider, {90})[0]) << provider;
    EXPECT_EQ(mme_session_destroy(session), MME_OK);
    EXPECT_EQ(mme_model_close(model), MME_OK);
  }
}

}  // namespace
