// In place of CUDA's header of this name where a host compiler builds a kernel for the emulator: the language's
// keywords, variables and functions that the kernels use, and the launch. Types and half come from CUDA's own headers.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "emulator.h"
#include "matrix_products.h"

// To a host compiler CUDA's headers make the other keywords nothing.
#define __launch_bounds__(...)

// Of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

// A default argument that says where the call stands.
#define EMULATOR_PLACE const emulator::Place& place = {__builtin_FILE(), __builtin_LINE()}

inline void __syncthreads(EMULATOR_PLACE) { emulator::sync_block(place); }
inline int __syncthreads_or(int predicate, EMULATOR_PLACE) {
  return emulator::sync_block(place, predicate != 0) ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffU, EMULATOR_PLACE) { emulator::exchange(mask, 0, true, place); }
inline void __threadfence() {}

template <class Value>
Value shuffle(unsigned mask, Value value, unsigned source, const emulator::Place& place) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const emulator::Lanes all = emulator::exchange(mask, bits, false, place);
  if ((mask >> source & 1U) == 0) emulator::fault(place, "a shuffle reads a lane that its mask does not name");
  std::memcpy(&value, &all.value[source], sizeof value);
  return value;
}

template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int lanes, EMULATOR_PLACE) {
  return shuffle(mask, value, (emulator::lane() ^ static_cast<unsigned>(lanes)) & 31U, place);
}

// Of the lane's own `width` neighbours, a power of two of them.
template <class Value>
Value __shfl_sync(unsigned mask, Value value, int source, int width = 32, EMULATOR_PLACE) {
  const auto last = static_cast<unsigned>(width) - 1U;
  return shuffle(mask, value, (emulator::lane() & ~last) | (static_cast<unsigned>(source) & last), place);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
  const emulator::Lanes all = emulator::exchange(mask, predicate != 0, false, place);
  unsigned ballot = 0;
  for (unsigned i = 0; i < 32; ++i) ballot |= (mask >> i & 1U) != 0 && all.value[i] != 0 ? 1U << i : 0U;
  return ballot;
}

template <class Value>
Value __ldcg(const Value* from) {
  return *from;
}
template <class Value>
Value __ldcs(const Value* from) {
  return *from;
}
template <class Value>
Value __ldg(const Value* from) {
  return *from;
}

// What device.cuh makes of __shared__ under nvcc.
template <class Memory>
Memory& shared_memory(EMULATOR_PLACE) {
  static constexpr char key = 0;
  return *reinterpret_cast<Memory*>(emulator::static_shared(&key, sizeof(Memory), alignof(Memory), place));
}

inline void* dynamic_shared_memory() { return emulator::dynamic_shared(); }

inline unsigned atomicAdd(unsigned* to, unsigned value) {
  emulator::order_atomic(to);
  const unsigned before = std::exchange(*to, *to + value);
  emulator::order_atomic(to);
  return before;
}

// Four products of signed bytes.
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return sum;
}

// Byte i of the result is the one of b:a that hexadecimal digit i of the selector numbers.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (unsigned i = 0; i < 32; i += 8) {
    result |= static_cast<unsigned>(bytes >> (8 * (selector >> (i / 2) & 7U)) & 0xffU) << i;
  }
  return result;
}

// The lower half of high:low shifted to the right, by up to 31.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31U));
}

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }

// The place of the lowest bit that is set, from 1; of none: 0.
inline int __ffs(int bits) { return __builtin_ffs(bits); }

// On a device these are within 2 units in the last place.
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float value) { return 1.0F / std::sqrt(value); }

inline int __float2int_rn(float value) { return static_cast<int>(std::lrint(value)); }
using std::max;
using std::min;

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaSuccess;
}

// The launch, with the function's own types.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  } call{kernel, {std::forward<Arguments>(arguments)...}};
  const auto body = [](void* data) {
    auto& [function, parameters] = *static_cast<Call*>(data);
    std::apply(function, parameters);
  };
  return emulator::launch(config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream, body, &call);
}
