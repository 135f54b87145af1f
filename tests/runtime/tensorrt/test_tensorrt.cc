// The TensorRT engine, on a host that plays the GPU (cuda_on_host.cc) and ONNX Runtime that plays TensorRT
// (backend_on_host.cc): judged by the same graph on ONNX Runtime itself.
#include <dlfcn.h>
#include <openssl/sha.h>

#include <array>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include "support.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string sha256(const std::string& bytes) {
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

int count(const char* what) { return driver<int (*)(const char*)>("mmedge_test_count")(what); }

bool gpu_is(const char* kind) {
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
    graph = read_file(bundle_path("digits.mme") / "model.onnx");
    for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 7);
    for (size_t i = 0; i < samples.size(); ++i) samples[i] = static_cast<float>(i * 37 % 2000) / 2000 - .5F;
  }
  void TearDown() override { fs::remove_all(folder); }

  // An engine as mmedge build writes it, its record changed by `changes`.
  fs::path write_engine(const std::string& name = "", const json& changes = json::object()) const {
    const std::string digest = sha256(graph);
    json record = {{"format", 1},
                   {"builder", "tensorrt"},
                   {"version", "10.3.0.30"},
                   {"graph_sha256", digest},
                   {"compute_capabilities", {"8.7"}},
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
    return mme_model_open(bundle_path("digits.mme").c_str(), &made, &opened.model);
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

  fs::path folder;
  std::string text, graph;
  std::vector<uint8_t> pixels = std::vector<uint8_t>(40 * 30 * 3);
  std::vector<float> samples = std::vector<float>(16000);
};

TEST_F(TensorrtTest, ComputesWhatTheGraphDoesForEverySubsetInAnyOrder) {
  write_engine();
  Opened opened;
  start(opened);
  for (int round = 0; round < 4; ++round) {
    for (const Moment& moment : kMoments) EXPECT_EQ(run(opened.session, moment), expected(moment));
  }
}

TEST_F(TensorrtTest, FramesOfAnyFormatSizeAndStrideAreConvertedOnTheDevice) {
  write_engine();
  Opened opened, reference;
  start(opened);
  ASSERT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), nullptr, &reference.model), MME_OK);
  ASSERT_EQ(mme_session_create(reference.model, nullptr, &reference.session), MME_OK);
  std::vector<uint8_t> bytes(200 * 200 * 4);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * i >> 7);
  for (const int format :
       {MME_IMAGE_NV12, MME_IMAGE_I420, MME_IMAGE_YUYV, MME_IMAGE_RGB8, MME_IMAGE_BGRA8, MME_IMAGE_GREY8}) {
    for (const int width : {33, 120, 160}) {
      mme_image frame{};
      frame.struct_size = sizeof frame;
      frame.format = format;
      frame.width = width;
      frame.height = 75;
      frame.rotation = width == 120 ? 90 : 0;
      for (int plane = 0; plane < 3; ++plane) {
        frame.planes[plane] = bytes.data() + 11 * plane;
        frame.strides[plane] = 700;
        frame.sizes[plane] = bytes.size() - 33;
      }
      std::vector<float> found[2];
      for (const Opened* each : {&opened, &reference}) {
        // The first of two is replaced before it is run.
        mme_image other = frame;
        other.planes[0] = bytes.data() + 5000;
        other.sizes[0] -= 5000;
        other.height = width == 33 ? 30 : 75;
        EXPECT_EQ(mme_session_set_image(each->session, "image", &other), MME_OK) << mme_last_error();
        EXPECT_EQ(mme_session_set_image(each->session, "image", &frame), MME_OK) << mme_last_error();
        EXPECT_EQ(mme_session_set_absent(each->session, "audio"), MME_OK);
        found[each == &reference] = scores(each->session);
      }
      EXPECT_EQ(found[0], found[1]) << format << " " << width;
    }
  }
}

TEST_F(TensorrtTest, TheSecondRunIsRecordedAndThoseAfterItAreOneLaunchWithoutAllocating) {
  write_engine();
  Opened opened;
  start(opened);
  run(opened.session, kMoments[0]);
  const int launches = count("launch");
  run(opened.session, kMoments[0]);
  const int allocations = count("allocate"), copies = count("to device");
  for (int i = 0; i < 5; ++i) run(opened.session, kMoments[0]);
  EXPECT_EQ(count("launch") - launches, gpu_is("refuses-capture") ? 0 : 6);
  EXPECT_EQ(count("allocate"), allocations);
  EXPECT_EQ(count("to device") - copies, gpu_is("integrated") ? 0 : 5 * 3) << "the frame, audio and presence";
}

TEST_F(TensorrtTest, AModalityThatComesAndGoesIsRecordedBothWays) {
  write_engine();
  Opened opened;
  start(opened);
  for (int i = 0; i < 2; ++i) {
    for (const Moment& moment : kMoments) run(opened.session, moment);
  }
  const int launches = count("launch");
  for (int i = 0; i < 5; ++i) {
    for (const Moment& moment : kMoments) run(opened.session, moment);
  }
  EXPECT_EQ(count("launch") - launches, gpu_is("refuses-capture") ? 0 : 15);
}

TEST_F(TensorrtTest, ALackOfMemoryWhileRecordingIsToldAndPasses) {
  write_engine();
  Opened opened;
  start(opened);
  const std::vector<float> reference = run(opened.session, kMoments[0]);
  const std::string gpu = std::getenv("MMEDGE_TEST_GPU");
  setenv("MMEDGE_TEST_GPU", (gpu + " no-memory-in-capture").c_str(), 1);
  mme_session_set_absent(opened.session, "image");
  const mme_audio audio = make_audio(samples, 16000);
  mme_session_set_audio(opened.session, "audio", &audio);
  mme_result result{};
  result.struct_size = sizeof result;
  EXPECT_EQ(mme_session_run(opened.session, &result), MME_OK) << "the first at these addresses is not recorded";
  mme_session_set_absent(opened.session, "image");
  mme_session_set_audio(opened.session, "audio", &audio);
  EXPECT_EQ(mme_session_run(opened.session, &result), gpu_is("discrete") ? MME_OUT_OF_MEMORY : MME_OK);
  setenv("MMEDGE_TEST_GPU", gpu.c_str(), 1);
  EXPECT_EQ(run(opened.session, kMoments[0]), reference);
  EXPECT_EQ(run(opened.session, kMoments[2]), expected(kMoments[2]));
}

TEST_F(TensorrtTest, SessionsOfOneModelRunAtOnce) {
  write_engine();
  Opened first;
  start(first);
  mme_session* second = nullptr;
  ASSERT_EQ(mme_session_create(first.model, nullptr, &second), MME_OK);
  const std::vector<float> both = expected(kMoments[0]), sound = expected(kMoments[2]);
  std::thread other([&] {
    for (int i = 0; i < 20; ++i) EXPECT_EQ(run(second, kMoments[2]), sound);
  });
  for (int i = 0; i < 20; ++i) EXPECT_EQ(run(first.session, kMoments[0]), both);
  other.join();
  mme_session_destroy(second);
}

TEST_F(TensorrtTest, AnEngineOfAnotherGpuOrVersionIsRefusedBeforeItIsLoaded) {
  graph = "not an engine that could be loaded";  // with the bundle's graph in its record
  const std::string real = sha256(read_file(bundle_path("digits.mme") / "model.onnx"));
  const fs::path path = folder / (real.substr(0, 16) + ".engine");
  const auto write = [&](const json& changes) {
    json record = {{"graph_sha256", real}};
    record.update(changes);
    const fs::path written = write_engine("", record);
    fs::rename(written, path);
    fs::rename(fs::path(written).replace_extension(".json"), fs::path(path).replace_extension(".json"));
  };
  write({{"version", "10.16.1.11"}, {"compute_capabilities", {"11.0"}}});
  const std::string message = refusal();
  for (const std::string& part :
       {path.string(), std::string("TensorRT 10.16.1.11"), std::string("compute capability 11.0"),
        std::string("found TensorRT 10.3.0.30"), std::string("compute capability 8.7 (Host GPU)"),
        "mmedge build " + bundle_path("digits.mme").string() + " --target tensorrt"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  write({{"version", "10.16.1.11"}, {"version_compatible", true}});  // newer than what is here
  EXPECT_NE(refusal().find("was built for"), std::string::npos);
  write({{"version", "10.3.0.26"}});
  EXPECT_NE(refusal().find("was built for"), std::string::npos);
  write({{"compute_capabilities", {"12.0"}}});
  EXPECT_NE(refusal().find("was built for"), std::string::npos);
  // What does fit is loaded, and refused by what loads it.
  write(json::object());
  EXPECT_NE(refusal().find("refuses"), std::string::npos) << mme_last_error();
}

TEST_F(TensorrtTest, CompatibleEnginesRunElsewhere) {
  write_engine("", {{"version", "10.2.0.1"},
                    {"version_compatible", true},
                    {"compute_capabilities", {"8.6"}},
                    {"hardware_compatible", true}});
  Opened opened;
  start(opened);
  EXPECT_EQ(run(opened.session, kMoments[0]), expected(kMoments[0]));
}

TEST_F(TensorrtTest, OfSeveralEnginesThatFitTheNewestRuns) {
  const auto write_aged = [&](const char* name, int hours, const json& changes = json::object()) {
    fs::last_write_time(write_engine(name, changes).replace_extension(".json"),
                        fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  write_aged("-a", 2);
  write_aged("-b", 1);
  write_aged("-c", 3);
  const auto engine = [&] {
    Opened opened;
    EXPECT_EQ(open(opened), MME_OK) << mme_last_error();
    mme_model_info info{};
    info.struct_size = sizeof info;
    EXPECT_EQ(mme_model_get_info(opened.model, &info), MME_OK);
    return std::string(info.engine);
  };
  EXPECT_NE(engine().find("-b.engine"), std::string::npos) << engine();
  write_aged("-d", 0, {{"version", "10.2.0.1"}, {"version_compatible", true}});  // fits less well
  EXPECT_NE(engine().find("-b.engine"), std::string::npos) << engine();
  write_aged("-c", 0);
  EXPECT_NE(engine().find("-c.engine"), std::string::npos) << engine();
}

TEST_F(TensorrtTest, AMissingDamagedOrMalformedEngineIsAnErrorOfItsOwn) {
  EXPECT_NE(refusal().find("found no TensorRT engine of this bundle's graph"), std::string::npos);
  const fs::path path = write_engine();
  std::ofstream(path, std::ios::app) << "more";
  EXPECT_NE(refusal().find("damaged"), std::string::npos);
  fs::remove(path);
  EXPECT_NE(refusal().find("missing or damaged"), std::string::npos);
  // Asked for by name, a record must be one; in a folder it is passed over.
  std::ofstream(fs::path(path).replace_extension(".json")) << "[]";
  EXPECT_NE(refusal().find("found no TensorRT engine"), std::string::npos);
  folder = path;
  EXPECT_NE(refusal().find("is no record of an engine"), std::string::npos) << mme_last_error();
  for (const char* nothing : {"/nowhere", "/nowhere/an.engine"}) {
    folder = nothing;
    EXPECT_NE(refusal().find("found no TensorRT engine"), std::string::npos) << mme_last_error();
  }
  folder = path.parent_path();
}

TEST_F(TensorrtTest, TheEngineSaysWhatRuns) {
  write_engine();
  Opened opened;
  start(opened);
  mme_model_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(mme_model_get_info(opened.model, &info), MME_OK);
  EXPECT_NE(std::string(info.engine).find("TensorRT 10.3.0"), std::string::npos) << info.engine;
  EXPECT_NE(std::string(info.engine).find("Host GPU"), std::string::npos) << info.engine;
}

TEST_F(TensorrtTest, ShortMemoryOfTheGpuIsAStatusOfItsOwnAndLeavesTheSessionUsable) {
  write_engine();
  Opened opened;
  start(opened);
  const std::vector<float> reference = run(opened.session, kMoments[0]);
  const std::string gpu = std::getenv("MMEDGE_TEST_GPU");
  setenv("MMEDGE_TEST_GPU", (gpu + " memory=100").c_str(), 1);
  mme_session* second = nullptr;
  EXPECT_EQ(mme_session_create(opened.model, nullptr, &second), MME_OUT_OF_MEMORY) << mme_last_error();
  const std::vector<uint8_t> wide(400 * 300 * 3);
  const mme_image frame = make_image(MME_IMAGE_RGB8, 400, 300, wide);
  EXPECT_EQ(mme_session_set_image(opened.session, "image", &frame), MME_OUT_OF_MEMORY);
  setenv("MMEDGE_TEST_GPU", gpu.c_str(), 1);
  EXPECT_EQ(run(opened.session, kMoments[0]), reference);
}

TEST_F(TensorrtTest, LayersAreTimedOnRequest) {
  write_engine();
  mme_session_options session_options{};
  session_options.struct_size = sizeof session_options;
  session_options.profile_layers = 1;
  Opened opened;
  start(opened, &session_options);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(run(opened.session, kMoments[0]), expected(kMoments[0]));
    mme_timing timing{};
    timing.struct_size = sizeof timing;
    ASSERT_EQ(mme_session_timing(opened.session, 6, &timing), MME_OK) << mme_last_error();
    EXPECT_STREQ(timing.stage, "layer.second");
    EXPECT_EQ(timing.nanoseconds, 2000);
    EXPECT_EQ(mme_session_timing(opened.session, 7, &timing), MME_INVALID_ARGUMENT);
  }
}

// Memory of the GPU that a caller owns, filled and read by copies on a stream, as PyTorch or CuPy would.
class DeviceMemory : public TensorrtTest {
 protected:
  using Pointer = unsigned long long;

  void SetUp() override {
    TensorrtTest::SetUp();
    write_engine();
    driver<int (*)(unsigned)>("cuInit")(0);
    void* context = nullptr;
    driver<int (*)(void**, int)>("cuDevicePrimaryCtxRetain")(&context, 0);
    driver<int (*)(void*)>("cuCtxPushCurrent_v2")(context);
    driver<int (*)(void**, unsigned)>("cuStreamCreate")(&stream, 1);
    driver<int (*)(void**, size_t, unsigned)>("cuMemHostAlloc")(&staging, kBytes, 1);
    driver<int (*)(Pointer*, size_t)>("cuMemAlloc_v2")(&memory, kBytes);
  }
  void TearDown() override {
    driver<int (*)(Pointer)>("cuMemFree_v2")(memory);
    driver<int (*)(void*)>("cuMemFreeHost")(staging);
    driver<int (*)(void*)>("cuStreamDestroy_v2")(stream);
    driver<int (*)(void**)>("cuCtxPopCurrent_v2")(&staging);
    TensorrtTest::TearDown();
  }

  void fill(const std::vector<float>& values) const {
    std::copy(values.begin(), values.end(), static_cast<float*>(staging));
    EXPECT_EQ(driver<int (*)(Pointer, const void*, size_t, void*)>("cuMemcpyHtoDAsync_v2")(
                  memory, staging, values.size() * sizeof(float), stream),
              0);
  }

  static constexpr size_t kCount = 32 * 32, kBytes = kCount * sizeof(float);
  void *stream = nullptr, *staging = nullptr;
  Pointer memory = 0;
  const int64_t shape[3] = {1, 32, 32};
  mme_tensor tensor(const void* data) const {
    return {sizeof(mme_tensor), "", MME_FLOAT32, data, kBytes, 3, shape, MME_MEMORY_CUDA};
  }
};

TEST_F(DeviceMemory, IsReadWhereItLiesOnTheCallersStream) {
  mme_session_options session_options{};
  session_options.struct_size = sizeof session_options;
  session_options.stream = stream;
  Opened opened;
  start(opened, &session_options);
  const mme_tensor device = tensor(reinterpret_cast<void*>(memory));
  const auto scores_of = [&](const mme_tensor& image) {
    EXPECT_EQ(mme_session_set_tensor(opened.session, "image", &image), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_set_absent(opened.session, "audio"), MME_OK);
    return scores(opened.session);
  };
  for (size_t round = 0; round < 3; ++round) {
    std::vector<float> values(kCount);
    for (size_t i = 0; i < kCount; ++i) values[i] = static_cast<float>((i * 13 + round) % 17) / 17;
    mme_tensor host = tensor(values.data());
    host.memory = MME_MEMORY_HOST;
    std::vector<float> reference;
    for (int again = 0; again < 3; ++again) reference = scores_of(host);  // the last a launch of what was recorded
    fill(values);  // not waited for: the run is behind it on the stream
    const int copies = count("to device");
    for (int again = 0; again < 3; ++again) EXPECT_EQ(scores_of(device), reference);
    EXPECT_EQ(count("to device") - copies, 1 + (gpu_is("integrated") ? 0 : 3 * 2)) << "fill(), audio and presence";
  }
}

TEST_F(DeviceMemory, MayBeFilledOnAStreamThatTheSessionWaitsFor) {
  Opened opened;
  start(opened);
  const std::vector<float> values(kCount, .25F);
  mme_tensor host = tensor(values.data());
  host.memory = MME_MEMORY_HOST;
  ASSERT_EQ(mme_session_set_tensor(opened.session, "image", &host), MME_OK);
  ASSERT_EQ(mme_session_set_absent(opened.session, "audio"), MME_OK);
  const std::vector<float> reference = scores(opened.session);
  fill(values);
  const mme_tensor device = tensor(reinterpret_cast<void*>(memory));
  ASSERT_EQ(mme_session_set_tensor(opened.session, "image", &device), MME_OK);
  ASSERT_EQ(mme_session_set_absent(opened.session, "audio"), MME_OK);
  ASSERT_EQ(mme_session_wait_stream(opened.session, stream), MME_OK) << mme_last_error();
  EXPECT_EQ(scores(opened.session), reference);
}

TEST_F(DeviceMemory, AfterAnAddressThatWasRefusedTheOneBeforeIsToldAgain) {
  Opened opened;
  start(opened);
  const std::vector<float> values(kCount, .25F);
  mme_tensor host = tensor(values.data());
  host.memory = MME_MEMORY_HOST;
  const auto run_with = [&](const mme_tensor& image, mme_status status) {
    EXPECT_EQ(mme_session_set_tensor(opened.session, "image", &image), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_set_absent(opened.session, "audio"), MME_OK);
    mme_result result{};
    result.struct_size = sizeof result;
    EXPECT_EQ(mme_session_run(opened.session, &result), status) << mme_last_error();
    return std::vector<float>(result.scores, result.scores + result.class_count);
  };
  const std::vector<float> reference = run_with(host, MME_OK);
  fill(std::vector<float>(kCount, 3.0F));
  driver<int (*)(void*)>("cuStreamSynchronize")(stream);
  setenv("MMEDGE_TEST_REFUSES", "presence", 1);  // told after the image, or else the test shows nothing
  run_with(tensor(reinterpret_cast<void*>(memory)), MME_ENGINE_FAILED);
  unsetenv("MMEDGE_TEST_REFUSES");
  EXPECT_EQ(run_with(host, MME_OK), reference);
}

TEST_F(DeviceMemory, WhereTensorrtCannotTakeItIsRefused) {
  Opened opened;
  start(opened);
  const mme_tensor odd = tensor(reinterpret_cast<void*>(memory + 4));
  EXPECT_EQ(mme_session_set_tensor(opened.session, "image", &odd), MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("multiple of 256"), std::string::npos) << mme_last_error();
}

TEST_F(DeviceMemory, OfACameraIsReadWhereItLies) {
  Opened opened;
  start(opened);
  std::vector<float> values(kCount);
  std::vector<uint8_t> bytes(kBytes);
  for (size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<uint8_t>(i * 7);
  std::memcpy(values.data(), bytes.data(), kBytes);
  mme_image frame = make_image(MME_IMAGE_RGB8, 40, 30, bytes);
  ASSERT_EQ(mme_session_set_image(opened.session, "image", &frame), MME_OK);
  ASSERT_EQ(mme_session_set_absent(opened.session, "audio"), MME_OK);
  const std::vector<float> reference = scores(opened.session);
  fill(values);
  frame.memory = MME_MEMORY_CUDA;
  EXPECT_EQ(mme_session_set_image(opened.session, "image", &frame), MME_INVALID_ARGUMENT) << "of the host";
  frame.planes[0] = reinterpret_cast<void*>(memory);
  ASSERT_EQ(mme_session_wait_stream(opened.session, stream), MME_OK) << mme_last_error();
  ASSERT_EQ(mme_session_set_image(opened.session, "image", &frame), MME_OK) << mme_last_error();
  ASSERT_EQ(mme_session_set_absent(opened.session, "audio"), MME_OK);
  EXPECT_EQ(scores(opened.session), reference);
}

TEST_F(DeviceMemory, OutputsAreThereToo) {
  Opened opened;
  start(opened);
  run(opened.session, kMoments[0]);
  mme_tensor host{}, device{};
  host.struct_size = device.struct_size = sizeof host;
  ASSERT_EQ(mme_session_output(opened.session, 0, &host), MME_OK);
  ASSERT_EQ(mme_session_device_output(opened.session, 0, &device), MME_OK) << mme_last_error();
  EXPECT_EQ(device.memory, MME_MEMORY_CUDA);
  EXPECT_EQ(device.size, host.size);
  const void* found = device.data;  // of an integrated GPU the host's
  if (!gpu_is("integrated")) {
    driver<int (*)(void*, Pointer, size_t, void*)>("cuMemcpyDtoHAsync_v2")(
        staging, reinterpret_cast<Pointer>(device.data), device.size, stream);
    driver<int (*)(void*)>("cuStreamSynchronize")(stream);
    found = staging;
  }
  EXPECT_EQ(std::memcmp(found, host.data, host.size), 0);
}

TEST_F(DeviceMemory, PinnedByTheCallerIsTheGpusOwnWhereItIsIntegrated) {
  Opened opened;
  start(opened);
  std::fill_n(static_cast<float*>(staging), kCount, .25F);
  const mme_tensor pinned = tensor(staging);
  EXPECT_EQ(mme_session_set_tensor(opened.session, "image", &pinned),
            gpu_is("integrated") ? MME_OK : MME_INVALID_ARGUMENT);
}

TEST_F(DeviceMemory, OfTheHostIsRefused) {
  Opened opened;
  start(opened);
  const std::vector<float> values(kCount);
  const mme_tensor lie = tensor(values.data());
  EXPECT_EQ(mme_session_set_tensor(opened.session, "image", &lie), MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("not memory of GPU 0"), std::string::npos) << mme_last_error();
}

}  // namespace
