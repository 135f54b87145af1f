// The emulator finds each kind of fault that a kernel may have. Out of bounds, misaligned and unordered accesses are a
// sanitizer's to find: those tests run where it is built in.
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include "orders.h"

namespace {

using emulator::Fault;

constexpr unsigned kThreads = 64;

template <class... Parameters>
void run(void (*kernel)(Parameters...), std::type_identity_t<Parameters>... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(2);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kThreads * sizeof(float);
  ASSERT_EQ(cudaLaunchKernelEx(&config, kernel, arguments...), cudaSuccess);
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

// ---- Kernels without fault ------------------------------------------------------------------------------------------

// to[block * kThreads + i] = from[block * kThreads + kThreads - 1 - i], through shared memory.
template <bool kBarrier>
__global__ void reverse(const float* from, float* to) {
  auto* shared = reinterpret_cast<float*>(emulator::dynamic_shared());
  const unsigned first = blockIdx.x * blockDim.x;
  shared[threadIdx.x] = from[first + threadIdx.x];
  if (kBarrier) __syncthreads();
  to[first + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void sum_warp(const float* from, float* to) {
  const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = from[index];
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, lanes);
  to[index] = sum;
}

// Each half of a warp for itself, lane 0 of each half writing for the others.
__global__ void sum_halves(float* to) {
  auto& shared = shared_memory<float[kThreads]>();
  const unsigned half = threadIdx.x / 16 % 2, mask = half == 0 ? 0xffffU : 0xffff0000U;
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncwarp(mask);
  if (threadIdx.x % 16 == 0) {
    float sum = 0.0F;
    for (unsigned i = 0; i < 16; ++i) sum += shared[threadIdx.x + i];
    shared[threadIdx.x] = sum;
  }
  __syncwarp(mask);
  to[blockIdx.x * blockDim.x + threadIdx.x] = shared[threadIdx.x / 16 * 16];
}

// What lane `from` of the own eight has, plus 100 where any thread of the block is number `said`.
__global__ void take_from_lane(int from, unsigned said, float* to) {
  const bool any = __syncthreads_or(threadIdx.x == said) != 0;
  const float other = __shfl_sync(0xffffffffU, static_cast<float>(threadIdx.x), from, 8);
  to[blockIdx.x * blockDim.x + threadIdx.x] = other + (any ? 100.0F : 0.0F);
}

// 1 for the block whose count makes it the last, with what the others wrote before.
__global__ void find_last(unsigned* counter, float* parts, float* last) {
  if (threadIdx.x != 0) return;
  parts[blockIdx.x] = 1.0F;
  __threadfence();
  if (atomicAdd(counter, 1U) == gridDim.x - 1) *last = parts[0] + parts[1];
}

std::vector<float> numbers() {
  std::vector<float> values(2 * kThreads);
  std::iota(values.begin(), values.end(), 0.0F);
  return values;
}

TEST(Emulator, ThreadsSeeWhatOthersWroteBeforeABarrier) {
  in_every_order([] {
    const std::vector<float> from = numbers();
    std::vector<float> to(from.size());
    run(reverse<true>, from.data(), to.data());
    for (unsigned i = 0; i < kThreads; ++i) {
      EXPECT_EQ(to[i], from[kThreads - 1 - i]);
      EXPECT_EQ(to[kThreads + i], from[2 * kThreads - 1 - i]);
    }
  });
}

TEST(Emulator, ShufflesAndPartialWarpsGiveEachLaneItsOwn) {
  in_every_order([] {
    const std::vector<float> from = numbers();
    std::vector<float> to(from.size());
    run(sum_warp, from.data(), to.data());
    for (size_t i = 0; i < to.size(); ++i) {
      const auto first = static_cast<float>(i / 32 * 32);
      EXPECT_EQ(to[i], 32 * first + 31 * 16);
    }
    run(sum_halves, to.data());
    for (size_t i = 0; i < to.size(); ++i) {
      const auto first = static_cast<float>(i % kThreads / 16 * 16);
      EXPECT_EQ(to[i], 16 * first + 15 * 8);
    }
  });
}

TEST(Emulator, AnyLaneCanBeReadAndAnyThreadHeard) {
  in_every_order([] {
    std::vector<float> to(2 * kThreads);
    for (const unsigned said : {0U, 63U, 64U}) {
      run(take_from_lane, 3, said, to.data());
      for (size_t i = 0; i < to.size(); ++i) {
        EXPECT_EQ(to[i], static_cast<float>(i % kThreads / 8 * 8 + 3 + (said < kThreads ? 100 : 0)));
      }
    }
  });
}

TEST(Emulator, TheLastBlockSeesWhatTheOthersWrote) {
  in_every_order([] {
    unsigned counter = 0;
    float parts[2] = {}, last = 0.0F;
    run(find_last, &counter, parts, &last);
    EXPECT_EQ(last, 2.0F);
  });
}

TEST(Emulator, WhatNoDeviceLaunchesIsRefused) {
  const auto launch = [](unsigned threads, size_t shared) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    return cudaLaunchKernelEx(&config, sum_halves, nullptr);
  };
  EXPECT_EQ(launch(1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(0, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(64, 48 * 1024 + 1), cudaErrorInvalidConfiguration);
}

TEST(Emulator, WhatIsEnqueuedOnAnotherStreamThanTheOneThatWasMadeIsRefused) {
  std::vector<float> to(kThreads);
  const auto launch = [&](cudaStream_t stream) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1);
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, sum_halves, to.data());
  };
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(launch(stream), cudaSuccess);
  EXPECT_EQ(launch(nullptr), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaMemsetAsync(to.data(), 0, sizeof(float), stream), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(to.data(), 0, sizeof(float), nullptr), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(launch(nullptr), cudaSuccess);
}

// ---- Faults that the scheduler sees ---------------------------------------------------------------------------------

__global__ void half_the_threads_come_to_a_barrier() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void threads_come_to_two_barriers() {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

TEST(Emulator, ABarrierThatNotAllThreadsReachIsAFault) {
  in_every_order([] {
    const std::string left = message_of([] { run(half_the_threads_come_to_a_barrier); });
    EXPECT_NE(left.find("divergent barrier"), std::string::npos) << left;
    EXPECT_NE(left.find("has left the kernel"), std::string::npos) << left;
    const std::string two = message_of([] { run(threads_come_to_two_barriers); });
    EXPECT_NE(two.find("divergent barrier"), std::string::npos) << two;
    EXPECT_NE(two.find("test_emulator.cc"), std::string::npos) << two;
  });
}

__global__ void mask_names_lanes_that_left(float* to) {
  if (threadIdx.x >= 20) return;
  to[threadIdx.x] = __shfl_xor_sync(0xffffffffU, 1.0F, 1);
}

__global__ void mask_lacks_the_caller(unsigned* to) { to[threadIdx.x] = __ballot_sync(0xffff0000U, 1); }

__global__ void take_too_much_shared_memory(unsigned* to) {
  to[threadIdx.x] = shared_memory<unsigned[12 * 1024]>()[threadIdx.x];
}

__global__ void shuffle_reads_past_its_mask(float* to) {
  if (threadIdx.x % 32 < 16) to[threadIdx.x] = __shfl_xor_sync(0xffffU, 1.0F, 16);
}

TEST(Emulator, AWarpMaskThatDoesNotFitTheLanesIsAFault) {
  in_every_order([] {
    float floats[kThreads];
    unsigned words[kThreads];
    const std::string left = message_of([&] { run(mask_names_lanes_that_left, floats); });
    EXPECT_NE(left.find("has left the kernel"), std::string::npos) << left;
    const std::string lacks = message_of([&] { run(mask_lacks_the_caller, words); });
    EXPECT_NE(lacks.find("does not name the lane that calls it"), std::string::npos) << lacks;
    const std::string past = message_of([&] { run(shuffle_reads_past_its_mask, floats); });
    EXPECT_NE(past.find("a shuffle reads a lane"), std::string::npos) << past;
  });
}

TEST(Emulator, StaticSharedMemoryThatDoesNotFitBesideTheDynamicOneIsAFault) {
  unsigned words[kThreads];
  const std::string message = message_of([&] { run(take_too_much_shared_memory, words); });
  EXPECT_NE(message.find("past 48 KiB"), std::string::npos) << message;
}

// ---- Faults that the values show ------------------------------------------------------------------------------------

__global__ void read_what_none_wrote(float* dynamic, float* fixed, __half* halves) {
  const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
  auto* const bytes = emulator::dynamic_shared();
  dynamic[index] = reinterpret_cast<float*>(bytes)[threadIdx.x];
  fixed[index] = shared_memory<float[kThreads]>()[threadIdx.x];
  halves[index] = reinterpret_cast<__half*>(bytes)[threadIdx.x];
}

TEST(Emulator, SharedMemoryThatNoneWroteIsNotANumber) {
  std::vector<float> dynamic(2 * kThreads), fixed(2 * kThreads);
  std::vector<__half> halves(2 * kThreads);
  run(sum_halves, dynamic.data());  // leaves numbers in shared memory
  run(read_what_none_wrote, dynamic.data(), fixed.data(), halves.data());
  for (unsigned i = 0; i < 2 * kThreads; ++i) {
    EXPECT_TRUE(std::isnan(dynamic[i]) && std::isnan(fixed[i]) && std::isnan(__half2float(halves[i]))) << i;
  }
}

#if !defined(__SANITIZE_THREAD__)
TEST(Emulator, SomeOrderShowsAMissingBarrier) {
  bool wrong = false;
  in_every_order([&] {
    const std::vector<float> from = numbers();
    std::vector<float> to(from.size());
    run(reverse<false>, from.data(), to.data());
    wrong = wrong || to[0] != from[kThreads - 1];
  });
  EXPECT_TRUE(wrong);
}
#endif

// ---- Faults that the sanitizers find --------------------------------------------------------------------------------

#if defined(__SANITIZE_ADDRESS__)
__global__ void read_pairs_of_shared_floats(float2* to) {
  auto& shared = shared_memory<float[kThreads]>();
  shared[threadIdx.x] = 1.0F;
  to[threadIdx.x] = *reinterpret_cast<const float2*>(&shared[threadIdx.x / 2 * 2]);
}

__global__ void write_global(float* to, unsigned at) { to[at + threadIdx.x] = 1.0F; }

__global__ void write_dynamic(unsigned at) {
  reinterpret_cast<float*>(emulator::dynamic_shared())[at + threadIdx.x] = 1.0F;
}

__global__ void write_static(float* to, unsigned at) {
  auto& shared = shared_memory<float[kThreads]>();
  float* const bare = shared;  // no array whose bounds UBSan knows
  bare[at + threadIdx.x] = 1.0F;
  to[threadIdx.x] = shared[threadIdx.x];
}

__global__ void write_indexed(float* to, unsigned at) {
  auto& shared = shared_memory<float[kThreads]>();
  shared[at + threadIdx.x] = 1.0F;
  to[threadIdx.x] = shared[threadIdx.x];
}

__global__ void copy_vector(const float* from, float4* to) {
  if (threadIdx.x == 0) *to = *reinterpret_cast<const float4*>(from);
}

TEST(EmulatorDeathTest, AsanFindsAccessesOutOfBounds) {
  std::vector<float> to(kThreads);
  run(write_global, to.data(), 0);
  EXPECT_DEATH(run(write_global, to.data(), 1), "heap-buffer-overflow");
  run(write_dynamic, 0);
  EXPECT_DEATH(run(write_dynamic, 1), "use-after-poison");
  run(write_static, to.data(), 0);
  EXPECT_DEATH(run(write_static, to.data(), 1), "use-after-poison");
}

TEST(EmulatorDeathTest, UbsanFindsAnIndexPastAStaticArray) {
  std::vector<float> to(kThreads);
  run(write_indexed, to.data(), 0);
  EXPECT_DEATH(run(write_indexed, to.data(), 1), "index 64 out of bounds");
}

TEST(EmulatorDeathTest, UbsanFindsAMisalignedVector) {
  alignas(16) const float from[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  float4 to{};
  run(copy_vector, from, &to);
  EXPECT_EQ(to.w, 4.0F);
  EXPECT_DEATH(run(copy_vector, from + 1, &to), "misaligned address");
  float2 pairs[kThreads];
  EXPECT_DEATH(run(read_pairs_of_shared_floats, pairs), "misaligned address");
}
#endif

#if defined(__SANITIZE_THREAD__)
__global__ void shuffle_in_place_of_a_barrier(float* to) {
  auto* shared = reinterpret_cast<float*>(emulator::dynamic_shared());
  shared[threadIdx.x] = 1.0F;
  const float other = __shfl_xor_sync(0xffffffffU, 1.0F, 1);
  to[threadIdx.x] = shared[threadIdx.x ^ 1U] + other;
}

__global__ void write_one_address(float* to) {
  if (threadIdx.x == blockIdx.x) *to = 1.0F;
}

// Thread 1 of each block writes; thread 0 says so, perhaps too early.
template <bool kBarrier>
__global__ void announce(unsigned* counter, float* parts, float* last) {
  __syncthreads();
  if (threadIdx.x == 1) parts[blockIdx.x] = 1.0F;
  if (kBarrier) __syncthreads();
  if (threadIdx.x == 0 && atomicAdd(counter, 1U) == gridDim.x - 1) *last = parts[0] + parts[1];
}

TEST(EmulatorDeathTest, TsanFindsARaceOfTwoBlocks) {
  in_every_order([] {
    float to = 0.0F, parts[2] = {}, last = 0.0F;
    unsigned counter = 0;
    EXPECT_DEATH(run(write_one_address, &to), "data race");
    run(announce<true>, &counter, parts, &last);
    EXPECT_EQ(last, 2.0F);
    counter = 0;
    EXPECT_DEATH(run(announce<false>, &counter, parts, &last), "data race");
  });
}

TEST(EmulatorDeathTest, TsanFindsAMissingBarrier) {
  in_every_order([] {
    const std::vector<float> from = numbers();
    std::vector<float> to(from.size());
    run(reverse<true>, from.data(), to.data());
    EXPECT_DEATH(run(reverse<false>, from.data(), to.data()), "data race");
    EXPECT_DEATH(run(shuffle_in_place_of_a_barrier, to.data()), "data race");
  });
}
#endif

}  // namespace
