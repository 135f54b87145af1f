// Every public function, misused in every way its arguments allow: a status and a message each time, and nothing
// written.
#include <array>
#include <cstring>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "support.h"

namespace {

constexpr char kImage[] = R"({"type": "image", "width": 8, "height": 8, "channels": "rgb", "fit": "stretch",
  "interpolation": "bilinear", "antialias": true, "mean": [0, 0, 0], "std": [1, 1, 1]})";
constexpr char kLogMel[] = R"({"type": "log_mel", "sample_rate": 8000, "samples": 0, "n_fft": 256, "win_length": 200,
  "hop_length": 80, "n_mels": 40, "f_min": 60.0, "f_max": 3800.0, "mel_scale": "htk", "mel_norm": "none", "power": 2.0,
  "center": true, "pad_mode": "reflect", "drop_last": false, "log": "db", "floor": 1e-10, "dynamic_range_db": 0.0,
  "normalize": "none"})";

constexpr char kText[] = R"({"type": "text", "tokenizer": "tokenizer.json", "max_length": 8})";

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

Answer ask(const std::function<mme_status()>& call) {
  Answer answer{};
  std::thread([&] {
    EXPECT_STREQ(mme_last_error(), "");
    answer.status = call();
    answer.message = mme_last_error();
  }).join();
  return answer;
}

// Every function that takes a handle, given `handle` for it.
struct HandleCall {
  const char* function;
  char kind;  // of the handle: 'm'odel, 's'ession, 'p'reprocessor, 'g'allery
  std::function<mme_status(World&, void* handle)> call;
};

mme_model* as_model(void* handle) { return static_cast<mme_model*>(handle); }
mme_session* as_session(void* handle) { return static_cast<mme_session*>(handle); }
mme_preprocessor* as_preprocessor(void* handle) { return static_cast<mme_preprocessor*>(handle); }
mme_gallery* as_gallery(void* handle) { return static_cast<mme_gallery*>(handle); }

mme_status search(World& w, mme_gallery* gallery) {
  return mme_gallery_search(gallery, w.query.data(), w.query.size(), w.matches.size(), w.matches.data(), &w.found);
}

const std::vector<HandleCall>& handle_calls() {
  static const std::vector<HandleCall> calls{
      {"mme_model_close", 'm', [](World&, void* h) { return mme_model_close(as_model(h)); }},
      {"mme_model_get_info", 'm', [](World& w, void* h) { return mme_model_get_info(as_model(h), &w.model_info); }},
      {"mme_model_get_input", 'm',
       [](World& w, void* h) { return mme_model_get_input(as_model(h), 0, &w.input_info); }},
      {"mme_model_get_label", 'm',
       [](World&, void* h) {
         const char* label = nullptr;
         return mme_model_get_label(as_model(h), 0, &label);
       }},
      {"mme_session_create", 'm',
       [](World&, void* h) {
         mme_session* made = nullptr;
         const mme_status status = mme_session_create(as_model(h), nullptr, &made);
         EXPECT_EQ(made, nullptr);
         return status;
       }},
      {"mme_session_destroy", 's', [](World&, void* h) { return mme_session_destroy(as_session(h)); }},
      {"mme_session_set_image", 's',
       [](World& w, void* h) { return mme_session_set_image(as_session(h), "image", &w.image); }},
      {"mme_session_set_audio", 's',
       [](World& w, void* h) { return mme_session_set_audio(as_session(h), "audio", &w.audio); }},
      {"mme_session_push_audio", 's',
       [](World& w, void* h) { return mme_session_push_audio(as_session(h), "audio", &w.audio); }},
      {"mme_session_reset_audio", 's', [](World&, void* h) { return mme_session_reset_audio(as_session(h), "audio"); }},
      {"mme_session_set_text", 's',
       [](World&, void* h) { return mme_session_set_text(as_session(h), "text", "a", 1); }},
      {"mme_session_set_tensor", 's',
       [](World& w, void* h) { return mme_session_set_tensor(as_session(h), "image", &w.tensor); }},
      {"mme_session_set_absent", 's', [](World&, void* h) { return mme_session_set_absent(as_session(h), "image"); }},
      {"mme_session_run", 's', [](World& w, void* h) { return mme_session_run(as_session(h), &w.result); }},
      {"mme_session_output", 's', [](World& w, void* h) { return mme_session_output(as_session(h), 0, &w.tensor); }},
      {"mme_session_wait_stream", 's', [](World&, void* h) { return mme_session_wait_stream(as_session(h), nullptr); }},
      {"mme_session_device_output", 's',
       [](World& w, void* h) { return mme_session_device_output(as_session(h), 0, &w.tensor); }},
      {"mme_session_region", 's', [](World& w, void* h) { return mme_session_region(as_session(h), &w.region); }},
      {"mme_session_timing", 's', [](World& w, void* h) { return mme_session_timing(as_session(h), 0, &w.timing); }},
      {"mme_preprocessor_destroy", 'p', [](World&, void* h) { return mme_preprocessor_destroy(as_preprocessor(h)); }},
      {"mme_preprocessor_get_info", 'p',
       [](World& w, void* h) { return mme_preprocessor_get_info(as_preprocessor(h), &w.input_info); }},
      {"mme_preprocessor_image", 'p',
       [](World& w, void* h) { return mme_preprocessor_image(as_preprocessor(h), &w.image, &w.tensor); }},
      {"mme_preprocessor_audio", 'p',
       [](World& w, void* h) { return mme_preprocessor_audio(as_preprocessor(h), &w.audio, &w.tensor); }},
      {"mme_preprocessor_text", 'p',
       [](World& w, void* h) { return mme_preprocessor_text(as_preprocessor(h), "a", 1, &w.tensor); }},
      {"mme_preprocessor_push_audio", 'p',
       [](World& w, void* h) { return mme_preprocessor_push_audio(as_preprocessor(h), &w.audio, &w.tensor); }},
      {"mme_preprocessor_end_audio", 'p',
       [](World& w, void* h) { return mme_preprocessor_end_audio(as_preprocessor(h), &w.tensor); }},
      {"mme_gallery_save", 'g', [](World& w, void* h) { return mme_gallery_save(as_gallery(h), w.path.c_str()); }},
      {"mme_gallery_destroy", 'g', [](World&, void* h) { return mme_gallery_destroy(as_gallery(h)); }},
      {"mme_gallery_get_info", 'g',
       [](World& w, void* h) { return mme_gallery_get_info(as_gallery(h), &w.gallery_info); }},
      {"mme_gallery_enroll", 'g',
       [](World& w, void* h) { return mme_gallery_enroll(as_gallery(h), "x", w.query.data(), w.query.size()); }},
      {"mme_gallery_remove", 'g', [](World&, void* h) { return mme_gallery_remove(as_gallery(h), "one"); }},
      {"mme_gallery_search", 'g', [](World& w, void* h) { return search(w, as_gallery(h)); }},
  };
  return calls;
}

// Every call with one argument that cannot be used.
struct BadCall {
  std::string what;  // begins with the function's name
  std::function<mme_status(World&)> call;
  mme_status expected = MME_INVALID_ARGUMENT;
};

const std::vector<BadCall>& bad_calls() {
  static const std::vector<BadCall> calls{
      {"mme_bundle_check path", [](World&) { return mme_bundle_check(nullptr); }},
      {"mme_bundle_check missing", [](World&) { return mme_bundle_check("/nonexistent.mme"); }, MME_BUNDLE_INVALID},
      {"mme_bundle_check empty", [](World&) { return mme_bundle_check(""); }, MME_BUNDLE_INVALID},
      {"mme_bundle_check file", [](World& w) { return mme_bundle_check((w.path + "/manifest.json").c_str()); },
       MME_BUNDLE_INVALID},
      {"mme_model_open path", [](World& w) { return mme_model_open(nullptr, nullptr, &w.model); }},
      {"mme_model_open model", [](World& w) { return mme_model_open(w.path.c_str(), nullptr, nullptr); }},
      {"mme_model_open threads",
       [](World& w) {
         w.model_options.threads = -1;
         return mme_model_open(w.path.c_str(), &w.model_options, &w.model);
       }},
      {"mme_model_open provider",
       [](World& w) {
         w.model_options.provider = "abacus";
         return mme_model_open(w.path.c_str(), &w.model_options, &w.model);
       }},
      {"mme_model_open cache",
       [](World& w) {
         w.model_options.cache = "/nonexistent";
         return mme_model_open(w.path.c_str(), &w.model_options, &w.model);
       }},
      {"mme_model_get_info info", [](World& w) { return mme_model_get_info(w.model, nullptr); }},
      {"mme_model_get_input info", [](World& w) { return mme_model_get_input(w.model, 0, nullptr); }},
      {"mme_model_get_input index", [](World& w) { return mme_model_get_input(w.model, SIZE_MAX, &w.input_info); }},
      {"mme_model_get_label label", [](World& w) { return mme_model_get_label(w.model, 0, nullptr); }},
      {"mme_model_get_label index",
       [](World& w) {
         const char* label = nullptr;
         return mme_model_get_label(w.model, 10, &label);
       }},
      {"mme_session_create session", [](World& w) { return mme_session_create(w.model, nullptr, nullptr); }},
      {"mme_session_create top_k",
       [](World& w) {
         w.session_options.top_k = 11;
         return mme_session_create(w.model, &w.session_options, &w.session);
       }},
      {"mme_session_set_image input", [](World& w) { return mme_session_set_image(w.session, nullptr, &w.image); }},
      {"mme_session_set_image unknown", [](World& w) { return mme_session_set_image(w.session, "", &w.image); }},
      {"mme_session_set_image modality", [](World& w) { return mme_session_set_image(w.session, "audio", &w.image); }},
      {"mme_session_set_image image", [](World& w) { return mme_session_set_image(w.session, "image", nullptr); }},
      {"mme_session_set_audio input", [](World& w) { return mme_session_set_audio(w.session, nullptr, &w.audio); }},
      {"mme_session_set_audio modality", [](World& w) { return mme_session_set_audio(w.session, "image", &w.audio); }},
      {"mme_session_set_audio audio", [](World& w) { return mme_session_set_audio(w.session, "audio", nullptr); }},
      {"mme_session_push_audio input", [](World& w) { return mme_session_push_audio(w.session, nullptr, &w.audio); }},
      {"mme_session_push_audio modality",
       [](World& w) { return mme_session_push_audio(w.session, "image", &w.audio); }},
      {"mme_session_push_audio audio", [](World& w) { return mme_session_push_audio(w.session, "audio", nullptr); }},
      {"mme_session_reset_audio input", [](World& w) { return mme_session_reset_audio(w.session, nullptr); }},
      {"mme_session_reset_audio unknown", [](World& w) { return mme_session_reset_audio(w.session, "x"); }},
      {"mme_session_reset_audio modality", [](World& w) { return mme_session_reset_audio(w.session, "image"); }},
      {"mme_session_set_text input", [](World& w) { return mme_session_set_text(w.session, nullptr, "a", 1); }},
      {"mme_session_set_text modality", [](World& w) { return mme_session_set_text(w.session, "image", "a", 1); }},
      {"mme_session_set_text text", [](World& w) { return mme_session_set_text(w.session, "image", nullptr, 1); }},
      {"mme_session_set_tensor input", [](World& w) { return mme_session_set_tensor(w.session, nullptr, &w.tensor); }},
      {"mme_session_set_tensor tensor", [](World& w) { return mme_session_set_tensor(w.session, "image", nullptr); }},
      {"mme_session_set_tensor data",
       [](World& w) {
         w.tensor.data = nullptr;
         return mme_session_set_tensor(w.session, "image", &w.tensor);
       }},
      {"mme_session_set_tensor shape",
       [](World& w) {
         w.tensor.shape = nullptr;
         return mme_session_set_tensor(w.session, "image", &w.tensor);
       }},
      {"mme_session_set_tensor rank",
       [](World& w) {
         w.tensor.rank = SIZE_MAX;
         return mme_session_set_tensor(w.session, "image", &w.tensor);
       }},
      {"mme_session_set_absent input", [](World& w) { return mme_session_set_absent(w.session, nullptr); }},
      {"mme_session_set_absent unknown", [](World& w) { return mme_session_set_absent(w.session, "x"); }},
      {"mme_session_run result", [](World& w) { return mme_session_run(w.session, nullptr); }},
      {"mme_session_run unset", [](World& w) { return mme_session_run(w.session, &w.result); }, MME_NOT_READY},
      {"mme_session_run all absent",
       [](World& w) {
         mme_session_set_absent(w.session, "image");
         mme_session_set_absent(w.session, "audio");
         return mme_session_run(w.session, &w.result);
       }},
      {"mme_session_output before run", [](World& w) { return mme_session_output(w.session, 0, &w.tensor); },
       MME_NOT_READY},
      {"mme_session_output output",
       [](World& w) { return w.run() == MME_OK ? mme_session_output(w.session, 0, nullptr) : MME_OK; }},
      {"mme_session_output index",
       [](World& w) { return w.run() == MME_OK ? mme_session_output(w.session, SIZE_MAX, &w.tensor) : MME_OK; }},
      {"mme_session_wait_stream engine", [](World& w) { return mme_session_wait_stream(w.session, nullptr); }},
      {"mme_session_device_output before run",
       [](World& w) { return mme_session_device_output(w.session, 0, &w.tensor); }, MME_NOT_READY},
      {"mme_session_device_output output", [](World& w) { return mme_session_device_output(w.session, 0, nullptr); }},
      {"mme_session_device_output engine",
       [](World& w) { return w.run() == MME_OK ? mme_session_device_output(w.session, 0, &w.tensor) : MME_OK; }},
      {"mme_session_set_tensor memory",
       [](World& w) {
         w.tensor.memory = 7;
         return mme_session_set_tensor(w.session, "image", &w.tensor);
       }},
      {"mme_session_set_tensor engine",
       [](World& w) {
         w.tensor.memory = MME_MEMORY_CUDA;
         return mme_session_set_tensor(w.session, "image", &w.tensor);
       }},
      {"mme_session_create stream",
       [](World& w) {
         w.session_options.stream = &w;
         return mme_session_create(w.model, &w.session_options, &w.session);
       }},
      {"mme_session_create profile_layers",
       [](World& w) {
         w.session_options.profile_layers = 1;
         return mme_session_create(w.model, &w.session_options, &w.session);
       }},
      {"mme_model_open engine",
       [](World& w) {
         w.model_options.engine = "abacus";
         return mme_model_open(w.path.c_str(), &w.model_options, &w.model);
       }},
      {"mme_model_open engines",
       [](World& w) {
         w.model_options.engines = "/tmp";
         return mme_model_open(w.path.c_str(), &w.model_options, &w.model);
       }},
      {"mme_model_open provider of engine tensorrt",
       [](World& w) {
         w.model_options.engine = "tensorrt";
         w.model_options.provider = "cpu";
         return mme_model_open(w.path.c_str(), &w.model_options, &w.model);
       }},
      {"mme_session_region before run", [](World& w) { return mme_session_region(w.vqa, &w.region); }, MME_NOT_READY},
      {"mme_session_region task", [](World& w) { return mme_session_region(w.session, &w.region); }},
      {"mme_session_region region", [](World& w) { return mme_session_region(w.vqa, nullptr); }},
      {"mme_session_timing before run", [](World& w) { return mme_session_timing(w.session, 0, &w.timing); },
       MME_NOT_READY},
      {"mme_session_timing timing",
       [](World& w) { return w.run() == MME_OK ? mme_session_timing(w.session, 0, nullptr) : MME_OK; }},
      {"mme_session_timing index",
       [](World& w) { return w.run() == MME_OK ? mme_session_timing(w.session, SIZE_MAX, &w.timing) : MME_OK; }},
      {"mme_preprocessor_create parameters",
       [](World& w) { return mme_preprocessor_create(nullptr, &w.image_preprocessor); }},
      {"mme_preprocessor_create preprocessor", [](World&) { return mme_preprocessor_create(kImage, nullptr); }},
      {"mme_preprocessor_create JSON", [](World& w) { return mme_preprocessor_create("{", &w.image_preprocessor); }},
      {"mme_preprocessor_create file", [](World& w) { return mme_preprocessor_create(kText, &w.image_preprocessor); }},
      {"mme_preprocessor_create_in parameters",
       [](World& w) { return mme_preprocessor_create_in(nullptr, ".", &w.image_preprocessor); }},
      {"mme_preprocessor_create_in directory",
       [](World& w) { return mme_preprocessor_create_in(kText, nullptr, &w.image_preprocessor); }},
      {"mme_preprocessor_create_in preprocessor",
       [](World&) { return mme_preprocessor_create_in(kText, ".", nullptr); }},
      {"mme_preprocessor_create_in file",
       [](World& w) { return mme_preprocessor_create_in(kText, "/nowhere", &w.image_preprocessor); }},
      {"mme_preprocessor_get_info info",
       [](World& w) { return mme_preprocessor_get_info(w.image_preprocessor, nullptr); }},
      {"mme_preprocessor_image image",
       [](World& w) { return mme_preprocessor_image(w.image_preprocessor, nullptr, &w.tensor); }},
      {"mme_preprocessor_image tensor",
       [](World& w) { return mme_preprocessor_image(w.image_preprocessor, &w.image, nullptr); }},
      {"mme_preprocessor_image modality",
       [](World& w) { return mme_preprocessor_image(w.audio_preprocessor, &w.image, &w.tensor); }},
      {"mme_preprocessor_audio audio",
       [](World& w) { return mme_preprocessor_audio(w.audio_preprocessor, nullptr, &w.tensor); }},
      {"mme_preprocessor_audio tensor",
       [](World& w) { return mme_preprocessor_audio(w.audio_preprocessor, &w.audio, nullptr); }},
      {"mme_preprocessor_audio modality",
       [](World& w) { return mme_preprocessor_audio(w.image_preprocessor, &w.audio, &w.tensor); }},
      {"mme_preprocessor_text text",
       [](World& w) { return mme_preprocessor_text(w.image_preprocessor, nullptr, 1, &w.tensor); }},
      {"mme_preprocessor_text tensor",
       [](World& w) { return mme_preprocessor_text(w.image_preprocessor, "a", 1, nullptr); }},
      {"mme_preprocessor_text modality",
       [](World& w) { return mme_preprocessor_text(w.image_preprocessor, "a", 1, &w.tensor); }},
      {"mme_preprocessor_push_audio audio",
       [](World& w) { return mme_preprocessor_push_audio(w.audio_preprocessor, nullptr, &w.tensor); }},
      {"mme_preprocessor_push_audio tensor",
       [](World& w) { return mme_preprocessor_push_audio(w.audio_preprocessor, &w.audio, nullptr); }},
      {"mme_preprocessor_push_audio modality",
       [](World& w) { return mme_preprocessor_push_audio(w.image_preprocessor, &w.audio, &w.tensor); }},
      {"mme_preprocessor_push_audio NaN",
       [](World& w) {
         w.samples[3] = std::numeric_limits<float>::quiet_NaN();
         return mme_preprocessor_push_audio(w.audio_preprocessor, &w.audio, &w.tensor);
       },
       MME_BAD_INPUT},
      {"mme_preprocessor_push_audio another rate",
       [](World& w) {
         EXPECT_EQ(mme_preprocessor_push_audio(w.audio_preprocessor, &w.audio, &w.tensor), MME_OK);
         w.audio.sample_rate = 16000;
         return mme_preprocessor_push_audio(w.audio_preprocessor, &w.audio, &w.tensor);
       }},
      {"mme_preprocessor_end_audio tensor",
       [](World& w) { return mme_preprocessor_end_audio(w.audio_preprocessor, nullptr); }},
      {"mme_preprocessor_end_audio modality",
       [](World& w) { return mme_preprocessor_end_audio(w.image_preprocessor, &w.tensor); }},
      {"mme_preprocessor_end_audio before push",
       [](World& w) { return mme_preprocessor_end_audio(w.audio_preprocessor, &w.tensor); }, MME_BAD_INPUT},
  };
  return calls;
}

const std::vector<BadCall>& bad_galleries() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  static const std::vector<BadCall> calls{
      {"mme_gallery_create gallery", [](World&) { return mme_gallery_create(8, MME_COSINE, nullptr, nullptr); }},
      {"mme_gallery_create metric", [](World& w) { return mme_gallery_create(8, 3, nullptr, &w.named); }},
      {"mme_gallery_create dimension 0", [](World& w) { return mme_gallery_create(0, MME_DOT, nullptr, &w.named); }},
      {"mme_gallery_create dimension", [](World& w) { return mme_gallery_create(65537, MME_DOT, nullptr, &w.named); }},
      {"mme_gallery_load path", [](World& w) { return mme_gallery_load(nullptr, &w.named); }},
      {"mme_gallery_load gallery", [](World& w) { return mme_gallery_load(w.path.c_str(), nullptr); }},
      {"mme_gallery_load missing", [](World& w) { return mme_gallery_load("/nonexistent", &w.named); }, MME_BAD_INPUT},
      {"mme_gallery_load directory", [](World& w) { return mme_gallery_load(w.path.c_str(), &w.named); },
       MME_BAD_INPUT},
      {"mme_gallery_save path", [](World& w) { return mme_gallery_save(w.named, nullptr); }},
      {"mme_gallery_save nowhere", [](World& w) { return mme_gallery_save(w.named, "/nonexistent/x"); }},
      {"mme_gallery_save directory", [](World& w) { return mme_gallery_save(w.named, w.path.c_str()); }},
      {"mme_gallery_save empty", [](World& w) { return mme_gallery_save(w.named, ""); }},
      {"mme_gallery_get_info info", [](World& w) { return mme_gallery_get_info(w.named, nullptr); }},
      {"mme_gallery_enroll name", [](World& w) { return mme_gallery_enroll(w.named, nullptr, w.query.data(), 8); }},
      {"mme_gallery_enroll empty name", [](World& w) { return mme_gallery_enroll(w.named, "", w.query.data(), 8); }},
      {"mme_gallery_enroll embedding", [](World& w) { return mme_gallery_enroll(w.named, "x", nullptr, 8); }},
      {"mme_gallery_enroll size", [](World& w) { return mme_gallery_enroll(w.named, "x", w.query.data(), SIZE_MAX); }},
      {"mme_gallery_enroll NaN",
       [](World& w) { return w.query[7] = kNan, mme_gallery_enroll(w.named, "x", w.query.data(), 8); }, MME_BAD_INPUT},
      {"mme_gallery_remove name", [](World& w) { return mme_gallery_remove(w.named, nullptr); }},
      {"mme_gallery_remove unknown", [](World& w) { return mme_gallery_remove(w.named, "x"); }},
      {"mme_gallery_search embedding",
       [](World& w) { return mme_gallery_search(w.named, nullptr, 8, 2, w.matches.data(), &w.found); }},
      {"mme_gallery_search size",
       [](World& w) { return mme_gallery_search(w.named, w.query.data(), 7, 2, w.matches.data(), &w.found); }},
      {"mme_gallery_search k",
       [](World& w) { return mme_gallery_search(w.named, w.query.data(), 8, 0, w.matches.data(), &w.found); }},
      {"mme_gallery_search matches",
       [](World& w) { return mme_gallery_search(w.named, w.query.data(), 8, 2, nullptr, &w.found); }},
      {"mme_gallery_search found",
       [](World& w) { return mme_gallery_search(w.named, w.query.data(), 8, 2, w.matches.data(), nullptr); }},
      {"mme_gallery_search NaN", [](World& w) { return w.query[3] = kNan, search(w, w.named); }, MME_BAD_INPUT},
  };
  return calls;
}

mme_status top_k(World& w) {
  return mme_similarity_top_k(&w.search, w.query.data(), 2, w.indices.data(), w.scores.data(), &w.found);
}

const std::vector<BadCall>& bad_searches() {
  static const std::vector<BadCall> calls{
      {"mme_similarity_top_k search",
       [](World& w) {
         return mme_similarity_top_k(nullptr, w.query.data(), 2, w.indices.data(), w.scores.data(), &w.found);
       }},
      {"mme_similarity_top_k query",
       [](World& w) {
         return mme_similarity_top_k(&w.search, nullptr, 2, w.indices.data(), w.scores.data(), &w.found);
       }},
      {"mme_similarity_top_k indices",
       [](World& w) { return mme_similarity_top_k(&w.search, w.query.data(), 2, nullptr, w.scores.data(), &w.found); }},
      {"mme_similarity_top_k scores",
       [](World& w) {
         return mme_similarity_top_k(&w.search, w.query.data(), 2, w.indices.data(), nullptr, &w.found);
       }},
      {"mme_similarity_top_k found",
       [](World& w) {
         return mme_similarity_top_k(&w.search, w.query.data(), 2, w.indices.data(), w.scores.data(), nullptr);
       }},
      {"mme_similarity_top_k gallery", [](World& w) { return w.search.gallery = nullptr, top_k(w); }},
      {"mme_similarity_top_k metric", [](World& w) { return w.search.metric = 3, top_k(w); }},
      {"mme_similarity_top_k data_type", [](World& w) { return w.search.data_type = MME_UINT8, top_k(w); }},
      {"mme_similarity_top_k dimension", [](World& w) { return w.search.dimension = 0, top_k(w); }},
      {"mme_similarity_top_k dimension * rows", [](World& w) { return w.search.dimension = SIZE_MAX / 2, top_k(w); }},
      {"mme_similarity_top_k row_stride", [](World& w) { return w.search.row_stride = 8, top_k(w); }},
      {"mme_similarity_top_k NaN",
       [](World& w) { return w.query[3] = std::numeric_limits<float>::quiet_NaN(), top_k(w); }, MME_BAD_INPUT},
      {"mme_similarity_top_k infinity",
       [](World& w) { return w.query[3] = std::numeric_limits<float>::infinity(), top_k(w); }, MME_BAD_INPUT},
  };
  return calls;
}

void expect_refused(const std::vector<BadCall>& calls) {
  for (const BadCall& bad : calls) {
    World world;
    const Answer answer = ask([&] { return bad.call(world); });
    EXPECT_STREQ(mme_status_name(answer.status), mme_status_name(bad.expected)) << bad.what << ": " << answer.message;
    EXPECT_NE(answer.message, "") << bad.what;
    // Nothing was written to what the call would have answered in.
    EXPECT_EQ(world.model_info.name, nullptr) << bad.what;
    EXPECT_EQ(world.input_info.name, nullptr) << bad.what;
    EXPECT_EQ(world.result.label, nullptr) << bad.what;
    EXPECT_EQ(world.timing.stage, nullptr) << bad.what;
    EXPECT_EQ(world.indices[0], 0) << bad.what;
    EXPECT_EQ(world.found, 0U) << bad.what;
    EXPECT_EQ(world.matches[0].name, nullptr) << bad.what;
    EXPECT_EQ(world.region.input, nullptr) << bad.what;
    EXPECT_EQ(world.gallery_info.model, nullptr) << bad.what;
  }
}

TEST(Misuse, AHandleThatIsNotALiveOneOfItsKindIsRefused) {
  World world;
  mme_model* closed = nullptr;
  mme_session* destroyed = nullptr;
  mme_preprocessor* gone = nullptr;
  mme_gallery* emptied = nullptr;
  ASSERT_EQ(mme_gallery_create(8, MME_COSINE, nullptr, &emptied), MME_OK);
  ASSERT_EQ(mme_gallery_destroy(emptied), MME_OK);
  ASSERT_EQ(mme_model_open(world.path.c_str(), nullptr, &closed), MME_OK);
  ASSERT_EQ(mme_session_create(closed, nullptr, &destroyed), MME_OK);
  ASSERT_EQ(mme_preprocessor_create(kImage, &gone), MME_OK);
  ASSERT_EQ(mme_preprocessor_destroy(gone), MME_OK);
  ASSERT_EQ(mme_session_destroy(destroyed), MME_OK);
  ASSERT_EQ(mme_model_close(closed), MME_OK);

  const auto made_up = [](uintptr_t bits) { return reinterpret_cast<void*>(bits); };
  for (const HandleCall& one : handle_calls()) {
    std::vector<void*> bad{nullptr,
                           closed,
                           destroyed,
                           gone,
                           emptied,
                           &world,
                           world.pixels.data(),
                           made_up(1),
                           made_up(UINTPTR_MAX),
                           made_up(0x4d00000000000000),
                           made_up(0x53ffffffffffffff),
                           made_up(0x5000000000200000),
                           made_up(0x4700000000200000)};
    void* const live_model = world.model;
    void* const live_session = world.session;
    void* const live_preprocessor = world.image_preprocessor;
    void* const live_gallery = world.named;
    if (one.kind != 'm') bad.push_back(live_model);
    if (one.kind != 's') bad.push_back(live_session);
    if (one.kind != 'p') bad.push_back(live_preprocessor);
    if (one.kind != 'g') bad.push_back(live_gallery);
    const void* live = one.kind == 'm'   ? live_model
                       : one.kind == 's' ? live_session
                       : one.kind == 'p' ? live_preprocessor
                                         : live_gallery;
    for (int bit = 0; bit < 64; ++bit) {  // a live handle with one bit turned
      void* turned = made_up(reinterpret_cast<uintptr_t>(live) ^ uintptr_t{1} << bit);
      if (turned != world.audio_preprocessor && turned != world.vqa && turned != world.vqa_model) bad.push_back(turned);
    }
    for (void* handle : bad) {
      const Answer answer = ask([&] { return one.call(world, handle); });
      EXPECT_STREQ(mme_status_name(answer.status), "MME_INVALID_HANDLE") << one.function << "(" << handle << ")";
      const char* kind = one.kind == 'm'   ? "mme_model"
                         : one.kind == 's' ? "mme_session"
                         : one.kind == 'p' ? "mme_preprocessor"
                                           : "mme_gallery";
      EXPECT_NE(answer.message.find(kind), std::string::npos) << one.function << ": " << answer.message;
    }
  }
  // The live ones were not hurt.
  EXPECT_EQ(world.run(), MME_OK) << mme_last_error();
}

TEST(Misuse, AnArgumentThatCannotBeUsedIsRefused) { expect_refused(bad_calls()); }

TEST(Misuse, AGalleryThatCannotBeUsedIsRefused) { expect_refused(bad_galleries()); }

TEST(Misuse, ASearchThatCannotBeUsedIsRefused) { expect_refused(bad_searches()); }

TEST(Misuse, AReleasedHandleIsNotRevivedByTheNextOfItsKind) {
  World world;
  std::set<mme_preprocessor*> seen;
  for (int i = 0; i < 1000; ++i) {
    mme_preprocessor* made = nullptr;
    ASSERT_EQ(mme_preprocessor_create(kImage, &made), MME_OK);
    EXPECT_TRUE(seen.insert(made).second);
    ASSERT_EQ(mme_preprocessor_destroy(made), MME_OK);
    EXPECT_EQ(mme_preprocessor_destroy(made), MME_INVALID_HANDLE);
    EXPECT_EQ(mme_preprocessor_image(made, &world.image, &world.tensor), MME_INVALID_HANDLE);
  }
}

// A struct's size as a caller of another version would set it.
struct SizedCall {
  const char* what;
  size_t size;
  bool reads;  // the library reads it; else it writes it
  std::function<mme_status(World&, void* given)> call;
  const void* (*valid)(World&);  // what to begin from
};

template <class Struct, auto kMember>
SizedCall sized(const char* what, bool reads, mme_status (*call)(World&, Struct*)) {
  return {what, sizeof(Struct), reads,
          [call](World& world, void* given) { return call(world, static_cast<Struct*>(given)); },
          [](World& world) -> const void* { return &(world.*kMember); }};
}

const std::vector<SizedCall>& sized_calls() {
  static const std::vector<SizedCall> calls{
      sized<mme_model_options, &World::model_options>("mme_model_open", true,
                                                      [](World& w, mme_model_options* given) {
                                                        mme_model* made = nullptr;
                                                        const mme_status status =
                                                            mme_model_open(w.path.c_str(), given, &made);
                                                        if (status == MME_OK) mme_model_close(made);
                                                        return status;
                                                      }),
      sized<mme_session_options, &World::session_options>("mme_session_create", true,
                                                          [](World& w, mme_session_options* given) {
                                                            mme_session* made = nullptr;
                                                            const mme_status status =
                                                                mme_session_create(w.model, given, &made);
                                                            if (status == MME_OK) mme_session_destroy(made);
                                                            return status;
                                                          }),
      sized<mme_image, &World::image>(
          "mme_session_set_image", true,
          [](World& w, mme_image* given) { return mme_session_set_image(w.session, "image", given); }),
      sized<mme_audio, &World::audio>(
          "mme_session_set_audio", true,
          [](World& w, mme_audio* given) { return mme_session_set_audio(w.session, "audio", given); }),
      sized<mme_audio, &World::audio>(
          "mme_session_push_audio", true,
          [](World& w, mme_audio* given) { return mme_session_push_audio(w.session, "audio", given); }),
      sized<mme_tensor, &World::tensor>(
          "mme_session_set_tensor", true,
          [](World& w, mme_tensor* given) { return mme_session_set_tensor(w.session, "image", given); }),
      sized<mme_image, &World::image>(
          "mme_preprocessor_image", true,
          [](World& w, mme_image* given) { return mme_preprocessor_image(w.image_preprocessor, given, &w.tensor); }),
      sized<mme_audio, &World::audio>(
          "mme_preprocessor_audio", true,
          [](World& w, mme_audio* given) { return mme_preprocessor_audio(w.audio_preprocessor, given, &w.tensor); }),
      sized<mme_audio, &World::audio>("mme_preprocessor_push_audio", true,
                                      [](World& w, mme_audio* given) {
                                        return mme_preprocessor_push_audio(w.audio_preprocessor, given, &w.tensor);
                                      }),
      sized<mme_search, &World::search>("mme_similarity_top_k", true,
                                        [](World& w, mme_search* given) {
                                          return mme_similarity_top_k(given, w.query.data(), 2, w.indices.data(),
                                                                      w.scores.data(), &w.found);
                                        }),
      sized<mme_model_info, &World::model_info>(
          "mme_model_get_info", false, [](World& w, mme_model_info* out) { return mme_model_get_info(w.model, out); }),
      sized<mme_input_info, &World::input_info>(
          "mme_model_get_input", false,
          [](World& w, mme_input_info* out) { return mme_model_get_input(w.model, 0, out); }),
      sized<mme_input_info, &World::input_info>(
          "mme_preprocessor_get_info", false,
          [](World& w, mme_input_info* out) { return mme_preprocessor_get_info(w.image_preprocessor, out); }),
      sized<mme_result, &World::result>("mme_session_run", false,
                                        [](World& w, mme_result* out) {
                                          mme_session_set_image(w.session, "image", &w.image);
                                          mme_session_set_absent(w.session, "audio");
                                          return mme_session_run(w.session, out);
                                        }),
      sized<mme_tensor, &World::tensor>("mme_session_output", false,
                                        [](World& w, mme_tensor* out) {
                                          EXPECT_EQ(w.run(), MME_OK);
                                          return mme_session_output(w.session, 0, out);
                                        }),
      sized<mme_timing, &World::timing>("mme_session_timing", false,
                                        [](World& w, mme_timing* out) {
                                          EXPECT_EQ(w.run(), MME_OK);
                                          return mme_session_timing(w.session, 0, out);
                                        }),
      sized<mme_region, &World::region>("mme_session_region", false,
                                        [](World& w, mme_region* out) {
                                          EXPECT_EQ(w.run(w.vqa), MME_OK);
                                          return mme_session_region(w.vqa, out);
                                        }),
      sized<mme_gallery_info, &World::gallery_info>(
          "mme_gallery_get_info", false,
          [](World& w, mme_gallery_info* out) { return mme_gallery_get_info(w.named, out); }),
      {"mme_gallery_search", sizeof(mme_match), false,
       [](World& w, void* out) {
         return mme_gallery_search(w.named, w.query.data(), 8, 1, static_cast<mme_match*>(out), &w.found);
       },
       [](World& w) -> const void* { return w.matches.data(); }},
      sized<mme_tensor, &World::tensor>(
          "mme_preprocessor_image", false,
          [](World& w, mme_tensor* out) { return mme_preprocessor_image(w.image_preprocessor, &w.image, out); }),
      sized<mme_tensor, &World::tensor>(
          "mme_preprocessor_audio", false,
          [](World& w, mme_tensor* out) { return mme_preprocessor_audio(w.audio_preprocessor, &w.audio, out); }),
      sized<mme_tensor, &World::tensor>(
          "mme_preprocessor_push_audio", false,
          [](World& w, mme_tensor* out) { return mme_preprocessor_push_audio(w.audio_preprocessor, &w.audio, out); }),
      sized<mme_tensor, &World::tensor>("mme_preprocessor_end_audio", false,
                                        [](World& w, mme_tensor* out) {
                                          mme_tensor ignored{sizeof(mme_tensor)};
                                          EXPECT_EQ(
                                              mme_preprocessor_push_audio(w.audio_preprocessor, &w.audio, &ignored),
                                              MME_OK)
                                              << mme_last_error();
                                          return mme_preprocessor_end_audio(w.audio_preprocessor, out);
                                        }),
  };
  return calls;
}

TEST(Versions, AStructSizeNoVersionHadIsRefused) {
  for (const SizedCall& one : sized_calls()) {
    for (const size_t size : {size_t{0}, size_t{1}, sizeof(size_t) - 1, one.size + 4097, SIZE_MAX}) {
      World world;
      std::vector<size_t> given(one.size / sizeof(size_t) + 1);
      std::memcpy(given.data(), one.valid(world), one.size);
      given[0] = size;
      const Answer answer = ask([&] { return one.call(world, given.data()); });
      EXPECT_STREQ(mme_status_name(answer.status), "MME_INVALID_ARGUMENT") << one.what << " of " << size;
      EXPECT_NE(answer.message.find("struct_size"), std::string::npos) << one.what << ": " << answer.message;
    }
  }
}

TEST(Versions, ANewerClientIsServedAsLongAsItAsksNothingUnknown) {
  constexpr size_t kNewer = 48;
  for (const SizedCall& one : sized_calls()) {
    World world;
    std::vector<size_t> given((one.size + kNewer) / sizeof(size_t));
    std::memcpy(given.data(), one.valid(world), one.size);
    given[0] = one.size + kNewer;
    auto* tail = reinterpret_cast<unsigned char*>(given.data()) + one.size;
    if (!one.reads) std::memset(tail, 0xa5, kNewer);
    EXPECT_EQ(one.call(world, given.data()), MME_OK) << one.what << ": " << mme_last_error();
    EXPECT_EQ(given[0], one.size + kNewer) << one.what;
    if (one.reads) {
      for (const size_t at : {size_t{0}, size_t{17}, kNewer - 1}) {
        std::memset(tail, 0, kNewer);
        tail[at] = 1;
        const Answer answer = ask([&] { return one.call(world, given.data()); });
        EXPECT_STREQ(mme_status_name(answer.status), "MME_INVALID_ARGUMENT") << one.what;
        EXPECT_NE(answer.message.find("update mmedge"), std::string::npos) << one.what << ": " << answer.message;
      }
    } else {
      EXPECT_EQ(std::vector<unsigned char>(tail, tail + kNewer), std::vector<unsigned char>(kNewer, 0xa5)) << one.what;
    }
  }
}

TEST(Misuse, EveryFunctionOfTheLibraryIsMisusedHere) {
  std::set<std::string> tried{"mme_status_name", "mme_last_error", "mme_api_version", "mme_version"};  // cannot fail
  for (const HandleCall& one : handle_calls()) tried.insert(one.function);
  for (const auto* table : {&bad_calls(), &bad_searches(), &bad_galleries()}) {
    for (const BadCall& bad : *table) tried.insert(bad.what.substr(0, bad.what.find(' ')));
  }
  std::ifstream listed(MMEDGE_SYMBOLS);
  std::set<std::string> symbols;
  for (std::string line; std::getline(listed, line);) symbols.insert(line);
  EXPECT_EQ(tried, symbols);
}

}  // namespace
