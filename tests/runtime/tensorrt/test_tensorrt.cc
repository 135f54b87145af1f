// The TensorRT engine: what it computes, which engines it takes, and when it records.
#include <thread>

#include "tensorrt_test.h"

namespace {

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

TEST_F(TensorrtTest, OfManyShapesThoseUsedLastStayRecorded) {
  bundle = "varying.mme";
  graph = read_file(bundle_path(bundle) / "model.onnx");
  write_engine();
  Opened opened;
  start(opened);
  const int before = count("graphs");
  for (size_t shape = 0; shape < 20; ++shape) {
    mme_audio audio = make_audio(samples, 8000);
    audio.frames -= shape;
    for (int i = 0; i < 2; ++i) {
      ASSERT_EQ(mme_session_set_audio(opened.session, "audio", &audio), MME_OK) << mme_last_error();
      ASSERT_EQ(mme_session_set_absent(opened.session, "image"), MME_OK);
      scores(opened.session);
    }
  }
  EXPECT_EQ(count("graphs") - before, gpu_is("refuses-capture") ? 0 : 16);
  EXPECT_EQ(mme_session_destroy(opened.session), MME_OK);
  EXPECT_EQ(count("graphs"), before);
}

TEST_F(TensorrtTest, AFrameThatIsSetAndNeverRunIsWaitedFor) {
  write_engine();
  const int before = count("destroy a busy stream");
  {
    Opened opened;
    start(opened);
    const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
    ASSERT_EQ(mme_session_set_image(opened.session, "image", &image), MME_OK) << mme_last_error();
  }
  EXPECT_EQ(count("destroy a busy stream"), before);
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
  for (const std::string& part : {path.string(), std::string("TensorRT 10.16.1.11"),
                                  std::string("compute capability 11.0"), std::string("found TensorRT 10.3.0.30"),
                                  std::string("Host GPU (4 multiprocessors), compute capability 8.7; build"),
                                  "mmedge build " + bundle_path("digits.mme").string() + " --target tensorrt"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  write({{"version", "10.16.1.11"}, {"version_compatible", true}});  // newer than what is here
  EXPECT_NE(refusal().find("was built for"), std::string::npos);
  write({{"version", "10.3.0.26"}});
  EXPECT_NE(refusal().find("was built for"), std::string::npos);
  write({{"gpu", "Host GPU (8 multiprocessors)"}});  // a larger one of the kind
  EXPECT_NE(refusal().find("and Host GPU (8 multiprocessors), compute capability 8.7; found"), std::string::npos);
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
                    {"gpu", "Another GPU (30 multiprocessors)"},
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
    return engine_of(opened);
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
  const std::string engine = engine_of(opened);
  EXPECT_NE(engine.find("TensorRT 10.3.0"), std::string::npos) << engine;
  EXPECT_NE(engine.find("Host GPU, images converted by the GPU"), std::string::npos) << engine;
}

TEST_F(TensorrtTest, ANewerTensorrtWithoutABackendIsPassedOver) {
  write_engine();
  Opened opened;
  start(opened);
  const std::string engine = engine_of(opened);
  EXPECT_EQ(engine.find("TensorRT 10.3.0.30"), 0) << engine;
  EXPECT_EQ(dlopen("libnvinfer.so.11", RTLD_NOW | RTLD_NOLOAD), nullptr);
  EXPECT_NE(dlopen("libnvinfer.so.11", RTLD_NOW), nullptr) << "it is there";
}

TEST_F(TensorrtTest, APathThatCannotBeLookedUpIsAnErrorOfTheEngineToo) {
  write_engine();
  Opened opened;
  start(opened);
  const std::string name(300, 'n');
  mme_model_options other = options();
  other.tensorrt = name.c_str();
  Opened second;
  EXPECT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), &other, &second.model), MME_ENGINE_UNAVAILABLE);
  EXPECT_NE(std::string(mme_last_error()).find("already runs TensorRT 10.3.0.30"), std::string::npos)
      << mme_last_error();
}

TEST_F(TensorrtTest, APluginThatIsThereAndDoesNotLoadIsSaidToBe) {
  write_engine("", {{"plugin", true}});
  EXPECT_NE(refusal().find("libmmedge_tensorrt_plugin.so does not load: "), std::string::npos) << mme_last_error();
}

TEST_F(TensorrtTest, FramesAreConvertedOnTheCpuWhereTheKernelsAreForOtherDevices) {
  setenv("MMEDGE_TEST_NO_KERNELS", "1", 1);
  write_engine();
  Opened opened;
  start(opened);
  unsetenv("MMEDGE_TEST_NO_KERNELS");
  const std::string engine = engine_of(opened);
  EXPECT_NE(engine.find("by the CPU: libmmedge_cuda.so does not run here: no kernel image"), std::string::npos)
      << engine;
  EXPECT_EQ(run(opened.session, kMoments[0]), expected(kMoments[0]));
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

TEST_F(TensorrtTest, AnOutputOfAnotherSizeThanItsTensorIsRefusedBeforeTheRun) {
  write_engine();
  Opened opened;
  start(opened);
  EXPECT_EQ(mme_session_set_absent(opened.session, "image"), MME_OK);
  const mme_audio audio = make_audio(samples, 16000);
  EXPECT_EQ(mme_session_set_audio(opened.session, "audio", &audio), MME_OK);
  mme_result result{};
  result.struct_size = sizeof result;
  setenv("MMEDGE_TEST_RESIZES", "logits", 1);
  EXPECT_EQ(mme_session_run(opened.session, &result), MME_ENGINE_FAILED);
  unsetenv("MMEDGE_TEST_RESIZES");
  EXPECT_NE(std::string(mme_last_error()).find("gives output \"logits\" another size"), std::string::npos)
      << mme_last_error();
  EXPECT_EQ(run(opened.session, kMoments[0]), expected(kMoments[0]));
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

}  // namespace
