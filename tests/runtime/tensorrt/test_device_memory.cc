// Tensors and frames that are on the GPU already.
#include <cstring>

#include "tensorrt_test.h"

namespace {

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
  mme_tensor tensor(const void* data, int32_t where = MME_MEMORY_CUDA) const {
    return {sizeof(mme_tensor), "", MME_FLOAT32, data, kBytes, 3, shape, where};
  }
  static std::vector<float> scores_of(const Opened& opened, const mme_tensor& image) {
    EXPECT_EQ(mme_session_set_tensor(opened.session, "image", &image), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_set_absent(opened.session, "audio"), MME_OK);
    return scores(opened.session);
  }
};

TEST_F(DeviceMemory, IsReadWhereItLiesOnTheCallersStream) {
  mme_session_options session_options{};
  session_options.struct_size = sizeof session_options;
  session_options.stream = stream;
  Opened opened;
  start(opened, &session_options);
  const mme_tensor device = tensor(reinterpret_cast<void*>(memory));
  for (size_t round = 0; round < 3; ++round) {
    std::vector<float> values(kCount);
    for (size_t i = 0; i < kCount; ++i) values[i] = static_cast<float>((i * 13 + round) % 17) / 17;
    std::vector<float> reference;
    for (int again = 0; again < 3; ++again)
      reference = scores_of(opened, tensor(values.data(), MME_MEMORY_HOST));  // the last a launch of what was recorded
    fill(values);  // not waited for: the run is behind it on the stream
    const int copies = count("to device");
    for (int again = 0; again < 3; ++again) EXPECT_EQ(scores_of(opened, device), reference);
    EXPECT_EQ(count("to device") - copies, 1 + (gpu_is("integrated") ? 0 : 3 * 2)) << "fill(), audio and presence";
  }
}

TEST_F(DeviceMemory, MayBeFilledOnAStreamThatTheSessionWaitsFor) {
  Opened opened;
  start(opened);
  const std::vector<float> values(kCount, .25F);
  const std::vector<float> reference = scores_of(opened, tensor(values.data(), MME_MEMORY_HOST));
  fill(values);
  ASSERT_EQ(mme_session_wait_stream(opened.session, stream), MME_OK) << mme_last_error();
  EXPECT_EQ(scores_of(opened, tensor(reinterpret_cast<void*>(memory))), reference);
}

TEST_F(DeviceMemory, OfManyAddressesThoseUsedLastStayRecorded) {
  constexpr size_t addresses = 20;
  Pointer many = 0;
  ASSERT_EQ(driver<int (*)(Pointer*, size_t)>("cuMemAlloc_v2")(&many, addresses * kBytes), 0);
  const int before = count("graphs");
  Opened opened;
  start(opened);
  for (size_t i = 0; i < addresses; ++i) {
    for (int again = 0; again < 2; ++again) scores_of(opened, tensor(reinterpret_cast<void*>(many + i * kBytes)));
  }
  EXPECT_EQ(count("graphs") - before, gpu_is("refuses-capture") ? 0 : 8);
  EXPECT_EQ(mme_session_destroy(opened.session), MME_OK);
  EXPECT_EQ(count("graphs"), before);
  driver<int (*)(Pointer)>("cuMemFree_v2")(many);
}

TEST_F(DeviceMemory, OfAFrameThatIsSetAndNeverRunIsFreedBehindIt) {
  mme_session_options session_options{};
  session_options.struct_size = sizeof session_options;
  session_options.stream = stream;
  {
    Opened opened;
    start(opened, &session_options);
    const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
    ASSERT_EQ(mme_session_set_image(opened.session, "image", &image), MME_OK) << mme_last_error();
  }
  EXPECT_EQ(driver<int (*)(void*)>("cuStreamSynchronize")(stream), 0) << "what still waits crashes";
}

TEST_F(DeviceMemory, AfterAnAddressThatWasRefusedTheOneBeforeIsToldAgain) {
  Opened opened;
  start(opened);
  const std::vector<float> values(kCount, .25F);
  const mme_tensor host = tensor(values.data(), MME_MEMORY_HOST);
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
  setenv("MMEDGE_TEST_FOREIGN", "1", 1);
  const mme_tensor foreign = tensor(reinterpret_cast<void*>(memory));
  EXPECT_EQ(mme_session_set_tensor(opened.session, "image", &foreign), MME_INVALID_ARGUMENT);
  unsetenv("MMEDGE_TEST_FOREIGN");
  EXPECT_NE(std::string(mme_last_error()).find("not memory of GPU 0"), std::string::npos) << mme_last_error();
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
