// The C++ wrapper against the C API it wraps.
#include <unistd.h>

#include <array>
#include <cstring>
#include <mmedge_gallery.hpp>
#include <type_traits>
#include <utility>

#include "support.h"

namespace {

template <class Class>
constexpr bool kMovesOnly = std::is_nothrow_move_constructible_v<Class> && std::is_nothrow_move_assignable_v<Class> &&
                            !std::is_copy_constructible_v<Class> && !std::is_copy_assignable_v<Class>;
static_assert(kMovesOnly<mmedge::Model> && kMovesOnly<mmedge::Session> && kMovesOnly<mmedge::Preprocessor> &&
              kMovesOnly<mmedge::Gallery>);

constexpr const char* kGreyImage =
    R"({"type": "image", "width": 4, "height": 2, "channels": "grey", "fit": "stretch", "interpolation": "bilinear",
        "antialias": true, "mean": [0.0], "std": [0.00392156862745098]})";

class HppTest : public testing::Test {
 protected:
  mmedge::Result run(mmedge::Session& session) const {
    session.set("image", mmedge::make_image(MME_IMAGE_RGB8, 40, 30, pixels));
    session.set("audio", mmedge::make_audio(samples, 16000));
    return session.run();
  }

  std::filesystem::path bundle = bundle_path("digits.mme");
  std::vector<uint8_t> pixels = std::vector<uint8_t>(40 * 30 * 3, 90);
  std::vector<float> samples = std::vector<float>(16000, 0.25F);
};

mme_status status_of(const auto& call) {
  try {
    call();
  } catch (const mmedge::Error& error) {
    EXPECT_STREQ(error.what(), mme_last_error());
    return error.status();
  }
  return MME_OK;
}

TEST_F(HppTest, ARunEqualsTheCApis) {
  const mmedge::Model model(bundle);
  mmedge::Session session(model);
  const mmedge::Result found = run(session);

  mme_session* handle = nullptr;
  ASSERT_EQ(mme_session_create(model.get(), nullptr, &handle), MME_OK) << mme_last_error();
  const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
  const mme_audio audio = make_audio(samples, 16000);
  mme_result expected{};
  expected.struct_size = sizeof expected;
  ASSERT_EQ(mme_session_set_image(handle, "image", &image), MME_OK);
  ASSERT_EQ(mme_session_set_audio(handle, "audio", &audio), MME_OK);
  ASSERT_EQ(mme_session_run(handle, &expected), MME_OK);
  EXPECT_EQ(found.label, expected.label);
  EXPECT_EQ(found.class_index, expected.class_index);
  EXPECT_EQ(found.score, expected.score);
  ASSERT_EQ(found.scores.size(), 10U);
  EXPECT_TRUE(std::equal(found.scores.begin(), found.scores.end(), expected.scores));
  ASSERT_EQ(found.ranking.size(), 10U);
  EXPECT_TRUE(std::equal(found.ranking.begin(), found.ranking.end(), expected.ranking));

  ASSERT_EQ(found.output_count, expected.output_count);
  mme_tensor logits{};
  logits.struct_size = sizeof logits;
  ASSERT_EQ(mme_session_output(handle, 0, &logits), MME_OK);
  const mmedge::Tensor output = session.output(0);
  EXPECT_EQ(output.name, logits.name);
  EXPECT_EQ(std::vector<int64_t>(output.shape.begin(), output.shape.end()), std::vector<int64_t>{10});
  ASSERT_EQ(output.values<float>().size(), 10U);
  EXPECT_EQ(std::memcmp(output.values<float>().data(), logits.data, logits.size), 0);
  EXPECT_EQ(mme_session_destroy(handle), MME_OK);
}

TEST_F(HppTest, AModelDescribesItself) {
  const mmedge::Model model(bundle, {.threads = 2});
  EXPECT_EQ(model.name(), "digits");
  EXPECT_EQ(model.task(), "classification");
  EXPECT_NE(model.engine().find("ONNX Runtime"), std::string_view::npos);
  EXPECT_EQ(model.manifest().front(), '{');
  EXPECT_EQ(model.labels().size(), 10U);
  EXPECT_EQ(model.labels().front(), "zero");
  const auto inputs = model.inputs();
  ASSERT_EQ(inputs.size(), 2U);
  EXPECT_EQ(inputs[0].name, "image");
  EXPECT_EQ(inputs[1].modality, "audio");
  EXPECT_EQ(inputs[0].type, MME_FLOAT32);
  EXPECT_EQ(std::vector<int64_t>(inputs[0].shape.begin(), inputs[0].shape.end()), (std::vector<int64_t>{1, 32, 32}));
  EXPECT_EQ(mmedge::Preprocessor(std::string(inputs[1].preprocess)).info().modality, "audio");
}

TEST_F(HppTest, TheStagesFollowEachOtherOnTheMonotonicClock) {
  const mmedge::Model model(bundle);
  mmedge::Session session(model);
  const auto before = std::chrono::steady_clock::now().time_since_epoch();
  const mmedge::Result result = run(session);
  const auto after = std::chrono::steady_clock::now().time_since_epoch();
  std::vector<std::string_view> stages;
  auto begin = before;
  for (size_t i = 0; i + 1 < result.timing_count; ++i) {
    const mmedge::Timing timing = session.timing(i);
    stages.push_back(timing.stage);
    EXPECT_GE(timing.begin, begin);
    begin = timing.begin + timing.duration;
  }
  EXPECT_LE(begin, after);
  EXPECT_EQ(stages, (std::vector<std::string_view>{"preprocess.image", "preprocess.audio", "engine", "postprocess"}));
  EXPECT_EQ(session.timing(result.timing_count - 1).stage, "total");
}

TEST_F(HppTest, OptionsReachTheLibrary) {
  EXPECT_EQ(status_of([&] { mmedge::Model(bundle, {.onnxruntime = "/none.so"}); }), MME_ENGINE_UNAVAILABLE);
  EXPECT_EQ(status_of([&] { mmedge::Model(bundle, {.provider = "abacus"}); }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([&] { mmedge::Model(bundle, {.threads = -1}); }), MME_INVALID_ARGUMENT);
  EXPECT_NE(status_of([&] { mmedge::Model(bundle, {.threads = 2, .affinities = "no"}); }), MME_OK);
  EXPECT_NE(status_of([&] { mmedge::Model(bundle, {.cache = bundle / "none"}); }), MME_OK);
  const mmedge::Model model(bundle, {.arena = false, .spinning = true, .flush_denormals = false});
  mmedge::Session session(model, 3);
  EXPECT_EQ(run(session).ranking.size(), 3U);
  EXPECT_EQ(status_of([&] { mmedge::Session(model, 11); }), MME_INVALID_ARGUMENT);
}

TEST_F(HppTest, AnErrorCarriesStatusAndMessage) {
  try {
    mmedge::Model(bundle / "none");
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(dynamic_cast<const mmedge::Error&>(error).status(), MME_BUNDLE_INVALID);
    EXPECT_NE(std::string_view(error.what()).find("none"), std::string_view::npos);
  }
  EXPECT_EQ(status_of([&] { mmedge::check_bundle(bundle); }), MME_OK);
  EXPECT_EQ(status_of([&] { mmedge::check_bundle(bundle / "none"); }), MME_BUNDLE_INVALID);
  EXPECT_EQ(status_of([] { mmedge::Preprocessor("{}"); }), MME_INVALID_ARGUMENT);
}

TEST_F(HppTest, CallsInTheWrongOrderAreRefused) {
  const mmedge::Model model(bundle);
  mmedge::Session session(model);
  EXPECT_EQ(status_of([&] { session.run(); }), MME_NOT_READY);
  EXPECT_EQ(status_of([&] { session.output(0); }), MME_NOT_READY);
  EXPECT_EQ(status_of([&] { session.timing(0); }), MME_NOT_READY);
  run(session);
  EXPECT_EQ(status_of([&] { session.run(); }), MME_NOT_READY);
  EXPECT_EQ(status_of([&] { session.set_absent("smell"); }), MME_INVALID_ARGUMENT);
  session.set_absent("image");
  session.set_absent("audio");
  EXPECT_EQ(status_of([&] { session.run(); }), MME_INVALID_ARGUMENT);
}

TEST_F(HppTest, ASessionOutlivesItsModelAndMoves) {
  auto model = std::make_unique<mmedge::Model>(bundle);
  mmedge::Session first(*model);
  const mmedge::Result result = run(first);
  const std::vector<float> expected(result.scores.begin(), result.scores.end());
  model.reset();

  mmedge::Session second(std::move(first));
  const mmedge::Result moved = run(second);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), moved.scores.begin()));
  // NOLINTNEXTLINE(bugprone-use-after-move): this is the test
  EXPECT_EQ(status_of([&] { first.set_absent("image"); }), MME_INVALID_HANDLE);
  first = std::move(second);
  EXPECT_EQ(run(first).label.empty(), false);
}

TEST_F(HppTest, AReadyTensorEqualsThePreprocessedInput) {
  const mmedge::Model model(bundle);
  mmedge::Session session(model);
  const mmedge::Result result = run(session);
  const std::vector<float> expected(result.scores.begin(), result.scores.end());
  mmedge::Preprocessor preprocessor{std::string(model.inputs()[0].preprocess)};
  const mmedge::Tensor tensor = preprocessor.run(mmedge::make_image(MME_IMAGE_RGB8, 40, 30, pixels));
  session.set("image", mmedge::make_tensor(tensor.values<float>(), tensor.shape));
  session.set("audio", mmedge::make_audio(samples, 16000));
  const mmedge::Result again = session.run();
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), again.scores.begin()));
  const std::array<uint8_t, 1024> bytes{};
  EXPECT_EQ(status_of([&] { session.set("image", mmedge::make_tensor(bytes, tensor.shape)); }), MME_INVALID_ARGUMENT);
  EXPECT_THROW(tensor.values<uint8_t>(), mmedge::Error);
}

TEST_F(HppTest, FramesAreLaidOutAsTheirFormatSays) {
  const std::vector<uint8_t> bytes(64);
  const mme_image i420 = mmedge::make_image(MME_IMAGE_I420, 5, 3, bytes);  // chroma 3x2
  EXPECT_EQ(i420.struct_size, sizeof i420);
  EXPECT_EQ(i420.planes[0], bytes.data());
  EXPECT_EQ(i420.planes[1], bytes.data() + 15);
  EXPECT_EQ(i420.planes[2], bytes.data() + 21);
  EXPECT_EQ(i420.strides[0], 5U);
  EXPECT_EQ(i420.strides[2], 3U);
  EXPECT_EQ(i420.sizes[1], 64U - 15U);
  EXPECT_EQ(mmedge::make_image(MME_IMAGE_NV12, 5, 3, bytes).strides[1], 6U);
  EXPECT_EQ(mmedge::make_image(MME_IMAGE_YUYV, 5, 3, bytes).strides[0], 12U);
  EXPECT_EQ(mmedge::make_image(MME_IMAGE_BGRA8, 5, 3, bytes).strides[0], 20U);
  const mme_image padded = mmedge::make_image(MME_IMAGE_GREY8, 5, 3, {{bytes, 8}});
  EXPECT_EQ(padded.strides[0], 8U);

  mmedge::Preprocessor preprocessor(kGreyImage);
  const auto too_short = mmedge::make_image(MME_IMAGE_GREY8, 9, 8, bytes);
  EXPECT_EQ(status_of([&] { preprocessor.run(too_short); }), MME_BAD_INPUT);
  EXPECT_EQ(status_of([&] { preprocessor.run(mmedge::make_image(MME_IMAGE_GREY8, -9, 8, bytes)); }), MME_BAD_INPUT);
}

TEST_F(HppTest, ThePlanesOfAFrameMayLieApart) {
  std::vector<uint8_t> frame(8 * 4 * 3 / 2);
  for (size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(37 * i);
  const std::span<const uint8_t> all(frame);
  mmedge::Preprocessor preprocessor(kGreyImage);
  const auto values = [](const mmedge::Tensor& tensor) {
    return std::vector<float>(tensor.values<float>().begin(), tensor.values<float>().end());
  };
  const auto whole = values(preprocessor.run(mmedge::make_image(MME_IMAGE_NV12, 8, 4, frame)));
  EXPECT_EQ(values(preprocessor.run(mmedge::make_image(MME_IMAGE_NV12, 8, 4, {{all.first(32), 8}, {all.last(16), 8}}))),
            whole);
}

TEST_F(HppTest, AStreamsFramesEqualTheClips) {
  const mmedge::Model model(bundle);
  auto parameters = std::string(model.inputs()[1].preprocess);
  for (const std::pair<const char*, const char*>& change :
       {std::pair{R"("dynamic_range_db":40.0)", R"("dynamic_range_db":0.0)"},
        std::pair{R"("normalize":"clip")", R"("normalize":"none")"},
        std::pair{R"("samples":8000)", R"("samples":0)"}}) {
    const size_t at = parameters.find(change.first);
    ASSERT_NE(at, std::string::npos) << parameters;
    parameters.replace(at, std::strlen(change.first), change.second);
  }
  for (size_t i = 0; i < samples.size(); ++i) samples[i] = 0.25F * static_cast<float>(i * i % 101) / 101.0F;
  mmedge::Preprocessor preprocessor(parameters);
  std::vector<std::vector<float>> clip(40), stream(40);
  const auto append = [](std::vector<std::vector<float>>& bands, const mmedge::Tensor& tensor) {
    ASSERT_EQ(tensor.shape[0], 40);
    const auto frames = static_cast<size_t>(tensor.shape[1]);
    for (size_t band = 0; band < 40; ++band) {
      const auto row = tensor.values<float>().subspan(band * frames, frames);
      bands[band].insert(bands[band].end(), row.begin(), row.end());
    }
  };
  append(clip, preprocessor.run(mmedge::make_audio(samples, 8000)));
  for (size_t start = 0; start < samples.size(); start += 500) {
    append(stream, preprocessor.push(mmedge::make_audio(std::span(samples).subspan(start, 500), 8000)));
  }
  EXPECT_LT(stream[0].size(), clip[0].size());
  append(stream, preprocessor.end());
  EXPECT_EQ(stream, clip);
}

TEST_F(HppTest, PushedSamplesMakeAnInputPresent) {
  const mmedge::Model model(bundle);
  mmedge::Session session(model);
  session.set_absent("image");
  session.push("audio", mmedge::make_audio(samples, 8000));
  const mmedge::Result result = session.run();
  const std::vector<float> first(result.scores.begin(), result.scores.end());
  session.reset("audio");
  session.set_absent("image");
  session.push("audio", mmedge::make_audio(std::span(samples).first(4000), 8000));
  session.push("audio", mmedge::make_audio(std::span(samples).subspan(4000), 8000));
  const mmedge::Result again = session.run();
  EXPECT_TRUE(std::equal(first.begin(), first.end(), again.scores.begin()));
}

TEST(HppTasks, AMultiLabelModelsLabelsAreThoseAboveItsThreshold) {
  const mmedge::Model model(bundle_path("multilabel.mme"));
  mmedge::Session session(model);
  session.set("image", mmedge::make_image(MME_IMAGE_RGB8, 1, 1, std::vector<uint8_t>{255, 0, 220}));
  const mmedge::Result result = session.run();
  EXPECT_EQ(std::vector<int32_t>(result.above_threshold.begin(), result.above_threshold.end()),
            (std::vector<int32_t>{0, 2}));
  EXPECT_TRUE(result.embedding.empty());
  EXPECT_EQ(model.metric(), "");
  EXPECT_EQ(status_of([&] { session.region(); }), MME_INVALID_ARGUMENT);
}

TEST(HppTasks, AnAnswerHasARegion) {
  const mmedge::Model model(bundle_path("vqa.mme"));
  mmedge::Session session(model);
  const std::vector<uint8_t> white(80 * 60, 255);
  session.set("image", mmedge::make_image(MME_IMAGE_GREY8, 80, 60, white));
  session.set_absent("audio");
  EXPECT_EQ(session.run().label, "left");
  const mmedge::Region region = session.region();
  EXPECT_EQ(region.input, "image");
  EXPECT_EQ(region.map.size(), 48U);
  EXPECT_EQ(region.score, 1);
  EXPECT_EQ(region.box.width, 80);
  EXPECT_EQ(region.map_box.height, 60);
}

TEST(HppTasks, EmbeddingsAreEnrolledFoundAndKept) {
  const mmedge::Model model(bundle_path("embedding.mme"));
  EXPECT_EQ(model.embedding_size(), 8U);
  mmedge::Session session(model);
  const auto embed = [&](std::vector<uint8_t> pixels) {
    session.set("front", mmedge::make_image(MME_IMAGE_GREY8, 2, 2, pixels));
    session.set_absent("back");
    const mmedge::Result result = session.run();
    EXPECT_EQ(result.label, "");
    EXPECT_EQ(result.class_index, -1);
    return std::vector<float>(result.embedding.begin(), result.embedding.end());
  };
  mmedge::Gallery gallery(model);
  EXPECT_TRUE(gallery.search(embed({9, 0, 0, 0}), 3).empty());
  gallery.enroll("left", embed({9, 0, 0, 0}));
  gallery.enroll("right", embed({0, 9, 0, 0}));
  gallery.enroll("left", embed({0, 0, 9, 0}));
  EXPECT_EQ(gallery.size(), 3U);
  EXPECT_EQ(gallery.model(), model.graph_sha256());
  const auto path = std::filesystem::temp_directory_path() / ("mmedge-hpp-" + std::to_string(getpid()) + ".gallery");
  gallery.save(path);
  gallery.remove("left");
  EXPECT_EQ(gallery.search(embed({0, 0, 9, 0}), 3).size(), 1U);
  gallery = mmedge::Gallery::load(path);
  std::filesystem::remove(path);
  EXPECT_EQ(gallery.metric(), MME_COSINE);
  EXPECT_EQ(gallery.dimension(), 8U);
  const auto found = gallery.search(embed({0, 1, 9, 0}), 3);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].name, "left");
  EXPECT_GT(found[0].score, 0.99F);
  std::array<mme_match, 1> one{};
  EXPECT_EQ(gallery.search(embed({0, 9, 0, 0}), one), 1U);
  EXPECT_STREQ(one[0].name, "right");
  EXPECT_EQ(status_of([&] { gallery.search(embed({9, 0, 0, 0}), 0); }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([&] { gallery.remove("nobody"); }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([&] { mmedge::Gallery::load(path); }), MME_BAD_INPUT);
}

TEST(HppSimilarity, TheNearestRowsComeFirst) {
  const std::vector<float> gallery{1, 0, 0, 1, 3, 4}, query{0, 2};
  mme_search search{};
  search.metric = MME_DOT;
  search.gallery = gallery.data();
  search.rows = 3;
  search.dimension = 2;
  std::array<int64_t, 2> indices{};
  std::array<float, 2> scores{};
  EXPECT_EQ(mmedge::similarity_top_k(search, query, indices, scores), 2U);
  EXPECT_EQ(indices, (std::array<int64_t, 2>{2, 1}));
  EXPECT_EQ(scores, (std::array<float, 2>{8, 2}));
  EXPECT_THROW(mmedge::similarity_top_k(search, std::span(query).first(1), indices, scores), mmedge::Error);
}

}  // namespace
