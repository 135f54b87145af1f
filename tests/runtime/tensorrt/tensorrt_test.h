// What the tests of the TensorRT engine share: engines as mmedge build writes them, and sessions on them.
//
// The host plays the GPU (cuda_on_host.cc), and ONNX Runtime TensorRT (backend_on_host.cc): the judge of both is the
// same graph on ONNX Runtime itself.
#pragma once

#include <dlfcn.h>
#include <openssl/sha.h>

#include <array>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "support.h"

namespace fs = std::filesystem;
using nlohmann::json;

inline std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string sha256(const std::string& bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  std::string text;
  for (const unsigned byte : digest) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", byte);
    text += two;
  }
  return text;
}

template <class Function>
Function driver(const char* name) {
  return reinterpret_cast<Function>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}

inline int count(const char* what) { return driver<int (*)(const char*)>("mmedge_test_count")(what); }

inline bool gpu_is(const char* kind) {
  const char* words = std::getenv("MMEDGE_TEST_GPU");
  return words != nullptr && std::string(words).find(kind) != std::string::npos;
}

// A model and a session of it, closed at the end.
struct Opened {
  mme_model* model = nullptr;
  mme_session* session = nullptr;

  Opened() = default;
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() {
    mme_session_destroy(session);
    mme_model_close(model);
  }
};

// How its model describes what runs it.
inline std::string engine_of(const Opened& opened) {
  mme_model_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(mme_model_get_info(opened.model, &info), MME_OK);
  return info.engine;
}

struct Moment {
  bool image, audio;
};
constexpr Moment kMoments[] = {{true, true}, {true, false}, {false, true}};

class TensorrtTest : public testing::Test {
 protected:
  void SetUp() override {
    folder = fs::path(testing::TempDir()) / ("engines-" + std::to_string(getpid()));
    fs::remove_all(folder);
    fs::create_directories(folder);
    graph = read_file(bundle_path(bundle) / "model.onnx");
    for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 7);
    for (size_t i = 0; i < samples.size(); ++i) samples[i] = static_cast<float>(i * 37 % 2000) / 2000 - .5F;
  }
  void TearDown() override { fs::remove_all(folder); }

  // An engine as mmedge build writes it, its record changed by `changes`.
  fs::path write_engine(const std::string& name = "", const json& changes = json::object()) const {
    const std::string digest = sha256(graph);
    json record = {{"format", 2},
                   {"builder", "tensorrt"},
                   {"version", "10.3.0.30"},
                   {"graph_sha256", digest},
                   {"compute_capabilities", {"8.7"}},
                   {"gpu", "Host GPU (4 multiprocessors)"},
                   {"version_compatible", false},
                   {"hardware_compatible", false},
                   {"plugin", false},
                   {"sha256", digest}};
    record.update(changes);
    const fs::path path = folder / (digest.substr(0, 16) + name + ".engine");
    std::ofstream(path, std::ios::binary) << graph;
    std::ofstream(fs::path(path).replace_extension(".json")) << record;
    return path;
  }

  mme_model_options options() {
    text = folder.string();
    mme_model_options made{};
    made.struct_size = sizeof made;
    made.engine = "tensorrt";
    made.engines = text.c_str();
    return made;
  }

  mme_status open(Opened& opened) {
    const mme_model_options made = options();
    return mme_model_open(bundle_path(bundle).c_str(), &made, &opened.model);
  }

  void start(Opened& opened, const mme_session_options* session_options = nullptr) {
    ASSERT_EQ(open(opened), MME_OK) << mme_last_error();
    ASSERT_EQ(mme_session_create(opened.model, session_options, &opened.session), MME_OK) << mme_last_error();
  }

  std::vector<float> run(mme_session* session, const Moment& moment) const {
    const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
    const mme_audio audio = make_audio(samples, 16000);
    EXPECT_EQ(moment.image ? mme_session_set_image(session, "image", &image) : mme_session_set_absent(session, "image"),
              MME_OK);
    EXPECT_EQ(moment.audio ? mme_session_set_audio(session, "audio", &audio) : mme_session_set_absent(session, "audio"),
              MME_OK);
    return scores(session);
  }

  static std::vector<float> scores(mme_session* session) {
    mme_result result{};
    result.struct_size = sizeof result;
    EXPECT_EQ(mme_session_run(session, &result), MME_OK) << mme_last_error();
    return {result.scores, result.scores + result.class_count};
  }

  std::vector<float> expected(const Moment& moment) const {
    Opened reference;
    EXPECT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), nullptr, &reference.model), MME_OK);
    EXPECT_EQ(mme_session_create(reference.model, nullptr, &reference.session), MME_OK);
    return run(reference.session, moment);
  }

  std::string refusal() {
    Opened opened;
    EXPECT_NE(open(opened), MME_OK);
    return mme_last_error();
  }

  const char* bundle = "digits.mme";
  fs::path folder;
  std::string text, graph;
  std::vector<uint8_t> pixels = std::vector<uint8_t>(40 * 30 * 3);
  std::vector<float> samples = std::vector<float>(16000);
};
