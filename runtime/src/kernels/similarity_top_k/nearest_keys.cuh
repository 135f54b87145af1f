// The k best of a stream of rows, which a block keeps in shared memory.
#pragma once

#include <cstdint>

#include "kernels/device.cuh"

namespace mmedge {

// A row and its score as one number: the larger, the nearer; of equal scores, the lower row. Never 0.
__device__ inline uint64_t make_key(float score, int row) {
  const unsigned bits = __float_as_uint(score + 0.0F);  // -0 is 0
  const unsigned ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000U;
  return uint64_t{ordered} << 32 | ~static_cast<unsigned>(row);
}

__device__ inline int row_of(uint64_t key) { return static_cast<int>(~static_cast<unsigned>(key)); }

__device__ inline float score_of(uint64_t key) {
  const auto ordered = static_cast<unsigned>(key >> 32);
  return __uint_as_float(ordered >> 31 != 0 ? ordered & 0x7fffffffU : ~ordered);
}

// Of kLists streams, for k up to kRound.
template <int kLists, int kCapacity>
struct NearestKeys {
  static constexpr int kRound = kCapacity / 2;  // keys that may be offered to a list from one settle() to the next

  uint64_t keys[kLists][kCapacity];
  uint64_t threshold[kLists];  // a key up to it is none of the k best; 0 until there are k
  unsigned count[kLists];

  // By all threads of the block, of which there are at least kLists; a barrier must follow.
  __device__ void clear() {
    const int list = static_cast<int>(threadIdx.x);
    if (list < kLists) threshold[list] = count[list] = 0;
  }

  // By any thread. Returns whether the key may be one of the k best.
  __device__ bool offer(int list, uint64_t key) {
    if (key <= threshold[list]) return false;
    keys[list][atomicAdd(&count[list], 1U)] = key;
    return true;
  }

  // By all threads of the block; `offered`: whether this one's offers were taken. Returns whether any thread's were.
  // Sorts where there is much to sort, or no threshold yet, or it is the end.
  __device__ bool settle(int k, bool offered, bool end) {
    const bool any = __syncthreads_or(offered ? 1 : 0) != 0;
    if (!any && !end) return false;
    const auto wanted = static_cast<unsigned>(k);
    unsigned most = 0;
    for (const unsigned one : count) most = max(most, one);
    if (end || most > unsigned{kRound} || (threshold[0] == 0 && most >= wanted)) {
      sort(most);
      const int list = static_cast<int>(threadIdx.x);
      if (list < kLists && count[list] >= wanted) {
        count[list] = wanted;
        threshold[list] = keys[list][k - 1];
      }
    }
    __syncthreads();
    return any;
  }

 private:
  // Bitonic, of all lists at once, the largest key first; zeros follow a list that is shorter than `most`.
  __device__ void sort(unsigned most) {
    const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
    int bits = 5;  // of the number of a pair in its list: a warp has pairs of one list
    const auto needed = static_cast<int>(most);
    while (2 << bits < needed) ++bits;
    const int pairs = 1 << bits, size = 2 * pairs;
    for (int i = thread; i < kLists * size; i += threads) {
      const int list = i >> (bits + 1), at = i & (size - 1);
      if (at >= static_cast<int>(count[list])) keys[list][at] = 0;
    }
    __syncthreads();
    for (int run = 2; run <= size; run *= 2) {
      for (int step = run / 2; step > 0; step /= 2) {
        for (int pair = thread; pair < kLists * pairs; pair += threads) {
          const int at = pair & (pairs - 1), low = (at & ~(step - 1)) * 2 + (at & (step - 1));
          uint64_t* const list = keys[pair >> bits];
          const uint64_t a = list[low], b = list[low + step];
          if ((a < b) == ((low & run) == 0)) {
            list[low] = b;
            list[low + step] = a;
          }
        }
        // The pairs of a warp lie within 64 keys of its own while steps are up to 32.
        const int next = step > 1 ? step / 2 : run;
        if (max(step, next) > kWarp) {
          __syncthreads();
        } else {
          __syncwarp();
        }
      }
    }
  }
};

}  // namespace mmedge
