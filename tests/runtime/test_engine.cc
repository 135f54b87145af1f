// The engine's options: providers, threads, memory, and the cache.
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <iterator>
#include <string>

#include "support.h"

namespace {

namespace fs = std::filesystem;

mme_model_options make_options() {
  mme_model_options options{};
  options.struct_size = sizeof options;
  return options;
}

// Opens the small bundle, runs it on a frame and gives the scores; fails the test where anything does.
std::vector<float> scores_with(const mme_model_options* options) {
  mme_model* model = nullptr;
  mme_session* session = nullptr;
  EXPECT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), options, &model), MME_OK) << mme_last_error();
  EXPECT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
  std::vector<uint8_t> pixels(40 * 30 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 7);
  const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
  mme_result result{};
  result.struct_size = sizeof result;
  EXPECT_EQ(mme_session_set_image(session, "image", &image), MME_OK) << mme_last_error();
  EXPECT_EQ(mme_session_set_absent(session, "audio"), MME_OK);
  EXPECT_EQ(mme_session_run(session, &result), MME_OK) << mme_last_error();
  const std::vector<float> scores(result.scores, result.scores + result.class_count);
  EXPECT_EQ(mme_session_destroy(session), MME_OK);
  EXPECT_EQ(mme_model_close(model), MME_OK);
  return scores;
}

void expect_near(const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-6);
}

mme_status open_status(const mme_model_options& options) {
  mme_model* model = nullptr;
  const mme_status status = mme_model_open(bundle_path("digits.mme").c_str(), &options, &model);
  if (status == MME_OK) mme_model_close(model);
  return status;
}

TEST(EngineTest, AMissingProviderIsAnErrorNamingThoseThereAre) {
  for (const char* provider : {"cuda", "tensorrt"}) {
    mme_model_options options = make_options();
    options.provider = provider;
    if (open_status(options) == MME_OK) GTEST_SKIP() << "this machine has " << provider;
    EXPECT_EQ(open_status(options), MME_ENGINE_UNAVAILABLE) << mme_last_error();
    EXPECT_NE(std::string(mme_last_error()).find("CPUExecutionProvider"), std::string::npos) << mme_last_error();
  }
}

TEST(EngineTest, TensorrtRtxSaysWhatItLacks) {
  mme_model_options options = make_options();
  options.provider = "tensorrt-rtx";
  if (open_status(options) == MME_OK) GTEST_SKIP() << "this machine has TensorRT-RTX";
  EXPECT_EQ(open_status(options), MME_ENGINE_UNAVAILABLE) << mme_last_error();
  EXPECT_NE(std::string(mme_last_error()).find("TensorRT-RTX"), std::string::npos) << mme_last_error();
}

TEST(EngineTest, AnUnknownProviderIsTheCallersFault) {
  mme_model_options options = make_options();
  options.provider = "tpu";
  EXPECT_EQ(open_status(options), MME_INVALID_ARGUMENT);
  EXPECT_STREQ(mme_last_error(), "options->provider is \"tpu\"; expected cpu, cuda, tensorrt or tensorrt-rtx");
}

TEST(EngineTest, TheEngineSaysWhichProviderRuns) {
  mme_model* model = nullptr;
  ASSERT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), nullptr, &model), MME_OK) << mme_last_error();
  mme_model_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(mme_model_get_info(model, &info), MME_OK);
  EXPECT_NE(std::string(info.engine).find("provider cpu"), std::string::npos) << info.engine;
  mme_model_close(model);
}

TEST(EngineTest, ThreadsMemoryAndDenormalsDoNotChangeTheResult) {
  const std::vector<float> expected = scores_with(nullptr);
  mme_model_options options = make_options();
  options.provider = "cpu";
  options.threads = 2;
  options.affinities = "1";
  options.disable_arena = 1;
  options.allow_spinning = 1;
  options.keep_denormals = 1;
  expect_near(scores_with(&options), expected);
}

TEST(EngineTest, AffinitiesForTheWrongNumberOfThreadsAreRefused) {
  mme_model_options options = make_options();
  options.threads = 2;
  options.affinities = "1;1;1";
  EXPECT_NE(open_status(options), MME_OK);
  EXPECT_NE(std::string(mme_last_error()).find("affinities"), std::string::npos) << mme_last_error();
}

TEST(EngineTest, TheCallersOwnDenormalsAreLeftAlone) {
  const volatile float denormal = 1e-39F;
  scores_with(nullptr);
  EXPECT_NE(denormal * 1.0F, 0.0F);
}

TEST(EngineTest, AnotherLibraryThanTheOneThatRunsIsRefusedWhereverItIsSaidToBe) {
  scores_with(nullptr);
  for (const std::string& path : {std::string("/nowhere/libonnxruntime.so"), "/" + std::string(5000, 'x')}) {
    mme_model_options options = make_options();
    options.onnxruntime = path.c_str();
    EXPECT_STREQ(mme_status_name(open_status(options)), "MME_ENGINE_UNAVAILABLE") << mme_last_error();
    EXPECT_NE(std::string(mme_last_error()).find("this process already runs"), std::string::npos) << mme_last_error();
  }
}

class CacheTest : public testing::Test {
 protected:
  void SetUp() override {
    directory = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(directory);
    fs::create_directories(directory);
    text = directory.string();
    options.cache = text.c_str();
  }
  void TearDown() override { fs::remove_all(directory); }

  fs::path only_file() const {
    fs::path found;
    for (const auto& entry : fs::directory_iterator(directory)) {
      EXPECT_TRUE(found.empty()) << entry.path() << " beside " << found;
      found = entry.path();
    }
    return found;
  }

  fs::path directory;
  std::string text;
  mme_model_options options = make_options();
};

TEST_F(CacheTest, TheSecondStartTakesWhatTheFirstKeptAndGivesTheSameScores) {
  const std::vector<float> expected = scores_with(nullptr);
  expect_near(scores_with(&options), expected);
  const fs::path kept = only_file();
  const auto written = fs::last_write_time(kept);
  expect_near(scores_with(&options), expected);
  EXPECT_EQ(only_file(), kept);
  EXPECT_EQ(fs::last_write_time(kept), written);
}

TEST_F(CacheTest, ADamagedFileIsMadeAnew) {
  const std::vector<float> expected = scores_with(&options);
  const auto size = fs::file_size(only_file());
  std::fstream(only_file(), std::ios::in | std::ios::out | std::ios::binary).seekp(std::streamoff(size) / 2)
      << "damage";
  expect_near(scores_with(&options), expected);
  std::ifstream kept(only_file(), std::ios::binary);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(kept), {}).find("damage"), std::string::npos);
  fs::resize_file(only_file(), size / 2);
  expect_near(scores_with(&options), expected);
  EXPECT_GT(fs::file_size(only_file()), size / 2);
}

TEST_F(CacheTest, AFullDiskIsNoFault) {
  const std::vector<float> expected = scores_with(nullptr);
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit full = {1000, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &full);
  const std::vector<float> found = scores_with(&options);
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, before);
  expect_near(found, expected);
  EXPECT_TRUE(fs::is_empty(directory));
}

TEST_F(CacheTest, AMissingDirectoryIsTheCallersFault) {
  const std::string missing = text + "/missing";
  options.cache = missing.c_str();
  EXPECT_EQ(open_status(options), MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("is not a directory"), std::string::npos) << mme_last_error();
}

}  // namespace
