// The emulator's products of matrices, which a warp's lanes share as PTX documents it.
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <type_traits>
#include <vector>

#include "orders.h"

namespace {

constexpr unsigned kThreads = 64;

unsigned bits_of(uint8_t value) { return value; }
unsigned bits_of(int8_t value) { return static_cast<uint8_t>(value); }
unsigned bits_of(__half value) { return __half_as_ushort(value); }
unsigned bits_of(float value) { return std::bit_cast<unsigned>(value); }

// Columns of a, and rows of b, in a product of so many registers of b.
template <class Element, unsigned kHalves>
constexpr unsigned kDepth = 16 / sizeof(Element) * kHalves;

// A product of 16 x kDepth by kDepth x 8 numbers for each warp of the grid, added to what is in `sums`.
template <class Element, unsigned kHalves, class Sum>
__global__ void multiply(const Element* a, const Element* b, Sum* sums) {
  constexpr unsigned depth = kDepth<Element, kHalves>, count = 4 / sizeof(Element);
  const unsigned product = (blockIdx.x * blockDim.x + threadIdx.x) / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  a += product * 16 * depth;
  b += product * depth * 8;
  sums += product * 16 * 8;
  unsigned rows[2 * kHalves] = {}, columns[kHalves] = {};
  Sum own[4];
  for (unsigned half = 0; half < kHalves; ++half) {
    for (unsigned i = 0; i < count; ++i) {
      const unsigned k = 4 * count * half + count * t + i, shift = 8 * sizeof(Element) * i;
      rows[2 * half] |= bits_of(a[g * depth + k]) << shift;
      rows[2 * half + 1] |= bits_of(a[(g + 8) * depth + k]) << shift;
      columns[half] |= bits_of(b[k * 8 + g]) << shift;
    }
  }
  for (unsigned i = 0; i < 4; ++i) own[i] = sums[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  if constexpr (std::is_same_v<Element, float>) {
    mmedge::multiply_floats(rows, columns, own);
  } else if constexpr (std::is_same_v<Element, __half>) {
    mmedge::multiply_halves(rows, columns, own);
  } else if constexpr (std::is_same_v<Element, int8_t>) {
    mmedge::multiply_signed_bytes(rows, columns, own);
  } else {
    mmedge::multiply_bytes(rows, columns, own);
  }
  for (unsigned i = 0; i < 4; ++i) sums[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = own[i];
}

// Whole numbers, of which all sums are exact.
template <class Element, unsigned kHalves, class Sum>
void compare_products() {
  constexpr size_t depth = kDepth<Element, kHalves>, warps = 2 * kThreads / 32;
  std::mt19937 random(1);
  std::vector<int> a(warps * 16 * depth), b(warps * depth * 8);
  for (auto* numbers : {&a, &b}) {
    for (int& number : *numbers) {
      number = static_cast<int>(random() % 256) - (std::is_same_v<Element, uint8_t> ? 0 : 128);
    }
  }
  std::vector<Sum> expected(warps * 16 * 8), found(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const size_t row = i / 8, warp = row / 16;
    int sum = static_cast<int>(i) - 100;
    found[i] = static_cast<Sum>(sum);
    for (size_t k = 0; k < depth; ++k) sum += a[row * depth + k] * b[(warp * depth + k) * 8 + i % 8];
    expected[i] = static_cast<Sum>(sum);
  }
  const auto made = [](const std::vector<int>& numbers) {
    std::vector<Element> elements;
    for (const int number : numbers) {
      if constexpr (std::is_same_v<Element, __half>) {
        elements.push_back(__float2half_rn(static_cast<float>(number)));
      } else {
        elements.push_back(static_cast<Element>(number));
      }
    }
    return elements;
  };
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(2);
  config.blockDim = dim3(kThreads);
  ASSERT_EQ(cudaLaunchKernelEx(&config, multiply<Element, kHalves, Sum>, made(a).data(), made(b).data(), found.data()),
            cudaSuccess);
  EXPECT_EQ(found, expected);
}

TEST(MatrixProducts, OfBytes) {
  in_every_order([] {
    compare_products<uint8_t, 1, int>();
    compare_products<uint8_t, 2, int>();
    compare_products<int8_t, 2, int>();
  });
}

TEST(MatrixProducts, OfHalves) {
  in_every_order([] { compare_products<__half, 2, float>(); });
}

TEST(MatrixProducts, OfFloats) {
  in_every_order([] { compare_products<float, 2, float>(); });
}

// Of a float32, bits 13 and on count: 11 of the significand.
TEST(MatrixProducts, OfFloatsLeaveOutWhatTf32DoesNotHold) {
  std::vector<float> a(2 * 2 * 16 * 8, 1.0F + 0x1p-10F + 0x1p-11F), b(2 * 2 * 8 * 8, 1.0F), sums(2 * 2 * 16 * 8);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(2);
  config.blockDim = dim3(kThreads);
  ASSERT_EQ(cudaLaunchKernelEx(&config, multiply<float, 2, float>, a.data(), b.data(), sums.data()), cudaSuccess);
  for (const float sum : sums) EXPECT_EQ(sum, 8.0F * (1.0F + 0x1p-10F));
}

}  // namespace
