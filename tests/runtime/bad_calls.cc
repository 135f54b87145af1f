// Every call of the public functions with one argument that cannot be used.
#include <cstdint>
#include <limits>

#include "misuse.h"

namespace {

constexpr char kText[] = R"({"type": "text", "tokenizer": "tokenizer.json", "max_length": 8})";

mme_status top_k(World& w) {
  return mme_similarity_top_k(&w.search, w.query.data(), 2, w.indices.data(), w.scores.data(), &w.found);
}

}  // namespace

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
      {"mme_model_open threads of engine tensorrt",
       [](World& w) {
         w.model_options.engine = "tensorrt";
         w.model_options.threads = -1;
         return mme_model_open(w.path.c_str(), &w.model_options, &w.model);
       }},
      {"mme_model_open keep_denormals of engine tensorrt",
       [](World& w) {
         w.model_options.engine = "tensorrt";
         w.model_options.keep_denormals = 1;
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
      {"mme_gallery_search NaN",
       [](World& w) {
         return w.query[3] = kNan, mme_gallery_search(w.named, w.query.data(), 8, 2, w.matches.data(), &w.found);
       },
       MME_BAD_INPUT},
  };
  return calls;
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
      {"mme_similarity_top_k k",
       [](World& w) {
         return mme_similarity_top_k(&w.search, w.query.data(), 0, w.indices.data(), w.scores.data(), &w.found);
       }},
      {"mme_similarity_top_k scale",
       [](World& w) {
         w.search.data_type = MME_INT8;
         w.search.scale = std::numeric_limits<float>::infinity();
         return top_k(w);
       }},
      {"mme_similarity_top_k row_stride", [](World& w) { return w.search.row_stride = 8, top_k(w); }},
      {"mme_similarity_top_k NaN",
       [](World& w) { return w.query[3] = std::numeric_limits<float>::quiet_NaN(), top_k(w); }, MME_BAD_INPUT},
      {"mme_similarity_top_k infinity",
       [](World& w) { return w.query[3] = std::numeric_limits<float>::infinity(), top_k(w); }, MME_BAD_INPUT},
  };
  return calls;
}
