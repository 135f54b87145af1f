// Runs CUDA kernels on the CPU: a whole grid, block after block, each thread of a block a fibre of its own.
//
// A fibre runs until it needs the others: at __syncthreads, __syncwarp, a shuffle or a vote. Between two such points
// threads run one after the other, in the order that set_order() names; so do the blocks of a grid. What the scheduler
// sees is a Fault: a barrier that not all threads reach, or not at the same line; a warp operation whose mask names a
// lane that has left or waits elsewhere, lacks the caller, or lacks the lane that is read. The rest is for the
// sanitizers: accesses out of bounds for ASan and UBSan, misaligned ones for UBSan, a missing barrier for TSan, which
// is told of every fibre and of what each barrier or atomic operation orders. A shuffle orders nothing, nor does it
// that one block runs after another: those of a grid may race. Shared memory is filled with 0xFF,
// a NaN in every type, before each block.
//
// Not seen: a missing __threadfence, races of every other block, whether a grid fits a device beyond the limits of
// launch(), __launch_bounds__ among what is beyond, by which of its callers' branches lanes come to a line of a helper,
// and time.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace emulator {

class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class Order { kForward, kBackward, kShuffled };

// Of the threads within a block and of the blocks within a grid, for the launches that follow. kShuffled: anew each
// time the threads of a block are gone through.
void set_order(Order order, unsigned seed = 0);

// Where in a kernel an operation stands.
struct Place {
  const char* file;
  int line;

  bool operator==(const Place&) const = default;
};

// The running block's: dynamic, as many bytes as the launch asked for, aligned to 16; and static, `size` bytes for each
// key. Neither is aligned to more than it must be.
std::byte* dynamic_shared();
std::byte* static_shared(const void* key, size_t size, size_t alignment, Place place);

// Returns whether any thread of the block said so.
bool sync_block(Place place, bool said = false);

struct Lanes {
  uint64_t value[32];
};

// Waits for all lanes of `mask` to come to the same place; each leaves `value` and sees those of all. `ordered`: what
// was written before it is seen after it.
Lanes exchange(unsigned mask, uint64_t value, bool ordered, Place place);

// Of the thread that calls, within its warp.
unsigned lane();

// What was done before atomic operations on an address so far is seen after this one.
void order_atomic(void* address);

[[noreturn]] void fault(Place place, const char* message);

// As cudaLaunchKernel does, but that it returns when the grid is done: cudaErrorInvalidConfiguration past what sm_87
// to sm_120 all launch without being asked for more: 48 KiB of shared memory among others. Throws Fault, also where
// static memory does not fit beside the dynamic one.
cudaError_t launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, cudaStream_t stream, void (*body)(void*),
                   void* arguments);

// From now on what is enqueued on another stream is refused with cudaErrorInvalidResourceHandle; nullptr: on none.
// cudaStreamCreateWithFlags does so with the stream that it makes, until that is destroyed.
void set_only_stream(cudaStream_t stream);
bool takes(cudaStream_t stream);

}  // namespace emulator
