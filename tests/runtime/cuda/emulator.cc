// Built without sanitizers: what the fibres share here is no access of theirs.
#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <boost/context/detail/fcontext.hpp>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "shared_memory.h"

// CUDA's variables; the scheduler sets them for the thread that it lets run.
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// There where the program is built with the sanitizer.
extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);

// A race ends the program, as a fault that another sanitizer finds does.
const char* __tsan_default_options() { return "halt_on_error=1"; }
}

namespace emulator {
namespace {

namespace context = boost::context::detail;

constexpr size_t kStackBytes = size_t{1} << 18, kGuardBytes = 4096;
constexpr unsigned kWarp = 32;

enum class State : uint8_t { kReady, kAtBarrier, kInWarp, kLeft };

struct Thread {
  std::byte* stack = nullptr;  // its lowest page is a guard
  context::fcontext_t context = nullptr;
  void* tsan = nullptr;
  void* fake_stack = nullptr;
  State state = State::kLeft;
  unsigned number = 0;  // within the block
  // Of what it waits for.
  Place place{};
  unsigned mask = 0;
  bool ordered = false;
  uint64_t value = 0;
  Lanes lanes{};
};

struct Scheduler {
  Order order = Order::kForward;
  std::mt19937 random;
  // Kept from launch to launch. Blocks take turns at the crews: were it one, TSan would take what a thread did for its
  // next block as ordered after what it did for the last.
  std::vector<std::unique_ptr<Thread>> crews[2];
  unsigned crew = 0;
  unsigned live = 0;  // threads of the running block
  Thread* current = nullptr;
  context::fcontext_t context = nullptr;  // the scheduler's own
  void* tsan = nullptr;
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  SharedMemory shared;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  const char* fault = nullptr;
  bool any_said = false;  // by a thread at the last barrier

  auto& threads() { return crews[crew]; }
};

Scheduler scheduler;

void tsan_switch(void* fiber) {
  constexpr unsigned no_sync = 1;
  if (__tsan_switch_to_fiber != nullptr) __tsan_switch_to_fiber(fiber, no_sync);
}

// What one of the first fibres did so far happens before what one of the second does from now on.
void order_fibers(const std::vector<void*>& before, const std::vector<void*>& after) {
  if (__tsan_switch_to_fiber == nullptr) return;
  // An object remembers what it ordered before; a new one for each barrier, as long as there are some.
  static char objects[4096];
  static size_t next = 0;
  char* const object = &objects[next++ % sizeof objects];
  for (void* fiber : before) {
    tsan_switch(fiber);
    __tsan_release(object);
  }
  for (void* fiber : after) {
    tsan_switch(fiber);
    __tsan_acquire(object);
  }
  tsan_switch(scheduler.tsan);
}

// From a thread's fibre to the scheduler.
void pause() {
  Thread& thread = *scheduler.current;
  const bool leaves = thread.state == State::kLeft;
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(leaves ? nullptr : &thread.fake_stack, scheduler.stack_bottom, scheduler.stack_size);
  }
  tsan_switch(scheduler.tsan);
  scheduler.context = context::jump_fcontext(scheduler.context, nullptr).fctx;
  if (__sanitizer_finish_switch_fiber != nullptr) __sanitizer_finish_switch_fiber(thread.fake_stack, nullptr, nullptr);
}

void enter(context::transfer_t from) {
  scheduler.context = from.fctx;
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack_bottom, &scheduler.stack_size);
  }
  scheduler.body(scheduler.arguments);
  scheduler.current->state = State::kLeft;
  pause();
}

void resume(Thread& thread) {
  scheduler.current = &thread;
  const unsigned row = thread.number / blockDim.x;
  threadIdx = {thread.number % blockDim.x, row % blockDim.y, row / blockDim.y};
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(&scheduler.fake_stack, thread.stack + kGuardBytes, kStackBytes - kGuardBytes);
  }
  tsan_switch(thread.tsan);
  thread.context = context::jump_fcontext(thread.context, nullptr).fctx;
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
  }
}

std::unique_ptr<Thread> make_thread() {
  auto thread = std::make_unique<Thread>();
  thread->stack = map_memory(kStackBytes);
  mprotect(thread->stack, kGuardBytes, PROT_NONE);
  if (__tsan_create_fiber != nullptr) thread->tsan = __tsan_create_fiber(0);
  return thread;
}

void order_block_after_launch() {
  std::vector<void*> fibers;
  for (const auto& thread : scheduler.threads()) fibers.push_back(thread->tsan);
  order_fibers({scheduler.tsan}, fibers);
}

void order_caller_after_grid() {
  std::vector<void*> fibers;
  for (const auto& crew : scheduler.crews) {
    for (const auto& thread : crew) fibers.push_back(thread->tsan);
  }
  order_fibers(fibers, {scheduler.tsan});
}

// After a fault: threads that are still inside the kernel never come back.
void abandon_threads() {
  order_caller_after_grid();
  for (auto& crew : scheduler.crews) {
    for (const auto& thread : crew) {
      if (__asan_unpoison_memory_region != nullptr) {
        __asan_unpoison_memory_region(thread->stack + kGuardBytes, kStackBytes - kGuardBytes);
      }
      munmap(thread->stack, kStackBytes);
      if (__tsan_destroy_fiber != nullptr) __tsan_destroy_fiber(thread->tsan);
    }
    crew.clear();
  }
}

std::string describe(const Thread& thread) {
  std::ostringstream text;
  text << "thread " << thread.number;
  if (thread.state == State::kLeft) {
    text << " has left the kernel";
  } else {
    text << (thread.state == State::kAtBarrier ? " waits at a barrier"
             : thread.state == State::kInWarp  ? " waits at a warp operation"
                                               : " stands")
         << " (" << thread.place.file << ":" << thread.place.line << ")";
  }
  return text.str();
}

[[noreturn]] void fail(const std::string& message) {
  abandon_threads();
  std::ostringstream text;
  text << "block (" << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << "): " << message;
  throw Fault(text.str());
}

// No thread can go on: either all wait at one barrier, or one waits for a thread that will not come.
void release_barrier() {
  const Thread& first = *scheduler.threads().front();
  std::vector<void*> fibers;
  scheduler.any_said = false;
  for (unsigned i = 0; i < scheduler.live; ++i) {
    const Thread& thread = *scheduler.threads()[i];
    scheduler.any_said = scheduler.any_said || thread.value != 0;
    if (thread.state == State::kInWarp) {
      for (unsigned lane = 0; lane < kWarp; ++lane) {
        const unsigned other = i / kWarp * kWarp + lane;
        if ((thread.mask >> lane & 1U) == 0) continue;
        if (other >= scheduler.live) fail(describe(thread) + " whose mask names lanes that the block does not have");
        const Thread& named = *scheduler.threads()[other];
        if (named.state != State::kInWarp || named.mask != thread.mask || named.place != thread.place) {
          fail("divergent warp operation: " + describe(thread) + " whose mask names thread " + std::to_string(other) +
               ", but " + describe(named));
        }
      }
    }
    if (thread.state != first.state || thread.place != first.place) {
      fail("divergent barrier: " + describe(first) + ", but " + describe(thread));
    }
    fibers.push_back(thread.tsan);
  }
  order_fibers(fibers, fibers);
  for (unsigned i = 0; i < scheduler.live; ++i) scheduler.threads()[i]->state = State::kReady;
}

// Lets a warp go on if all lanes that thread's mask names have come.
void release_warp(const Thread& thread) {
  std::unique_ptr<Thread>* const warp = &scheduler.threads()[thread.number / kWarp * kWarp];
  const unsigned count = std::min(kWarp, scheduler.live - thread.number / kWarp * kWarp);
  Lanes lanes{};
  std::vector<void*> fibers;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((thread.mask >> lane & 1U) == 0) continue;
    if (lane >= count) return;
    const Thread& other = *warp[lane];
    if (other.state != State::kInWarp || other.mask != thread.mask || other.place != thread.place) return;
    lanes.value[lane] = other.value;
    fibers.push_back(other.tsan);
  }
  if (thread.ordered) order_fibers(fibers, fibers);
  for (unsigned lane = 0; lane < count; ++lane) {
    if ((thread.mask >> lane & 1U) == 0) continue;
    warp[lane]->lanes = lanes;
    warp[lane]->state = State::kReady;
  }
}

std::vector<unsigned> ordered(unsigned count) {
  std::vector<unsigned> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0U);
  if (scheduler.order == Order::kBackward) std::reverse(numbers.begin(), numbers.end());
  if (scheduler.order == Order::kShuffled) std::shuffle(numbers.begin(), numbers.end(), scheduler.random);
  return numbers;
}

void run_block() {
  scheduler.crew = 1 - scheduler.crew;
  scheduler.live = blockDim.x * blockDim.y * blockDim.z;
  while (scheduler.threads().size() < scheduler.live) scheduler.threads().push_back(make_thread());
  for (unsigned i = 0; i < scheduler.live; ++i) {
    Thread& thread = *scheduler.threads()[i];
    thread.context = context::make_fcontext(thread.stack + kStackBytes, kStackBytes - kGuardBytes, enter);
    thread.state = State::kReady;
    thread.number = i;
  }
  order_block_after_launch();
  for (bool all_left = false; !all_left;) {
    bool moved = false;
    all_left = true;
    for (const unsigned i : ordered(scheduler.live)) {
      Thread& thread = *scheduler.threads()[i];
      if (thread.state == State::kReady) {
        moved = true;
        resume(thread);
        if (scheduler.fault != nullptr) {
          fail(std::string(std::exchange(scheduler.fault, nullptr)) + ": " + describe(thread));
        }
        if (thread.state == State::kInWarp) release_warp(thread);
      }
      all_left = all_left && thread.state == State::kLeft;
    }
    if (!moved) release_barrier();
  }
}

bool launchable(dim3 grid, dim3 block, size_t dynamic_shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return threads >= 1 && threads <= 1024 && block.z <= 64 && grid.x >= 1 && grid.x <= 0x7fffffff && grid.y >= 1 &&
         grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535 && dynamic_shared_bytes <= kMostShared;
}

void wait(State state, Place place) {
  scheduler.current->state = state;
  scheduler.current->place = place;
  pause();
}

}  // namespace

void set_order(Order order, unsigned seed) {
  scheduler.order = order;
  scheduler.random.seed(seed);
}

std::byte* dynamic_shared() { return scheduler.shared.find(nullptr); }

std::byte* static_shared(const void* key, size_t size, size_t alignment, Place place) {
  std::byte* found = scheduler.shared.find(key);
  if (found == nullptr) found = scheduler.shared.add(key, size, alignment);
  if (found == nullptr) fault(place, "the block's shared memory is past 48 KiB, or in too many pieces");
  return found;
}

unsigned lane() { return scheduler.current->number % kWarp; }

bool sync_block(Place place, bool said) {
  scheduler.current->value = said ? 1 : 0;
  wait(State::kAtBarrier, place);
  return scheduler.any_said;  // the next barrier needs this thread too
}

Lanes exchange(unsigned mask, uint64_t value, bool ordered, Place place) {
  Thread& thread = *scheduler.current;
  if ((mask >> lane() & 1U) == 0) fault(place, "a warp operation's mask does not name the lane that calls it");
  thread.mask = mask;
  thread.value = value;
  thread.ordered = ordered;
  wait(State::kInWarp, place);
  return thread.lanes;
}

void order_atomic(void* address) {
  if (__tsan_acquire == nullptr) return;
  __tsan_acquire(address);
  __tsan_release(address);
}

void fault(Place place, const char* message) {
  scheduler.fault = message;
  wait(State::kReady, place);
  std::abort();  // a thread at fault is not resumed
}

cudaError_t launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, cudaStream_t stream, void (*body)(void*),
                   void* arguments) {
  if (!takes(stream)) return cudaErrorInvalidResourceHandle;
  if (!launchable(grid, block, dynamic_shared_bytes)) return cudaErrorInvalidConfiguration;
  gridDim = grid;
  blockDim = block;
  scheduler.body = body;
  scheduler.arguments = arguments;
  if (__tsan_get_current_fiber != nullptr) scheduler.tsan = __tsan_get_current_fiber();
  for (const unsigned i : ordered(grid.x * grid.y * grid.z)) {
    scheduler.shared.renew(dynamic_shared_bytes);
    blockIdx = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
    run_block();
  }
  order_caller_after_grid();
  return cudaSuccess;
}

}  // namespace emulator
