// The order of calls, handles and threads.
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "support.h"

namespace {

class SessionTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), nullptr, &model), MME_OK) << mme_last_error();
    ASSERT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
  }
  void TearDown() override {
    mme_session_destroy(session);
    mme_model_close(model);
  }

  mme_status set_both(mme_session* to) const {
    const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
    const mme_audio audio = make_audio(samples, 16000);
    const mme_status status = mme_session_set_image(to, "image", &image);
    return status ? status : mme_session_set_audio(to, "audio", &audio);
  }

  std::vector<float> run(mme_session* with) {
    mme_result found{};
    found.struct_size = sizeof found;
    if (mme_session_run(with, &found) != MME_OK) return {};
    result = found;
    return {found.scores, found.scores + found.class_count};
  }

  mme_model* model = nullptr;
  mme_session* session = nullptr;
  mme_result result{};
  std::vector<uint8_t> pixels = std::vector<uint8_t>(40 * 30 * 3, 90);
  std::vector<float> samples = std::vector<float>(16000, 0.25F);
};

TEST_F(SessionTest, AResultIsARankedDistribution) {
  ASSERT_EQ(set_both(session), MME_OK) << mme_last_error();
  const auto scores = run(session);
  ASSERT_EQ(scores.size(), 10U) << mme_last_error();
  float sum = 0;
  for (const float score : scores) sum += score;
  EXPECT_NEAR(sum, 1, 1e-6);
  for (size_t i = 1; i < 10; ++i) {
    EXPECT_GE(scores[static_cast<size_t>(result.ranking[i - 1])], scores[static_cast<size_t>(result.ranking[i])]);
  }
  const char* label = nullptr;
  EXPECT_EQ(mme_model_get_label(model, static_cast<size_t>(result.class_index), &label), MME_OK);
  EXPECT_STREQ(label, result.label);
  EXPECT_EQ(result.class_index, result.ranking[0]);
}

TEST_F(SessionTest, IntegersAgreeWithFloatsOnEverySubset) {
  mme_model* integers = nullptr;
  mme_session* other = nullptr;
  ASSERT_EQ(mme_model_open(bundle_path("int8.mme").c_str(), nullptr, &integers), MME_OK) << mme_last_error();
  ASSERT_EQ(mme_session_create(integers, nullptr, &other), MME_OK) << mme_last_error();
  for (const char* absent : {"", "image", "audio"}) {
    std::vector<float> scores[2];
    for (const size_t i : {0U, 1U}) {
      mme_session* const each = i == 0 ? session : other;
      ASSERT_EQ(set_both(each), MME_OK) << mme_last_error();
      if (*absent != '\0') ASSERT_EQ(mme_session_set_absent(each, absent), MME_OK) << mme_last_error();
      scores[i] = run(each);
      ASSERT_EQ(scores[i].size(), 10U) << mme_last_error();
    }
    EXPECT_NE(scores[0], scores[1]);
    for (size_t i = 0; i < 10; ++i) EXPECT_NEAR(scores[0][i], scores[1][i], 0.02) << absent;
  }
  EXPECT_EQ(mme_session_destroy(other), MME_OK);
  EXPECT_EQ(mme_model_close(integers), MME_OK);
}

TEST_F(SessionTest, EveryStageIsTimed) {
  ASSERT_EQ(set_both(session), MME_OK);
  run(session);
  std::vector<std::string> stages;
  int64_t sum = 0, total = 0;
  for (size_t i = 0; i < result.timing_count; ++i) {
    mme_timing timing{sizeof(mme_timing), nullptr, 0};
    ASSERT_EQ(mme_session_timing(session, i, &timing), MME_OK);
    stages.emplace_back(timing.stage);
    EXPECT_GT(timing.nanoseconds, 0);
    (stages.back() == "total" ? total : sum) += timing.nanoseconds;
  }
  EXPECT_EQ(stages,
            (std::vector<std::string>{"preprocess.image", "preprocess.audio", "engine", "postprocess", "total"}));
  EXPECT_EQ(sum, total);
}

TEST_F(SessionTest, AnInputThatWasSetWrongIsUnset) {
  mme_result found{};
  found.struct_size = sizeof found;
  mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
  image.struct_size = 1;
  mme_tensor tensor{};
  const auto faults = {
      std::function([&] { return mme_session_set_image(session, "image", nullptr); }),
      std::function([&] { return mme_session_set_image(session, "image", &image); }),
      std::function([&] { return mme_session_set_tensor(session, "image", &tensor); }),
      std::function([&] { return mme_session_set_audio(session, "audio", nullptr); }),
  };
  for (const auto& fault : faults) {
    ASSERT_EQ(set_both(session), MME_OK) << mme_last_error();
    EXPECT_EQ(fault(), MME_INVALID_ARGUMENT);
    EXPECT_EQ(mme_session_run(session, &found), MME_NOT_READY);
  }
}

TEST_F(SessionTest, AnInputMustBeSetOrMarkedAbsentBeforeEveryRun) {
  mme_result found{};
  found.struct_size = sizeof found;
  EXPECT_EQ(mme_session_run(session, &found), MME_NOT_READY);
  ASSERT_EQ(set_both(session), MME_OK);
  EXPECT_EQ(mme_session_run(session, &found), MME_OK);
  EXPECT_EQ(mme_session_run(session, &found), MME_NOT_READY);
  EXPECT_NE(std::string(mme_last_error()).find("\"image\""), std::string::npos) << mme_last_error();
  EXPECT_EQ(mme_session_set_absent(session, "image"), MME_OK);
  EXPECT_EQ(mme_session_set_absent(session, "audio"), MME_OK);
  EXPECT_EQ(mme_session_run(session, &found), MME_INVALID_ARGUMENT);
}

TEST_F(SessionTest, AnAbsentInputLeavesNoTrace) {
  ASSERT_EQ(set_both(session), MME_OK);
  const auto both = run(session);
  const auto image_only = [&](mme_session* with) {
    const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
    EXPECT_EQ(mme_session_set_image(with, "image", &image), MME_OK);
    EXPECT_EQ(mme_session_set_absent(with, "audio"), MME_OK);
    return run(with);
  };
  mme_session* fresh = nullptr;
  ASSERT_EQ(mme_session_create(model, nullptr, &fresh), MME_OK);
  const auto after_audio = image_only(session);
  EXPECT_EQ(after_audio, image_only(fresh));
  EXPECT_NE(after_audio, both);
  EXPECT_EQ(mme_session_destroy(fresh), MME_OK);
}

TEST_F(SessionTest, AFailedSetLeavesTheInputUnset) {
  ASSERT_EQ(set_both(session), MME_OK);
  mme_audio empty = make_audio(samples, 16000);
  empty.frames = 0;
  EXPECT_EQ(mme_session_set_audio(session, "audio", &empty), MME_BAD_INPUT);
  mme_result found{};
  found.struct_size = sizeof found;
  EXPECT_EQ(mme_session_run(session, &found), MME_NOT_READY);
}

TEST_F(SessionTest, AReadyTensorEqualsThePreprocessedInput) {
  ASSERT_EQ(set_both(session), MME_OK);
  const auto expected = run(session);
  mme_input_info info{};
  info.struct_size = sizeof info;
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(mme_model_get_input(model, i, &info), MME_OK);
    TestPreprocessor preprocessor(info.preprocess);
    const auto values = i == 0 ? preprocessor.run(make_image(MME_IMAGE_RGB8, 40, 30, pixels))
                               : preprocessor.run(make_audio(samples, 16000));
    const mme_tensor tensor{sizeof(mme_tensor), nullptr,   MME_FLOAT32, values.data(), values.size() * sizeof(float),
                            info.rank,          info.shape};
    ASSERT_EQ(mme_session_set_tensor(session, info.name, &tensor), MME_OK) << mme_last_error();
  }
  EXPECT_EQ(run(session), expected);
}

TEST_F(SessionTest, TensorsThatDoNotFitAreRefused) {
  std::vector<float> values(32 * 32);
  const auto status_of = [&](std::vector<int64_t> shape, size_t size) {
    const mme_tensor tensor{sizeof(mme_tensor), nullptr, MME_FLOAT32, values.data(), size, shape.size(), shape.data()};
    return mme_session_set_tensor(session, "image", &tensor);
  };
  EXPECT_EQ(status_of({1, 32, 32}, 4096), MME_OK);
  EXPECT_EQ(status_of({32, 32}, 4096), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of({1, 32, 31}, 3968), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of({1, 32, 32}, 4092), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of({-1, 32, 32}, 4096), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of({int64_t{1} << 62, 8, 32}, 4096), MME_INVALID_ARGUMENT);
  values[100] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(status_of({1, 32, 32}, 4096), MME_BAD_INPUT);
  EXPECT_NE(std::string(mme_last_error()).find("element 100"), std::string::npos) << mme_last_error();
}

TEST_F(SessionTest, WrongNamesAndModalitiesAreRefused) {
  const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
  EXPECT_EQ(mme_session_set_image(session, "camera", &image), MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("it has image, audio"), std::string::npos) << mme_last_error();
  EXPECT_EQ(mme_session_set_image(session, "audio", &image), MME_INVALID_ARGUMENT);
  EXPECT_EQ(mme_session_set_image(session, nullptr, &image), MME_INVALID_ARGUMENT);
  EXPECT_EQ(mme_session_set_image(session, "image", nullptr), MME_INVALID_ARGUMENT);
  EXPECT_EQ(mme_session_set_absent(session, "camera"), MME_INVALID_ARGUMENT);
}

TEST_F(SessionTest, ResultsAreReadInOrderOnly) {
  mme_tensor output{sizeof(mme_tensor), nullptr, MME_FLOAT32, nullptr, 0, 0, nullptr};
  EXPECT_EQ(mme_session_output(session, 0, &output), MME_NOT_READY);
  ASSERT_EQ(set_both(session), MME_OK);
  run(session);
  EXPECT_EQ(mme_session_output(session, 0, &output), MME_OK);
  EXPECT_STREQ(output.name, "logits");
  EXPECT_EQ(mme_session_output(session, 1, &output), MME_OK);
  EXPECT_STREQ(output.name, "modality_weights");
  EXPECT_EQ(mme_session_output(session, 2, &output), MME_INVALID_ARGUMENT);
}

TEST_F(SessionTest, MisusedHandlesGiveAStatus) {
  const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
  EXPECT_EQ(mme_session_set_image(nullptr, "image", &image), MME_INVALID_HANDLE);
  EXPECT_EQ(mme_session_set_image(reinterpret_cast<mme_session*>(model), "image", &image), MME_INVALID_HANDLE);
  EXPECT_EQ(mme_session_set_image(reinterpret_cast<mme_session*>(&pixels), "image", &image), MME_INVALID_HANDLE);
  mme_session* other = nullptr;
  ASSERT_EQ(mme_session_create(model, nullptr, &other), MME_OK);
  EXPECT_EQ(mme_session_destroy(other), MME_OK);
  EXPECT_EQ(mme_session_destroy(other), MME_INVALID_HANDLE);
  EXPECT_EQ(mme_session_set_absent(other, "image"), MME_INVALID_HANDLE);
  mme_session* again = nullptr;
  ASSERT_EQ(mme_session_create(model, nullptr, &again), MME_OK);
  EXPECT_NE(again, other);  // the slot is reused, the handle is not
  EXPECT_EQ(mme_session_set_absent(other, "image"), MME_INVALID_HANDLE);
  EXPECT_EQ(mme_session_destroy(again), MME_OK);
}

TEST_F(SessionTest, SessionsOutliveTheirModel) {
  EXPECT_EQ(mme_model_close(model), MME_OK);
  EXPECT_EQ(mme_model_close(model), MME_INVALID_HANDLE);
  ASSERT_EQ(set_both(session), MME_OK);
  EXPECT_EQ(run(session).size(), 10U);
}

TEST_F(SessionTest, ThreadsWithASessionEachAgree) {
  ASSERT_EQ(set_both(session), MME_OK);
  const auto expected = run(session);
  std::atomic<int> differing{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      mme_session* own = nullptr;
      if (mme_session_create(model, nullptr, &own) != MME_OK) ++differing;
      for (int i = 0; i < 50; ++i) {
        mme_result found{};
        found.struct_size = sizeof found;
        if (set_both(own) != MME_OK || mme_session_run(own, &found) != MME_OK ||
            std::vector<float>(found.scores, found.scores + found.class_count) != expected) {
          ++differing;
        }
      }
      mme_session_destroy(own);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(differing, 0);
}

TEST_F(SessionTest, OneSessionInManyThreadsIsBusyNotBroken) {
  std::atomic<int> served{0}, busy{0}, other{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        const mme_status status = set_both(session);
        ++(status == MME_OK ? served : status == MME_BUSY ? busy : other);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(served, 0);
  EXPECT_EQ(other, 0);
}

TEST_F(SessionTest, StructsOfAnotherVersionAreChecked) {
  struct {
    mme_image image;
    char newer[16];
  } grown{make_image(MME_IMAGE_RGB8, 40, 30, pixels), {}};
  grown.image.struct_size = sizeof grown;
  EXPECT_EQ(mme_session_set_image(session, "image", &grown.image), MME_OK);
  grown.newer[3] = 1;
  EXPECT_EQ(mme_session_set_image(session, "image", &grown.image), MME_INVALID_ARGUMENT);
  mme_result small{};
  small.struct_size = 8;
  EXPECT_EQ(mme_session_run(session, &small), MME_INVALID_ARGUMENT);
}

TEST_F(SessionTest, AStreamThatWasResetIsToBeSetAgain) {
  const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
  const mme_audio audio = make_audio(samples, 16000);
  ASSERT_EQ(mme_session_set_image(session, "image", &image), MME_OK);
  ASSERT_EQ(mme_session_push_audio(session, "audio", &audio), MME_OK) << mme_last_error();
  ASSERT_EQ(mme_session_reset_audio(session, "audio"), MME_OK) << mme_last_error();
  mme_result found{};
  found.struct_size = sizeof found;
  EXPECT_EQ(mme_session_run(session, &found), MME_NOT_READY);
}

TEST_F(SessionTest, TheTimesOfAllPushesOfARunCount) {
  using Clock = std::chrono::steady_clock;
  const mme_audio audio = make_audio(samples, 16000);
  ASSERT_EQ(mme_session_set_absent(session, "image"), MME_OK);
  const auto begin = Clock::now();
  for (int i = 0; i < 20; ++i) ASSERT_EQ(mme_session_push_audio(session, "audio", &audio), MME_OK) << mme_last_error();
  const std::chrono::nanoseconds passed = Clock::now() - begin;
  ASSERT_EQ(run(session).size(), 10U) << mme_last_error();
  mme_timing timing{sizeof(mme_timing), nullptr, 0};
  ASSERT_EQ(mme_session_timing(session, 1, &timing), MME_OK);
  EXPECT_STREQ(timing.stage, "preprocess.audio");
  EXPECT_GT(timing.nanoseconds, passed.count() / 2) << "of pushes that are all alike";
}

TEST(Session, AnOutputThatIsNotFiniteIsAnErrorThatNamesIt) {
  mme_model* model = nullptr;
  mme_session* session = nullptr;
  ASSERT_EQ(mme_model_open(bundle_path("nan.mme").c_str(), nullptr, &model), MME_OK) << mme_last_error();
  ASSERT_EQ(mme_session_create(model, nullptr, &session), MME_OK);
  const std::vector<uint8_t> pixels(12);
  const mme_image image = make_image(MME_IMAGE_RGB8, 2, 2, pixels);
  EXPECT_EQ(mme_session_set_image(session, "image", &image), MME_OK);
  EXPECT_EQ(mme_session_set_absent(session, "audio"), MME_OK);
  mme_result result{};
  result.struct_size = sizeof result;
  EXPECT_EQ(mme_session_run(session, &result), MME_BAD_OUTPUT);
  EXPECT_NE(std::string(mme_last_error()).find("\"logits\""), std::string::npos) << mme_last_error();
  EXPECT_EQ(result.label, nullptr);
  mme_session_destroy(session);
  mme_model_close(model);
}

TEST(Engine, AMissingOrForeignLibraryIsNamed) {
  for (const char* library : {"/nonexistent/libonnxruntime.so", "libm.so.6"}) {
    mme_model_options options{sizeof(mme_model_options), library, 1};
    mme_model* model = nullptr;
    EXPECT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), &options, &model), MME_ENGINE_UNAVAILABLE);
    EXPECT_NE(std::string(mme_last_error()).find(library), std::string::npos) << mme_last_error();
  }
}

TEST(Status, EveryStatusHasAName) {
  for (int status = MME_OK; status <= MME_INTERNAL; ++status) {
    EXPECT_EQ(std::string(mme_status_name(static_cast<mme_status>(status))).substr(0, 4), "MME_");
  }
  EXPECT_STREQ(mme_status_name(static_cast<mme_status>(15)), "unknown");
  EXPECT_EQ(mme_api_version(), static_cast<uint32_t>(MME_API_VERSION));
}

}  // namespace
