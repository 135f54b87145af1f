// What a run finds, for each task, on bundles whose results can be told from their inputs; see tests/make_bundles.py.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "support.h"

namespace {

class Task {
 public:
  explicit Task(const char* bundle, size_t top_k = 0) {
    mme_session_options options{sizeof(mme_session_options), top_k};
    EXPECT_EQ(mme_model_open(bundle_path(bundle).c_str(), nullptr, &model), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_create(model, &options, &session), MME_OK) << mme_last_error();
  }
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  ~Task() {
    mme_session_destroy(session);
    mme_model_close(model);
  }

  mme_status set(const char* input, const mme_image& image) { return mme_session_set_image(session, input, &image); }
  mme_status absent(const char* input) { return mme_session_set_absent(session, input); }
  mme_status run() { return mme_session_run(session, &result); }
  mme_status read() { return mme_session_region(session, &region); }

  mme_model* model = nullptr;
  mme_session* session = nullptr;
  mme_result result{sizeof(mme_result)};
  mme_region region{sizeof(mme_region)};
};

float sigmoid(double logit) { return static_cast<float>(1 / (1 + std::exp(-logit))); }

TEST(MultiLabel, EveryClassHasAProbabilityOfItsOwnAndThoseFromTheThresholdOnAreCounted) {
  Task task("multilabel.mme");
  const std::vector<uint8_t> orange{255, 204, 0};
  ASSERT_EQ(task.set("image", make_image(MME_IMAGE_RGB8, 1, 1, orange)), MME_OK) << mme_last_error();
  ASSERT_EQ(task.run(), MME_OK) << mme_last_error();
  ASSERT_EQ(task.result.class_count, 3U);
  EXPECT_NEAR(task.result.scores[0], sigmoid(4), 1e-6);
  EXPECT_NEAR(task.result.scores[1], sigmoid(8 * 0.8 - 4), 1e-6);
  EXPECT_NEAR(task.result.scores[2], sigmoid(-4), 1e-6);
  EXPECT_STREQ(task.result.label, "red");
  EXPECT_EQ(std::vector<int32_t>(task.result.ranking, task.result.ranking + 3), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(task.result.above_threshold, 2U);  // of 0.75
  EXPECT_EQ(task.result.embedding, nullptr);
  EXPECT_EQ(task.result.input_weights, nullptr);
  EXPECT_EQ(task.read(), MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("gives no region"), std::string::npos) << mme_last_error();

  const std::vector<uint8_t> dark{10, 20, 15};
  ASSERT_EQ(task.set("image", make_image(MME_IMAGE_RGB8, 1, 1, dark)), MME_OK);
  ASSERT_EQ(task.run(), MME_OK);
  EXPECT_EQ(task.result.above_threshold, 0U);
  EXPECT_STREQ(task.result.label, "green");  // the best all the same
}

TEST(MultiLabel, OnlyTheRankedAreCounted) {
  Task task("multilabel.mme", 1);
  const std::vector<uint8_t> white{255, 255, 255};
  ASSERT_EQ(task.set("image", make_image(MME_IMAGE_RGB8, 1, 1, white)), MME_OK);
  ASSERT_EQ(task.run(), MME_OK);
  EXPECT_EQ(task.result.ranking_count, 1U);
  EXPECT_EQ(task.result.above_threshold, 1U);
}

TEST(MultiLabel, AFailedRunLeavesNoResult) {
  Task task("multilabel.mme");
  const int64_t shape[] = {3, 2, 2};
  mme_tensor output{sizeof(mme_tensor)};
  mme_timing timing{sizeof(mme_timing)};
  for (const float level : {1.0F, 3e38F}) {  // eight times the second is past float32
    const bool fails = level > 1.0F;
    const std::vector<float> levels(12, level);
    const mme_tensor tensor{sizeof(mme_tensor), nullptr, MME_FLOAT32, levels.data(), 12 * sizeof(float), 3, shape};
    ASSERT_EQ(mme_session_set_tensor(task.session, "image", &tensor), MME_OK) << mme_last_error();
    EXPECT_EQ(task.run(), fails ? MME_BAD_OUTPUT : MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_output(task.session, 0, &output), fails ? MME_NOT_READY : MME_OK);
    EXPECT_EQ(mme_session_timing(task.session, 0, &timing), fails ? MME_NOT_READY : MME_OK);
  }
}

TEST(Embedding, IsTheVectorOfLengthOneAndHasNoLabel) {
  Task task("embedding.mme");
  const std::vector<uint8_t> front{51, 102, 153, 204}, back{0, 0, 255, 0};
  ASSERT_EQ(task.set("front", make_image(MME_IMAGE_GREY8, 2, 2, front)), MME_OK) << mme_last_error();
  ASSERT_EQ(task.set("back", make_image(MME_IMAGE_GREY8, 2, 2, back)), MME_OK) << mme_last_error();
  ASSERT_EQ(task.run(), MME_OK) << mme_last_error();
  EXPECT_EQ(task.result.label, nullptr);
  EXPECT_EQ(task.result.class_index, -1);
  EXPECT_EQ(task.result.score, 0);
  EXPECT_EQ(task.result.class_count, 0U);
  EXPECT_EQ(task.result.scores, nullptr);
  EXPECT_EQ(task.result.ranking_count, 0U);
  ASSERT_EQ(task.result.embedding_size, 8U);
  const std::vector<double> levels{0.2, 0.4, 0.6, 0.8, 0, 0, 1, 0};
  const double length = std::sqrt(std::inner_product(levels.begin(), levels.end(), levels.begin(), 0.0));
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(task.result.embedding[i], levels[i] / length, 1e-6) << i;
  ASSERT_EQ(task.result.input_weight_count, 2U);
  EXPECT_EQ(task.result.input_weights[0], 0.5F);

  mme_tensor output{sizeof(mme_tensor)};
  ASSERT_EQ(mme_session_output(task.session, 1, &output), MME_OK);
  EXPECT_STREQ(output.name, "embedding");
  EXPECT_NEAR(static_cast<const float*>(output.data)[6], 1, 1e-6);  // as the graph gave it
}

TEST(Embedding, AnAbsentInputWeighsNothing) {
  Task task("embedding.mme");
  const std::vector<uint8_t> back{9, 8, 7, 6};
  ASSERT_EQ(task.absent("front"), MME_OK);
  ASSERT_EQ(task.set("back", make_image(MME_IMAGE_GREY8, 2, 2, back)), MME_OK);
  ASSERT_EQ(task.run(), MME_OK);
  EXPECT_EQ(task.result.input_weights[0], 0.0F);
  EXPECT_EQ(task.result.input_weights[1], 1.0F);
}

TEST(Classification, AFloat16ThatIsNoFiniteNumberIsRefused) {
  Task task("varying.mme");
  const int64_t shape[] = {1, 2, 2};
  // The largest and the least; infinities and a NaN.
  for (const uint16_t bits : {0x7bff, 0xfbff, 0x0001, 0x7c00, 0xfc00, 0x7e00}) {
    const bool finite = (bits & 0x7c00) != 0x7c00;
    const uint16_t halves[] = {0, 0x3c00, bits, 0};
    const mme_tensor tensor{sizeof(mme_tensor), nullptr, MME_FLOAT16, halves, sizeof halves, 3, shape};
    EXPECT_EQ(mme_session_set_tensor(task.session, "image", &tensor), finite ? MME_OK : MME_BAD_INPUT) << bits;
    const std::string said = finite ? "element 2" : mme_last_error();
    EXPECT_NE(said.find("element 2"), std::string::npos) << said;
  }
}

TEST(Classification, AnAbsentInputWeighsNothingWhateverTheGraphSays) {
  Task task("varying.mme");
  const std::vector<uint8_t> frame{9, 8, 7, 6};
  ASSERT_EQ(task.set("image", make_image(MME_IMAGE_GREY8, 2, 2, frame)), MME_OK) << mme_last_error();
  ASSERT_EQ(task.absent("audio"), MME_OK);
  ASSERT_EQ(task.run(), MME_OK) << mme_last_error();
  ASSERT_EQ(task.result.input_weight_count, 2U);
  EXPECT_EQ(task.result.input_weights[0], 0.75F);
  EXPECT_EQ(task.result.input_weights[1], 0.0F);
  mme_tensor output{sizeof(mme_tensor)};
  ASSERT_EQ(mme_session_output(task.session, 1, &output), MME_OK);
  EXPECT_EQ(static_cast<const float*>(output.data)[1], 0.25F);  // as the graph gave it
}

TEST(Embedding, AModelSaysWhatItIs) {
  Task task("embedding.mme");
  mme_model_info info{sizeof(mme_model_info)};
  ASSERT_EQ(mme_model_get_info(task.model, &info), MME_OK);
  EXPECT_STREQ(info.task, "embedding");
  EXPECT_STREQ(info.metric, "cosine");
  EXPECT_EQ(info.embedding_size, 8U);
  EXPECT_EQ(info.label_count, 0U);
  EXPECT_EQ(std::string(info.graph_sha256).size(), 64U);
  EXPECT_NE(std::string(info.manifest).find(info.graph_sha256), std::string::npos);
  mme_session_options options{sizeof(mme_session_options), 1};
  mme_session* session = nullptr;
  EXPECT_EQ(mme_session_create(task.model, &options, &session), MME_INVALID_ARGUMENT);

  Task other("digits.mme");
  ASSERT_EQ(mme_model_get_info(other.model, &info), MME_OK);
  EXPECT_EQ(info.metric, nullptr);
  EXPECT_EQ(info.embedding_size, 0U);
}

// Of vqa.mme, the map is 8 x 6 cells of the frame letterboxed, and the relevance is the picture itself.
class RegionTest : public testing::Test {
 protected:
  // A black frame with a white rectangle.
  static std::vector<uint8_t> painted(int width, int height, int x, int y, int w, int h) {
    std::vector<uint8_t> pixels(static_cast<size_t>(width) * static_cast<size_t>(height));
    for (int row = y; row < y + h; ++row) {
      for (int column = x; column < x + w; ++column) {
        pixels[static_cast<size_t>(row) * static_cast<size_t>(width) + static_cast<size_t>(column)] = 255;
      }
    }
    return pixels;
  }

  void run(const mme_image& image) {
    ASSERT_EQ(task.set("image", image), MME_OK) << mme_last_error();
    ASSERT_EQ(task.absent("audio"), MME_OK);
    ASSERT_EQ(task.run(), MME_OK) << mme_last_error();
    ASSERT_EQ(task.read(), MME_OK) << mme_last_error();
  }

  std::vector<float> box() const { return {task.region.x, task.region.y, task.region.width, task.region.height}; }
  std::vector<float> map_box() const {
    return {task.region.map_x, task.region.map_y, task.region.map_width, task.region.map_height};
  }

  Task task{"vqa.mme"};
};

TEST_F(RegionTest, IsTheRelevancesMapAndItsBoxInPixels) {
  // 80 x 60: a cell is 10 x 10 pixels, and nothing is filled up. The rectangle covers cells 2 to 4 and 3 to 4.
  const auto pixels = painted(80, 60, 20, 30, 30, 20);
  run(make_image(MME_IMAGE_GREY8, 80, 60, pixels));
  EXPECT_STREQ(task.result.label, "left");
  EXPECT_STREQ(task.region.input, "image");
  ASSERT_EQ(task.region.rows, 6U);
  ASSERT_EQ(task.region.columns, 8U);
  EXPECT_EQ(map_box(), (std::vector<float>{0, 0, 80, 60}));
  EXPECT_EQ(task.region.threshold, 0.5F);
  mme_tensor relevance{sizeof(mme_tensor)};
  ASSERT_EQ(mme_session_output(task.session, 0, &relevance), MME_OK);
  const auto* values = static_cast<const float*>(relevance.data);
  EXPECT_TRUE(std::equal(task.region.map, task.region.map + 48, values));
  EXPECT_EQ(task.region.score, *std::max_element(values, values + 48));
  // The resize's filter is two cells wide, so an edge is blurred evenly to both sides.
  EXPECT_NEAR(task.region.x, 20, 1.0);
  EXPECT_NEAR(task.region.y, 30, 1.0);
  EXPECT_NEAR(task.region.width, 30, 2.0);
  EXPECT_NEAR(task.region.height, 20, 2.0);
}

TEST_F(RegionTest, LiesInTheUprightFrameHoweverTheFrameIsStored) {
  // Upright, 80 x 60, the same rectangle; stored turned by 90 degrees counter-clockwise it is 60 x 80.
  const auto upright = painted(80, 60, 20, 30, 30, 20);
  run(make_image(MME_IMAGE_GREY8, 80, 60, upright));
  const std::vector<float> expected = box();
  for (const int rotation : {90, 180, 270}) {
    for (const bool mirror : {false, true}) {
      const bool turned = rotation != 180;
      const int width = turned ? 60 : 80, height = turned ? 80 : 60;
      std::vector<uint8_t> stored(upright.size());
      for (int y = 0; y < 60; ++y) {
        for (int x = 0; x < 80; ++x) {
          const int u = mirror ? 79 - x : x;  // upright, before it was mirrored
          const int column = rotation == 90 ? y : rotation == 180 ? 79 - u : 59 - y;
          const int row = rotation == 90 ? 79 - u : rotation == 180 ? 59 - y : u;
          stored[static_cast<size_t>(row * width + column)] = upright[static_cast<size_t>(y * 80 + x)];
        }
      }
      mme_image image = make_image(MME_IMAGE_GREY8, width, height, stored);
      image.rotation = rotation;
      image.mirror = mirror;
      run(image);
      for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(box()[i], expected[i], 0.2) << rotation << ' ' << mirror << ' ' << i;
      EXPECT_EQ(map_box(), (std::vector<float>{0, 0, 80, 60}));
    }
  }
}

TEST_F(RegionTest, IsMovedWithThePartOfTheFrameThatIsUsed) {
  const auto pixels = painted(200, 100, 120, 50, 30, 20);
  mme_image image = make_image(MME_IMAGE_GREY8, 200, 100, pixels);
  image.region_x = 100;
  image.region_y = 20;
  image.region_width = 80;
  image.region_height = 60;
  run(image);
  EXPECT_EQ(map_box(), (std::vector<float>{100, 20, 80, 60}));
  EXPECT_NEAR(task.region.x, 120, 1.0);
  EXPECT_NEAR(task.region.y, 50, 1.0);
  EXPECT_NEAR(task.region.width, 30, 2.0);
  EXPECT_NEAR(task.region.height, 20, 2.0);
}

TEST_F(RegionTest, ReachesPastAFrameThatWasFilledUpAndItsBoxDoesNot) {
  // 160 x 60 into 8 x 6: 8 x 3 cells of 20 pixels, one row of cells above and two below are filled up.
  const auto white = painted(160, 60, 0, 0, 160, 60);
  run(make_image(MME_IMAGE_GREY8, 160, 60, white));
  EXPECT_EQ(map_box(), (std::vector<float>{0, -20, 160, 120}));
  EXPECT_EQ(box(), (std::vector<float>{0, 0, 160, 60}));
}

TEST_F(RegionTest, HasNoBoxWhereNothingReachesTheThreshold) {
  const std::vector<uint8_t> dim(80 * 60, 100);
  run(make_image(MME_IMAGE_GREY8, 80, 60, dim));
  EXPECT_NEAR(task.region.score, 100.0 / 255, 1e-6);
  EXPECT_EQ(box(), (std::vector<float>{0, 0, 0, 0}));
}

TEST_F(RegionTest, IsOfTheLastRunWhateverIsSetForTheNext) {
  const auto pixels = painted(80, 60, 20, 30, 30, 20);
  run(make_image(MME_IMAGE_GREY8, 80, 60, pixels));
  const std::vector<float> expected = box();
  const std::vector<uint8_t> other(8 * 6, 255);
  ASSERT_EQ(task.set("image", make_image(MME_IMAGE_GREY8, 8, 6, other)), MME_OK);
  ASSERT_EQ(task.read(), MME_OK);
  EXPECT_EQ(box(), expected);
  EXPECT_EQ(map_box(), (std::vector<float>{0, 0, 80, 60}));
}

TEST_F(RegionTest, IsNotReadyWithoutAFrame) {
  EXPECT_EQ(task.read(), MME_NOT_READY);
  const std::vector<float> samples(8000, 0.1F);
  const mme_audio audio = make_audio(samples, 8000);
  ASSERT_EQ(task.absent("image"), MME_OK);
  ASSERT_EQ(mme_session_set_audio(task.session, "audio", &audio), MME_OK) << mme_last_error();
  ASSERT_EQ(task.run(), MME_OK) << mme_last_error();
  EXPECT_NE(task.result.label, nullptr);
  EXPECT_EQ(task.read(), MME_NOT_READY);

  const auto pixels = painted(80, 60, 20, 30, 30, 20);
  run(make_image(MME_IMAGE_GREY8, 80, 60, pixels));
  const std::vector<float> values(48, 0.75F);
  const std::vector<int64_t> shape{1, 6, 8};
  const mme_tensor tensor{sizeof(mme_tensor), nullptr,      MME_FLOAT32, values.data(),
                          48 * sizeof(float), shape.size(), shape.data()};
  ASSERT_EQ(mme_session_set_tensor(task.session, "image", &tensor), MME_OK);
  ASSERT_EQ(task.absent("audio"), MME_OK);
  ASSERT_EQ(task.run(), MME_OK);
  EXPECT_EQ(task.read(), MME_NOT_READY);
  EXPECT_NE(std::string(mme_last_error()).find("\"image\""), std::string::npos) << mme_last_error();
}

}  // namespace
