// Handles that can be checked. The pointer a caller holds is never followed: it encodes a kind, a slot and the slot's
// generation, so a handle that is NULL, released, of another kind or made up is told apart from a live one. Leases
// are atomic counters; only creation and release take a lock. Tables are never destroyed, so that handles still work
// (and still fail cleanly) in exit handlers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "error.h"

namespace mmedge {

enum class Access { kShared, kExclusive };

template <class Object, class Handle, uintptr_t kKind>
class HandleTable {
  static_assert(sizeof(uintptr_t) == 8, "handles need 64-bit pointers");

  // Generation and users change in one step, so a lease is of the object the handle means or of none, and holding a
  // stale handle never makes a live one look busy. A generation is odd while its object lives.
  struct alignas(uint64_t) State {
    uint32_t generation = 0;
    int32_t users = 0;  // -1: held exclusively
  };
  struct Slot {
    std::atomic<State> state{};
    static_assert(std::atomic<State>::is_always_lock_free);
    std::shared_ptr<Object> object;
  };

 public:
  // Holds the object for one call.
  class Lease {
   public:
    Lease(Slot& slot, Access access) : slot_(slot), access_(access) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      State now = slot_.state.load(std::memory_order_relaxed);
      State next;
      do {
        next = {now.generation, access_ == Access::kExclusive ? 0 : now.users - 1};
      } while (!slot_.state.compare_exchange_weak(now, next, std::memory_order_release, std::memory_order_relaxed));
    }
    Object* operator->() const { return slot_.object.get(); }
    const std::shared_ptr<Object>& object() const { return slot_.object; }

   private:
    friend class HandleTable;
    Slot& slot_;
    Access access_;
  };

  explicit HandleTable(const char* what) : what_(what) {}

  Handle* insert(std::shared_ptr<Object> object) {
    const std::scoped_lock lock(mutex_);
    size_t index = count_;
    if (!free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else {
      if (count_ == kMaxSlots) {
        fail(MME_OUT_OF_MEMORY, "all ", kMaxSlots, " handles of kind ", what_, " are in use; release some");
      }
      if (index % kChunk == 0) {
        free_.reserve(count_ + kChunk);  // so that a release never fails for want of memory
        chunks_[index / kChunk].store(new Slot[kChunk], std::memory_order_release);
      }
      ++count_;
    }
    Slot& slot = this->slot(index);
    slot.object = std::move(object);
    const uint32_t generation = slot.state.load(std::memory_order_relaxed).generation + 1;
    slot.state.store({generation, 0}, std::memory_order_release);
    // NOLINTNEXTLINE(performance-no-int-to-ptr): nobody follows this pointer
    return reinterpret_cast<Handle*>(encode(generation, index));
  }

  Lease lease(const Handle* handle, Access access) {
    const auto bits = reinterpret_cast<uintptr_t>(handle);
    const size_t index = bits & kIndexMask;
    const auto generation = static_cast<uint32_t>(bits >> kIndexBits);
    if (bits != encode(generation, index) || generation % 2 == 0 || index >= kMaxSlots ||
        chunks_[index / kChunk].load(std::memory_order_acquire) == nullptr) {
      reject(handle);
    }
    Slot& slot = this->slot(index);
    State now = slot.state.load(std::memory_order_relaxed);
    State next;
    do {
      if (now.generation != generation) reject(handle);
      if (now.users < 0 || (access == Access::kExclusive && now.users > 0)) {
        fail(MME_BUSY, "this ", what_, " is in use by another call; give each thread its own");
      }
      next = {generation, access == Access::kExclusive ? -1 : now.users + 1};
    } while (!slot.state.compare_exchange_weak(now, next, std::memory_order_acquire, std::memory_order_relaxed));
    return Lease(slot, access);
  }

  // What insert() and erase() change stays as it is in between.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

  void erase(const Handle* handle) {
    std::shared_ptr<Object> last;
    {
      const Lease held = lease(handle, Access::kExclusive);
      last = std::move(held.slot_.object);
      const State now = held.slot_.state.load(std::memory_order_relaxed);
      held.slot_.state.store({now.generation + 1, now.users}, std::memory_order_relaxed);
    }
    // Only now that nobody holds it may the slot be given out again.
    const std::scoped_lock lock(mutex_);
    free_.push_back(reinterpret_cast<uintptr_t>(handle) & kIndexMask);
  }

 private:
  static constexpr size_t kChunk = 256;
  static constexpr size_t kMaxSlots = 256 * kChunk;
  static constexpr size_t kIndexBits = 20, kIndexMask = (size_t{1} << kIndexBits) - 1;
  static_assert(kMaxSlots <= kIndexMask + 1);

  static uintptr_t encode(uint32_t generation, size_t index) {
    return kKind << 56 | uintptr_t{generation} << kIndexBits | index;
  }

  Slot& slot(size_t index) { return chunks_[index / kChunk].load(std::memory_order_acquire)[index % kChunk]; }

  [[noreturn]] void reject(const Handle* handle) const {
    fail(MME_INVALID_HANDLE, handle ? "the handle is not a live " : "the handle is NULL, not a live ", what_,
         "; it may have been released already");
  }

  const char* what_;
  std::mutex mutex_;
  std::vector<size_t> free_;
  size_t count_ = 0;
  std::array<std::atomic<Slot*>, kMaxSlots / kChunk> chunks_{};
};

}  // namespace mmedge
