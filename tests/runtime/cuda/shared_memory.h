// The shared memory of the block that the emulator runs. Only for emulator.cc, which is built without sanitizers.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <new>

// There where the program is built with ASan.
extern "C" {
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* address, size_t size);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* address, size_t size);
}

namespace emulator {

constexpr size_t kMostShared = 48 * 1024, kRedZone = 128;

inline std::byte* map_memory(size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(memory);
}

// The running block's shared memory: pieces of one arena with red zones between them, the dynamic one first.
struct SharedMemory {
  struct Piece {
    const void* key;
    size_t begin, size;
  };

  std::byte* arena = nullptr;
  Piece pieces[16];
  size_t count = 0, used = 0;

  std::byte* find(const void* key) {
    for (size_t i = 0; i < count; ++i) {
      if (pieces[i].key == key) return arena + pieces[i].begin;
    }
    return nullptr;
  }

  std::byte* add(const void* key, size_t size, size_t alignment) {
    const size_t end = count > 0 ? pieces[count - 1].begin + pieces[count - 1].size : 0;
    const size_t begin = (end + kRedZone) / kRedZone * kRedZone + kRedZone + alignment;
    used += size;
    if (used > kMostShared || count == std::size(pieces)) return nullptr;
    pieces[count++] = {key, begin, size};
    if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(arena + begin, size);
    return arena + begin;
  }

  // New memory for each block: what another block did at the same address is no race.
  void renew(size_t dynamic_bytes) {
    constexpr size_t bytes = 2 * kMostShared;
    if (arena != nullptr) {
      if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(arena, bytes);
      munmap(arena, bytes);
    }
    arena = map_memory(bytes);
    std::fill_n(arena, bytes, std::byte{0xFF});
    if (__asan_poison_memory_region != nullptr) __asan_poison_memory_region(arena, bytes);
    count = used = 0;
    add(nullptr, dynamic_bytes, 16);
  }
};

}  // namespace emulator
