// What threads, and a forked child, may do at once. Run under ThreadSanitizer too.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>

#include "support.h"

namespace {

constexpr char kImage[] = R"({"type": "image", "width": 8, "height": 8, "channels": "rgb", "fit": "stretch",
  "interpolation": "bilinear", "antialias": true, "mean": [0, 0, 0], "std": [1, 1, 1]})";

constexpr char kWaveform[] = R"({"type": "waveform", "sample_rate": 16000, "samples": 160, "normalize": "none"})";

// Runs `work(index)` in `count` threads that begin together.
void in_threads(int count, const std::function<void(int)>& work) {
  std::atomic<int> waiting{count};
  std::vector<std::thread> threads;
  for (int index = 0; index < count; ++index) {
    threads.emplace_back([&, index] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      work(index);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class ThreadsTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(mme_model_open(bundle_path("digits.mme").c_str(), nullptr, &model), MME_OK) << mme_last_error();
  }
  void TearDown() override { mme_model_close(model); }

  // One run from raw data to scores, which depend on `seed` alone.
  std::vector<float> run(mme_session* session, int seed) const {
    const std::vector<uint8_t> pixels(40 * 30 * 3, static_cast<uint8_t>(20 * seed));
    std::vector<float> samples(16000);
    for (size_t i = 0; i < samples.size(); ++i) samples[i] = static_cast<float>(i % static_cast<size_t>(seed + 2));
    const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
    const mme_audio audio = make_audio(samples, 16000);
    mme_result result{};
    result.struct_size = sizeof result;
    EXPECT_EQ(mme_session_set_image(session, "image", &image), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_set_audio(session, "audio", &audio), MME_OK) << mme_last_error();
    EXPECT_EQ(mme_session_run(session, &result), MME_OK) << mme_last_error();
    return {result.scores, result.scores + result.class_count};
  }

  mme_session* create() const {
    mme_session* session = nullptr;
    EXPECT_EQ(mme_session_create(model, nullptr, &session), MME_OK) << mme_last_error();
    return session;
  }

  mme_model* model = nullptr;
};

TEST_F(ThreadsTest, SessionsOfOneModelDoNotDisturbEachOther) {
  std::vector<std::vector<float>> expected;
  mme_session* alone = create();
  for (int seed = 0; seed < 4; ++seed) expected.push_back(run(alone, seed));
  EXPECT_EQ(mme_session_destroy(alone), MME_OK);
  in_threads(4, [&](int index) {
    mme_session* own = create();
    for (int i = 0; i < 20; ++i) EXPECT_EQ(run(own, index), expected[static_cast<size_t>(index)]);
    EXPECT_EQ(mme_session_destroy(own), MME_OK);
  });
}

TEST_F(ThreadsTest, AModelMayBeClosedWhileItsSessionsRun) {
  std::vector<mme_session*> sessions{create(), create(), create()};
  const std::vector<float> expected = run(sessions[0], 3);
  std::atomic<bool> closed{false};
  in_threads(4, [&](int index) {
    if (index == 3) {
      EXPECT_EQ(mme_model_close(model), MME_OK) << mme_last_error();
      closed = true;
      return;
    }
    do {
      EXPECT_EQ(run(sessions[static_cast<size_t>(index)], 3), expected);
    } while (!closed);
    EXPECT_EQ(mme_session_destroy(sessions[static_cast<size_t>(index)]), MME_OK);
  });
  EXPECT_EQ(mme_model_close(model), MME_INVALID_HANDLE);
}

TEST_F(ThreadsTest, ANewHandleIsNeverBusyWhileOthersAreReleased) {
  in_threads(4, [&](int) {
    for (int i = 0; i < 1000; ++i) {
      mme_preprocessor* made = nullptr;
      mme_input_info info{};
      info.struct_size = sizeof info;
      EXPECT_EQ(mme_preprocessor_create(kImage, &made), MME_OK);
      EXPECT_EQ(mme_preprocessor_get_info(made, &info), MME_OK) << mme_last_error();
      EXPECT_EQ(mme_preprocessor_destroy(made), MME_OK) << mme_last_error();
      EXPECT_EQ(mme_preprocessor_get_info(made, &info), MME_INVALID_HANDLE);
    }
  });
}

TEST_F(ThreadsTest, SessionsAreMadeAndReleasedAtOnce) {
  in_threads(4, [&](int index) {
    for (int i = 0; i < 10; ++i) {
      mme_session* own = create();
      EXPECT_EQ(run(own, index).size(), 10U);
      EXPECT_EQ(mme_session_destroy(own), MME_OK) << mme_last_error();
    }
  });
}

TEST_F(ThreadsTest, OneSessionServesOneThreadAndRefusesTheOthers) {
  mme_session* shared = create();
  const std::vector<uint8_t> pixels(size_t{1280} * 720 * 3, 90);
  const mme_image image = make_image(MME_IMAGE_RGB8, 1280, 720, pixels);
  std::atomic<int> served{0}, busy{0}, other{0};
  in_threads(4, [&](int) {
    // Until every thread has met both answers' causes; a frame takes long enough for two calls to meet.
    for (int i = 0; i < 5000 && (served < 20 || busy < 20); ++i) {
      const mme_status status = mme_session_set_image(shared, "image", &image);
      ++(status == MME_OK ? served : status == MME_BUSY ? busy : other);
      if (status == MME_BUSY)
        EXPECT_NE(std::string(mme_last_error()).find("in use by another call"), std::string::npos);
    }
  });
  EXPECT_GE(served, 20);
  EXPECT_GE(busy, 20);
  EXPECT_EQ(other, 0);
  EXPECT_EQ(mme_session_destroy(shared), MME_OK);
}

TEST_F(ThreadsTest, ASessionReleasedInOneThreadIsRefusedInTheOthers) {
  for (int round = 0; round < 20; ++round) {
    mme_session* shared = create();
    std::atomic<int> released{0};
    in_threads(3, [&](int index) {
      if (index == 0) {
        while (mme_session_destroy(shared) == MME_BUSY) std::this_thread::yield();
        ++released;
        return;
      }
      mme_status status = MME_OK;
      while (status == MME_OK || status == MME_BUSY) status = mme_session_set_absent(shared, "image");
      EXPECT_EQ(status, MME_INVALID_HANDLE) << mme_last_error();
    });
    EXPECT_EQ(released, 1);
  }
}

TEST_F(ThreadsTest, ASessionMayMoveFromThreadToThread) {
  mme_session* session = create();
  const std::vector<float> expected = run(session, 2);
  for (int i = 0; i < 5; ++i) {
    std::thread([&] { EXPECT_EQ(run(session, 2), expected); }).join();
  }
  EXPECT_EQ(mme_session_destroy(session), MME_OK);
}

TEST_F(ThreadsTest, AMessageBelongsToItsThread) {
  EXPECT_EQ(mme_bundle_check("/nonexistent/a.mme"), MME_BUNDLE_INVALID);
  std::thread([] {
    EXPECT_STREQ(mme_last_error(), "");
    EXPECT_EQ(mme_bundle_check("/nonexistent/b.mme"), MME_BUNDLE_INVALID);
    EXPECT_NE(std::string(mme_last_error()).find("b.mme"), std::string::npos);
  }).join();
  EXPECT_NE(std::string(mme_last_error()).find("a.mme"), std::string::npos);
}

// A data loader's worker: forked while other threads of the parent preprocess and run.
TEST_F(ThreadsTest, APreprocessorWorksInAForkedChild) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer's allocator, unlike malloc, may be locked in the child";
#endif
  const std::vector<uint8_t> pixels(40 * 30 * 3, 90);
  const mme_image image = make_image(MME_IMAGE_RGB8, 40, 30, pixels);
  mme_preprocessor* before_fork = nullptr;
  ASSERT_EQ(mme_preprocessor_create(kImage, &before_fork), MME_OK);
  std::atomic<bool> done{false};
  in_threads(2, [&](int index) {
    if (index == 0) {
      mme_session* own = create();
      while (!done) EXPECT_EQ(run(own, 1).size(), 10U);
      EXPECT_EQ(mme_session_destroy(own), MME_OK);
      return;
    }
    for (int i = 0; i < 10; ++i) {
      const pid_t child = fork();
      if (child == 0) {
        mme_tensor tensor{};
        tensor.struct_size = sizeof tensor;
        mme_preprocessor* own = nullptr;
        const bool good = mme_preprocessor_image(before_fork, &image, &tensor) == MME_OK &&
                          mme_preprocessor_create(kImage, &own) == MME_OK &&
                          mme_preprocessor_image(own, &image, &tensor) == MME_OK &&
                          mme_preprocessor_destroy(own) == MME_OK && mme_preprocessor_destroy(before_fork) == MME_OK;
        _exit(good ? 0 : 1);
      }
      int status = 0;
      EXPECT_EQ(waitpid(child, &status, 0), child);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    done = true;
  });
  EXPECT_EQ(mme_preprocessor_destroy(before_fork), MME_OK);
}

// However far the other threads are in making and releasing theirs.
TEST(ForkTest, APreprocessorIsMadeAndReleasedInAForkedChildWhileOthersAre) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer's allocator, unlike malloc, may be locked in the child";
#endif
  const auto make_and_release = [] {
    mme_preprocessor* made = nullptr;
    return mme_preprocessor_create(kWaveform, &made) == MME_OK && mme_preprocessor_destroy(made) == MME_OK;
  };
  std::atomic<bool> done{false};
  in_threads(4, [&](int index) {
    if (index > 0) {
      while (!done) EXPECT_TRUE(make_and_release());
      return;
    }
    for (int i = 0; i < 500 && !done; ++i) {
      const pid_t child = fork();
      if (child == 0) {
        alarm(20);  // ends one that waits for ever
        _exit(make_and_release() ? 0 : 1);
      }
      int status = 0;
      EXPECT_EQ(waitpid(child, &status, 0), child);
      done = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
      EXPECT_FALSE(done) << "fork " << i << " ended with " << status;
    }
    done = true;
  });
}

}  // namespace
