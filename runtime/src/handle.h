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

  struct Slot {
    std::atomic<int32_t> users{0};  // -1: held exclusively
    std::atomic<uint32_t> generation{1};
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
      if (access_ == Access::kExclusive) {
        slot_.users.store(0, std::memory_order_release);
      } else {
        slot_.users.fetch_sub(1, std::memory_order_release);
      }
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
    size_t index = 0;
    if (!free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else {
      if (count_ == kMaxSlots) {
        fail(MME_OUT_OF_MEMORY, "all ", kMaxSlots, " handles of kind ", what_, " are in use; release some");
      }
      index = count_++;
      if (index % kChunk == 0) chunks_[index / kChunk].store(new Slot[kChunk], std::memory_order_release);
    }
    Slot& slot = this->slot(index);
    slot.object = std::move(object);
    const uintptr_t generation = slot.generation.load(std::memory_order_relaxed);
    // NOLINTNEXTLINE(performance-no-int-to-ptr): nobody follows this pointer
    return reinterpret_cast<Handle*>(kKind << 56 | generation << 20 | index);
  }

  Lease lease(const Handle* handle, Access access) {
    const auto bits = reinterpret_cast<uintptr_t>(handle);
    const size_t index = bits & 0xfffff;
    const auto generation = static_cast<uint32_t>(bits >> 20);
    if (bits >> 56 != kKind || index / kChunk >= chunks_.size() ||
        chunks_[index / kChunk].load(std::memory_order_acquire) == nullptr) {
      reject(handle);
    }
    Slot& slot = this->slot(index);
    if (slot.generation.load(std::memory_order_acquire) != generation) reject(handle);
    int32_t users = slot.users.load(std::memory_order_relaxed);
    do {
      if (users < 0 || (access == Access::kExclusive && users > 0)) {
        fail(MME_BUSY, "this ", what_, " is in use by another call; give each thread its own");
      }
    } while (!slot.users.compare_exchange_weak(users, access == Access::kExclusive ? -1 : users + 1,
                                               std::memory_order_acquire, std::memory_order_relaxed));
    // Released between the two looks: the lease is of somebody else's slot.
    if (slot.generation.load(std::memory_order_acquire) != generation || !slot.object) {
      const Lease undo(slot, access);
      reject(handle);
    }
    return Lease(slot, access);
  }

  void erase(const Handle* handle) {
    std::shared_ptr<Object> last;
    const Lease held = lease(handle, Access::kExclusive);
    const std::scoped_lock lock(mutex_);
    held.slot_.generation.fetch_add(1, std::memory_order_release);
    last = std::move(held.slot_.object);
    free_.push_back(reinterpret_cast<uintptr_t>(handle) & 0xfffff);
  }

 private:
  static constexpr size_t kChunk = 256;
  static constexpr size_t kMaxSlots = 256 * kChunk;

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
