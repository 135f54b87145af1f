// In steady state (sizes as in the call before) the library allocates nothing and takes no lock.
#include <execinfo.h>

#include <array>
#include <sstream>

#include "steady_events.h"
#include "support.h"

namespace {

// `except`: a library that may allocate all the same.
template <class Call>
void settle_and_expect_none(Call&& call, const char* except = nullptr) {
  for (int i = 0; i < 3; ++i) ASSERT_STREQ(mme_status_name(call()), "MME_OK") << mme_last_error();
  std::vector<mme_status> statuses(5);
  std::istringstream events(events_of([&] {
    for (mme_status& status : statuses) status = call();
  }));
  for (std::string event; std::getline(events, event);) {
    if (except == nullptr || event.find(except) == std::string::npos) ADD_FAILURE() << event;
  }
  EXPECT_EQ(statuses, std::vector<mme_status>(5, MME_OK));
}

constexpr char kImage[] = R"({"type": "image", "width": 64, "height": 48, "channels": "rgb", "fit": "stretch",
  "interpolation": "bilinear", "antialias": true, "mean": [0, 0, 0], "std": [1, 1, 1]})";
constexpr char kLogMel[] = R"({"type": "log_mel", "sample_rate": 8000, "samples": 0, "n_fft": 200, "win_length": 200,
  "hop_length": 80, "n_mels": 40, "f_min": 0.0, "f_max": 4000.0, "mel_scale": "htk", "mel_norm": "none", "power": 2.0,
  "center": true, "pad_mode": "reflect", "drop_last": false, "log": "db", "floor": 1e-10, "dynamic_range_db": 0.0,
  "normalize": "none"})";

constexpr int kWidth = 318, kHeight = 242;

// A frame of any format, odd rows' ends included, in one buffer.
struct Frame {
  explicit Frame(int32_t format, int32_t rotation = 0) : bytes(size_t{kWidth} * kHeight * 4, 77) {
    image.struct_size = sizeof image;
    image.format = format;
    image.width = kWidth;
    image.height = kHeight;
    image.rotation = rotation;
    constexpr size_t kLuma = size_t{kWidth} * kHeight, kChroma = kLuma / 4;
    const auto plane = [&](int index, size_t offset, size_t stride, size_t size) {
      image.planes[index] = bytes.data() + offset;
      image.strides[index] = stride;
      image.sizes[index] = size;
    };
    if (format == MME_IMAGE_NV12) {
      plane(0, 0, kWidth, kLuma);
      plane(1, kLuma, kWidth, kLuma / 2);
    } else if (format == MME_IMAGE_I420) {
      plane(0, 0, kWidth, kLuma);
      plane(1, kLuma, kWidth / 2, kChroma);
      plane(2, kLuma + kChroma, kWidth / 2, kChroma);
    } else {
      const size_t pixel = format == MME_IMAGE_GREY8                                ? 1
                           : format == MME_IMAGE_YUYV || format == MME_IMAGE_UYVY   ? 2
                           : format == MME_IMAGE_RGBA8 || format == MME_IMAGE_BGRA8 ? 4
                                                                                    : 3;
      plane(0, 0, kWidth * pixel, kLuma * pixel);
    }
  }

  std::vector<uint8_t> bytes;
  mme_image image{};
};

class SteadyStateTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), nullptr, &model), MME_OK) << mme_last_error();
    ASSERT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
  }
  void TearDown() override {
    mme_session_destroy(session);
    mme_model_close(model);
  }

  mme_model* model = nullptr;
  mme_session* session = nullptr;
  std::vector<float> samples = std::vector<float>(48000, 0.25F);
};

// Each call of the hot path on its own, for every format.
class FormatsTest : public SteadyStateTest, public testing::WithParamInterface<int32_t> {};

TEST_P(FormatsTest, AFrameIsPreprocessed) {
  for (const int32_t rotation : {0, 90, 180, 270}) {
    Frame frame(GetParam(), rotation);
    for (const bool region : {false, true}) {
      frame.image.mirror = region;
      frame.image.region_x = frame.image.region_y = region ? 11 : 0;
      frame.image.region_width = frame.image.region_height = region ? 101 : 0;
      settle_and_expect_none([&] { return mme_session_set_image(session, "image", &frame.image); });
      TestPreprocessor preprocessor(kImage);
      mme_tensor tensor{sizeof(mme_tensor)};
      settle_and_expect_none([&] { return mme_preprocessor_image(preprocessor.handle, &frame.image, &tensor); });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Image, FormatsTest, testing::Range<int32_t>(MME_IMAGE_RGB8, MME_IMAGE_UYVY + 1));

// Texts of other lengths than before too, as long as one was as long.
TEST(TextTest, ATextIsTokenized) {
  const std::string path = bundle_path("words.mme").string();
  mme_model* model = nullptr;
  mme_session* session = nullptr;
  ASSERT_EQ(mme_model_open(path.c_str(), nullptr, &model), MME_OK) << mme_last_error();
  ASSERT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
  const std::string texts[] = {
      "Is the r\xc3\xa9"
      "d circle left of [MASK] \xe4\xb8\xad\xe6\x96\x87?",
      "red", ""};
  settle_and_expect_none([&] {
    mme_status status = MME_OK;
    for (const std::string& text : texts) {
      if (status == MME_OK) status = mme_session_set_text(session, "text", text.data(), text.size());
    }
    return status;
  });
  mme_session_destroy(session);
  mme_model_close(model);
}

// From rates other than the model's, 8000, it resamples. For a whole clip libsoxr's state is made anew each time.
class RatesTest : public SteadyStateTest, public testing::WithParamInterface<int32_t> {};

TEST_P(RatesTest, AClipIsPreprocessed) {
  const char* resampler = GetParam() == 8000 ? nullptr : "libsoxr";
  mme_audio audio = make_audio(samples, GetParam());
  settle_and_expect_none([&] { return mme_session_set_audio(session, "audio", &audio); }, resampler);
  TestPreprocessor preprocessor(kLogMel);
  mme_tensor tensor{sizeof(mme_tensor)};
  settle_and_expect_none([&] { return mme_preprocessor_audio(preprocessor.handle, &audio, &tensor); }, resampler);
  const std::vector<int16_t> whole(samples.size(), 1000);
  audio.format = MME_AUDIO_INT16;
  audio.channels = 2;
  audio.samples = whole.data();
  audio.frames = whole.size() / 2;
  settle_and_expect_none([&] { return mme_session_set_audio(session, "audio", &audio); }, resampler);
}

TEST_P(RatesTest, AStreamIsPushed) {
  mme_audio audio = make_audio(samples, GetParam());
  audio.frames = static_cast<size_t>(GetParam()) / 50;
  const auto push = [&] { return mme_session_push_audio(session, "audio", &audio); };
  for (int i = 0; i < 100; ++i) push();  // longer than the window
  settle_and_expect_none(push);
  TestPreprocessor preprocessor(kLogMel);
  mme_tensor tensor{sizeof(mme_tensor)};
  const auto push_alone = [&] { return mme_preprocessor_push_audio(preprocessor.handle, &audio, &tensor); };
  for (int i = 0; i < 100; ++i) push_alone();
  settle_and_expect_none(push_alone);
}

TEST_P(RatesTest, AStreamIsRunFromItsWindow) {
  mme_audio audio = make_audio(samples, GetParam());
  audio.frames = static_cast<size_t>(GetParam()) / 50;
  const Frame frame(MME_IMAGE_BGR8);
  mme_result result{sizeof(mme_result)};
  const auto tick = [&] {
    const mme_status pushed = mme_session_push_audio(session, "audio", &audio);
    if (pushed != MME_OK) return pushed;
    const mme_status set = mme_session_set_image(session, "image", &frame.image);
    return set ? set : mme_session_run(session, &result);
  };
  for (int i = 0; i < 100; ++i) tick();
  settle_and_expect_none(tick);
}

INSTANTIATE_TEST_SUITE_P(Audio, RatesTest, testing::Values(8000, 16000, 44100, 48000));

TEST_F(SteadyStateTest, ARunAndAllThatIsReadFromIt) {
  const Frame frame(MME_IMAGE_RGB8);
  const mme_audio audio = make_audio(samples, 8000);
  mme_result result{sizeof(mme_result)};
  mme_tensor output{sizeof(mme_tensor)};
  mme_timing timing{sizeof(mme_timing)};
  settle_and_expect_none([&] {
    mme_status status = mme_session_set_image(session, "image", &frame.image);
    if (status == MME_OK) status = mme_session_set_audio(session, "audio", &audio);
    if (status == MME_OK) status = mme_session_run(session, &result);
    if (status == MME_OK) status = mme_session_output(session, 0, &output);
    for (size_t i = 0; status == MME_OK && i < result.timing_count; ++i) {
      status = mme_session_timing(session, i, &timing);
    }
    return status;
  });
}

TEST_F(SteadyStateTest, ARunOnATensorWithAnInputAbsent) {
  std::vector<float> values(32 * 32, 0.5F);
  const std::array<int64_t, 3> shape{1, 32, 32};
  const mme_tensor tensor{sizeof(mme_tensor), nullptr,     MME_FLOAT32, values.data(), values.size() * sizeof(float),
                          shape.size(),       shape.data()};
  mme_result result{sizeof(mme_result)};
  settle_and_expect_none([&] {
    mme_status status = mme_session_set_tensor(session, "image", &tensor);
    if (status == MME_OK) status = mme_session_set_absent(session, "audio");
    return status ? status : mme_session_run(session, &result);
  });
}

TEST_F(SteadyStateTest, WhatDescribesAModel) {
  mme_model_info model_info{sizeof(mme_model_info)};
  mme_input_info input_info{sizeof(mme_input_info)};
  const char* label = nullptr;
  settle_and_expect_none([&] {
    mme_status status = mme_model_get_info(model, &model_info);
    if (status == MME_OK) status = mme_model_get_input(model, 1, &input_info);
    return status ? status : mme_model_get_label(model, 3, &label);
  });
}

TEST(SteadyState, ASearch) {
  constexpr size_t kRows = 5000, kDimension = 96, kMost = 1024;
  std::vector<std::byte> gallery(kRows * kDimension * 4);
  std::vector<float> query(kDimension, 0.5F), scores(kMost);
  std::vector<int64_t> indices(kMost);
  size_t found = 0;
  for (const int32_t type : {MME_FLOAT32, MME_FLOAT16, MME_INT8}) {
    for (const int32_t metric : {MME_COSINE, MME_DOT, MME_EUCLIDEAN}) {
      for (const size_t k : {size_t{1}, size_t{10}, kMost}) {
        const mme_search search{sizeof(mme_search), metric, type, gallery.data(), kRows, kDimension, 0, 0};
        settle_and_expect_none(
            [&] { return mme_similarity_top_k(&search, query.data(), k, indices.data(), scores.data(), &found); });
      }
    }
  }
}

// What each task finds, and all that is read of it, from frames of one size.
TEST(SteadyState, EveryTask) {
  for (const char* bundle : {"multilabel.mme", "embedding.mme", "vqa.mme"}) {
    mme_model* model = nullptr;
    mme_session* session = nullptr;
    mme_gallery* gallery = nullptr;
    ASSERT_EQ(mme_model_open(bundle_path(bundle).c_str(), nullptr, &model), MME_OK) << mme_last_error();
    ASSERT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
    ASSERT_EQ(mme_gallery_create(8, MME_COSINE, nullptr, &gallery), MME_OK) << mme_last_error();
    mme_model_info info{sizeof(mme_model_info)};
    ASSERT_EQ(mme_model_get_info(model, &info), MME_OK);
    std::vector<std::string> inputs;
    for (size_t i = 0; i < info.input_count; ++i) {
      mme_input_info input{sizeof(mme_input_info)};
      ASSERT_EQ(mme_model_get_input(model, i, &input), MME_OK);
      inputs.emplace_back(input.name);
    }
    const Frame frame(MME_IMAGE_RGB8);
    mme_result result{sizeof(mme_result)};
    mme_region region{sizeof(mme_region)};
    settle_and_expect_none([&] {
      mme_status status = MME_OK;
      for (const std::string& input : inputs) {
        if (status != MME_OK) break;
        status = input == "audio" ? mme_session_set_absent(session, "audio")
                                  : mme_session_set_image(session, input.c_str(), &frame.image);
      }
      if (status == MME_OK) status = mme_session_run(session, &result);
      if (status != MME_OK || inputs.back() != "audio") return status;
      return mme_session_region(session, &region);
    });
    if (result.embedding != nullptr) {
      for (const char* name : {"one", "two", "one"}) {
        ASSERT_EQ(mme_gallery_enroll(gallery, name, result.embedding, result.embedding_size), MME_OK);
      }
      std::array<mme_match, 1024> matches{mme_match{sizeof(mme_match)}};
      size_t found = 0;
      settle_and_expect_none(
          [&] { return mme_gallery_search(gallery, result.embedding, 8, matches.size(), matches.data(), &found); });
      EXPECT_EQ(found, 2U);
    }
    mme_gallery_destroy(gallery);
    mme_session_destroy(session);
    mme_model_close(model);
  }
}

// The counter itself: what is known to allocate and to lock is seen, and the engine's own work is left out.
TEST_F(SteadyStateTest, WhatAllocatesOrLocksIsCounted) {
  mme_audio audio = make_audio(samples, 8000);
  audio.frames = 4000;
  ASSERT_EQ(mme_session_set_audio(session, "audio", &audio), MME_OK);
  audio.frames = 48000;
  const std::string longer = events_of([&] { mme_session_set_audio(session, "audio", &audio); });
  EXPECT_NE(longer.find("alloc < "), std::string::npos) << longer;

  mme_session* another = nullptr;
  const std::string created = events_of([&] { mme_session_create(model, nullptr, &another); });
  EXPECT_NE(created.find("malloc < "), std::string::npos) << created;
  EXPECT_NE(created.find("pthread_mutex_lock < "), std::string::npos) << created;
  EXPECT_NE(created.find("mme_session_create"), std::string::npos) << created;
  const std::string destroyed = events_of([&] { mme_session_destroy(another); });
  EXPECT_NE(destroyed.find("free < "), std::string::npos) << destroyed;
  EXPECT_NE(events_of([] { mme_bundle_check(nullptr); }), "") << "a message is a string";

  // Opening a model makes the engine allocate many thousand times: all of that is the engine's.
  mme_model* opened = nullptr;
  const std::string path = bundle_path("digits.mme").string();
  events_of([&] { mme_model_open(path.c_str(), nullptr, &opened); });
  const size_t ours = happened;
  EXPECT_EQ(mme_model_close(opened), MME_OK);
  EXPECT_GT(of_the_engine, 2 * ours);
}

}  // namespace

int main(int argc, char** argv) {
  std::array<void*, 4> frames{};
  backtrace(frames.data(), frames.size());  // loads the unwinder
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
