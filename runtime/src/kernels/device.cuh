// What the CUDA kernels share. Built by nvcc, and by a host compiler for tests that run the kernels on the CPU.
#pragma once

#include <cuda_runtime.h>

namespace mmedge {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffU;

__device__ __host__ constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

#ifdef __CUDACC__
// The block's own Memory: one for each type, in static shared memory.
template <class Memory>
__device__ inline Memory& shared_memory() {
  __shared__ Memory memory;
  return memory;
}

// As many bytes as the launch asked for, aligned to 16.
__device__ inline void* dynamic_shared_memory() {
  extern __shared__ int4 dynamic_memory[];
  return dynamic_memory;
}
#endif

// Over kLanes neighbouring lanes, each of which gets the sum. The whole warp must take part.
template <int kLanes, class Value>
__device__ inline Value sum_lanes(Value value) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kWholeWarp, value, lanes);
  return value;
}

}  // namespace mmedge
