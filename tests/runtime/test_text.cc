// Text through the C API: sessions, preprocessors, and bundles whose tokenizer is not as it was written.
#include <unistd.h>

#include <fstream>
#include <string_view>

#include "support.h"

namespace {

namespace fs = std::filesystem;

constexpr char kText[] = R"({"type": "text", "tokenizer": "tokenizer.json", "max_length": 12})";

class TextTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(mme_model_open(path.c_str(), nullptr, &model), MME_OK) << mme_last_error();
    ASSERT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
    ASSERT_EQ(mme_preprocessor_create_in(kText, path.c_str(), &preprocessor), MME_OK) << mme_last_error();
  }
  void TearDown() override {
    mme_preprocessor_destroy(preprocessor);
    mme_session_destroy(session);
    mme_model_close(model);
  }

  mme_status set(std::string_view text, const char* input = "text") {
    return mme_session_set_text(session, input, text.data(), text.size());
  }

  std::vector<int32_t> ids(std::string_view text) {
    EXPECT_EQ(mme_preprocessor_text(preprocessor, text.data(), text.size(), &tensor), MME_OK) << mme_last_error();
    const auto* values = static_cast<const int32_t*>(tensor.data);
    return {values, values + tensor.size / sizeof(int32_t)};
  }

  std::vector<float> run(mme_session* on) {
    mme_result result{};
    result.struct_size = sizeof result;
    EXPECT_EQ(mme_session_run(on, &result), MME_OK) << mme_last_error();
    mme_tensor logits{sizeof(mme_tensor)};
    EXPECT_EQ(mme_session_output(on, 0, &logits), MME_OK);
    const auto* values = static_cast<const float*>(logits.data);
    return {values, values + 3};
  }

  std::string path = bundle_path("words.mme").string();
  mme_model* model = nullptr;
  mme_session* session = nullptr;
  mme_preprocessor* preprocessor = nullptr;
  mme_tensor tensor{sizeof(mme_tensor)};
};

TEST_F(TextTest, APreprocessorGivesTheTokensPaddedAndCutOff) {
  EXPECT_EQ(ids("Is the red circle left?"), (std::vector<int32_t>{2, 10, 1, 4, 7, 11, 12, 3, 0, 0, 0, 0}));
  EXPECT_EQ(tensor.data_type, MME_INT32);
  EXPECT_EQ(tensor.rank, 1U);
  EXPECT_EQ(tensor.shape[0], 12);
  EXPECT_EQ(ids("r\xc3\xa9"
                "d squares [SEP]"),
            (std::vector<int32_t>{2, 4, 8, 9, 3, 3, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(ids(""), (std::vector<int32_t>{2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  std::string many;
  for (int i = 0; i < 100000; ++i) many += "blue ";
  EXPECT_EQ(ids(many), (std::vector<int32_t>{2, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 3}));
  mme_input_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(mme_preprocessor_get_info(preprocessor, &info), MME_OK);
  EXPECT_STREQ(info.modality, "text");
  EXPECT_EQ(info.data_type, MME_INT32);
}

TEST_F(TextTest, ASessionRunsOnATextAsOnItsTokens) {
  mme_input_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(mme_model_get_input(model, 0, &info), MME_OK);
  EXPECT_STREQ(info.modality, "text");
  EXPECT_EQ(info.data_type, MME_INT32);
  for (const char* text : {"Is the red circle left?", "", "green squares", "\xf0\x9f\x91\x8d"}) {
    ASSERT_EQ(set(text), MME_OK) << mme_last_error();
    const std::vector<float> found = run(session);
    ids(text);
    ASSERT_EQ(mme_session_set_tensor(session, "text", &tensor), MME_OK) << mme_last_error();
    EXPECT_EQ(run(session), found);
  }
}

TEST_F(TextTest, SessionsOfOneModelEachHoldTheirOwnText) {
  mme_session* other = nullptr;
  ASSERT_EQ(mme_session_create(model, nullptr, &other), MME_OK);
  ASSERT_EQ(set("red"), MME_OK);
  const std::vector<float> red = run(session);
  ASSERT_EQ(set("red"), MME_OK);
  ASSERT_EQ(mme_session_set_text(other, "text", "blue circle", 11), MME_OK);
  EXPECT_NE(run(other), red);
  EXPECT_EQ(run(session), red);
  EXPECT_EQ(mme_session_destroy(other), MME_OK);
}

TEST_F(TextTest, AfterAFaultTheInputIsUnset) {
  ASSERT_EQ(set("red"), MME_OK);
  EXPECT_EQ(set("ab\xff"), MME_BAD_INPUT);
  EXPECT_NE(std::string(mme_last_error()).find("byte 2 (255) is not UTF-8"), std::string::npos) << mme_last_error();
  mme_result result{};
  result.struct_size = sizeof result;
  EXPECT_EQ(mme_session_run(session, &result), MME_NOT_READY);
  EXPECT_EQ(set("red", "image"), MME_INVALID_ARGUMENT);
  EXPECT_EQ(mme_session_set_text(session, "text", nullptr, 1), MME_INVALID_ARGUMENT);
  EXPECT_EQ(mme_session_set_text(session, "text", nullptr, 0), MME_OK) << mme_last_error();
  EXPECT_EQ(mme_session_run(session, &result), MME_OK) << mme_last_error();
}

TEST_F(TextTest, ATensorOfAnotherTypeIsRefused) {
  const std::vector<float> values(12);
  const int64_t shape = 12;
  mme_tensor wrong{sizeof(mme_tensor), nullptr, MME_FLOAT32, values.data(), values.size() * sizeof(float), 1, &shape};
  EXPECT_EQ(mme_session_set_tensor(session, "text", &wrong), MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("expected 4, int32"), std::string::npos) << mme_last_error();
}

TEST_F(TextTest, ATokenBelowZeroIsRefused) {
  std::vector<int32_t> values(12);
  values[3] = -1;
  const int64_t shape = 12;
  mme_tensor wrong{sizeof(mme_tensor), nullptr, MME_INT32, values.data(), values.size() * sizeof(int32_t), 1, &shape};
  EXPECT_EQ(mme_session_set_tensor(session, "text", &wrong), MME_BAD_INPUT);
  EXPECT_NE(std::string(mme_last_error()).find("element 3 is below 0, no token's id"), std::string::npos)
      << mme_last_error();
}

TEST_F(TextTest, ABundleWithAnotherTokenizerIsRefused) {
  const fs::path copy = fs::temp_directory_path() / ("mmedge-text-" + std::to_string(getpid())) / "words.mme";
  fs::create_directories(copy.parent_path());
  fs::copy(path, copy);
  std::ofstream(copy / "tokenizer.json", std::ios::app) << ' ';
  mme_model* other = nullptr;
  EXPECT_EQ(mme_model_open(copy.c_str(), nullptr, &other), MME_BUNDLE_INVALID);
  EXPECT_NE(std::string(mme_last_error()).find("tokenizer.json"), std::string::npos) << mme_last_error();
  fs::remove(copy / "tokenizer.json");
  EXPECT_EQ(mme_model_open(copy.c_str(), nullptr, &other), MME_BUNDLE_INVALID);
  fs::remove_all(copy.parent_path());
}

}  // namespace
