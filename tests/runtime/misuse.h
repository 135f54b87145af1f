// What the tests of misuse share: valid arguments for any call, and the calls that spoil one of them.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

inline constexpr char kImage[] = R"({"type": "image", "width": 8, "height": 8, "channels": "rgb", "fit": "stretch",
  "interpolation": "bilinear", "antialias": true, "mean": [0, 0, 0], "std": [1, 1, 1]})";
inline constexpr char kLogMel[] = R"({"type": "log_mel", "sample_rate": 8000, "samples": 0, "n_fft": 256,
  "win_length": 200, "hop_length": 80, "n_mels": 40, "f_min": 60.0, "f_max": 3800.0, "mel_scale": "htk",
  "mel_norm": "none", "power": 2.0, "center": true, "pad_mode": "reflect", "drop_last": false,
  "log": "db", "floor": 1e-10, "dynamic_range_db": 0.0, "normalize": "none"})";

// Valid arguments for any call, for a test to spoil one of.
struct World {
  World() {
    EXPECT_EQ(mme_model_open(path.c_str(), nullptr, &model), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_preprocessor_create(kImage, &image_preprocessor), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_preprocessor_create(kLogMel, &audio_preprocessor), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_gallery_create(8, MME_COSINE, nullptr, &named), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_gallery_enroll(named, "one", query.data(), query.size()), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_model_open(bundle_path("vqa.mme").c_str(), nullptr, &vqa_model), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_create(vqa_model, nullptr, &vqa), MME_OK) << mme_last_error();
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() {
    mme_session_destroy(vqa);
    mme_model_close(vqa_model);
    mme_gallery_destroy(named);
    mme_preprocessor_destroy(audio_preprocessor);
    mme_preprocessor_destroy(image_preprocessor);
    mme_session_destroy(session);
    mme_model_close(model);
  }

  mme_status run() { return run(session); }
  mme_status run(mme_session* on) const {
    mme_result found{};
    found.struct_size = sizeof found;
    const mme_status status = mme_session_set_image(on, "image", &image);
    if (status != MME_OK) return status;
    mme_session_set_absent(on, "audio");
    return mme_session_run(on, &found);
  }

  std::string path = bundle_path("digits.mme").string();
  mme_model* model = nullptr;
  mme_session* session = nullptr;
  mme_preprocessor* image_preprocessor = nullptr;
  mme_preprocessor* audio_preprocessor = nullptr;

  std::vector<uint8_t> pixels = std::vector<uint8_t>(40 * 30 * 3, 90);
  std::vector<float> samples = std::vector<float>(8000, 0.25F);
  mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
  mme_audio audio = make_audio(samples, 8000);
  std::vector<float> values = std::vector<float>(32 * 32);
  std::array<int64_t, 3> shape{1, 32, 32};
  mme_tensor tensor{sizeof(mme_tensor), nullptr,     MME_FLOAT32, values.data(), values.size() * sizeof(float),
                    shape.size(),       shape.data()};
  mme_model_options model_options{sizeof(mme_model_options)};
  mme_session_options session_options{sizeof(mme_session_options)};
  mme_model_info model_info{sizeof(mme_model_info)};
  mme_input_info input_info{sizeof(mme_input_info)};
  mme_result result{sizeof(mme_result)};
  mme_timing timing{sizeof(mme_timing)};
  std::vector<float> gallery = std::vector<float>(4 * 8, 1.0F), query = std::vector<float>(8, 1.0F);
  mme_search search{sizeof(mme_search), MME_COSINE, MME_FLOAT32, gallery.data(), 4, 8, 0, 0};
  std::array<int64_t, 2> indices{};
  std::array<float, 2> scores{};
  size_t found = 0;
  mme_gallery* named = nullptr;
  mme_gallery_info gallery_info{sizeof(mme_gallery_info)};
  std::array<mme_match, 2> matches{mme_match{sizeof(mme_match)}};
  mme_model* vqa_model = nullptr;
  mme_session* vqa = nullptr;
  mme_region region{sizeof(mme_region)};
};

// What a call answers on a thread that saw no failure yet, so that the message can only be its own.
struct Answer {
  mme_status status;
  std::string message;
};

inline Answer ask(const std::function<mme_status()>& call) {
  Answer answer{};
  std::thread([&] {
    EXPECT_STREQ(mme_last_error(), "");
    answer.status = call();
    answer.message = mme_last_error();
  }).join();
  return answer;
}

// A call with one argument that cannot be used.
struct BadCall {
  std::string what;  // begins with the function's name
  std::function<mme_status(World&)> call;
  mme_status expected = MME_INVALID_ARGUMENT;
};

// Every such call.
const std::vector<BadCall>& bad_calls();
const std::vector<BadCall>& bad_galleries();
const std::vector<BadCall>& bad_searches();
