#include "steady_events.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <span>
#include <sstream>

// glibc's own names of what is replaced here. NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* memory);
}
// NOLINTEND(bugprone-reserved-identifier)

size_t happened = 0, of_the_engine = 0;

namespace {

constexpr int kMostFrames = 48;

struct Event {
  const char* function;
  std::array<void*, kMostFrames> frames;
  int depth;
};

std::array<Event, 1024> recorded;
thread_local bool counting = false;

bool of_engine(const Event& event) {
  for (const void* frame : std::span(event.frames.data(), static_cast<size_t>(event.depth))) {
    Dl_info where{};
    if (dladdr(frame, &where) != 0 && where.dli_fname != nullptr && strstr(where.dli_fname, "libonnxruntime")) {
      return true;
    }
  }
  return false;
}

void note(const char* function) {
  if (!counting) return;
  counting = false;  // what follows may allocate
  Event event{function, {}, 0};
  event.depth = backtrace(event.frames.data(), kMostFrames);
  if (of_engine(event)) {
    ++of_the_engine;
  } else {
    if (happened < recorded.size()) recorded[happened] = event;
    ++happened;
  }
  counting = true;
}

}  // namespace

extern "C" {

void* malloc(size_t size) {
  note("malloc");
  return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) {
  note("calloc");
  return __libc_calloc(count, size);
}

void* realloc(void* memory, size_t size) {
  note("realloc");
  return __libc_realloc(memory, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
  note("aligned_alloc");
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** memory, size_t alignment, size_t size) {
  note("posix_memalign");
  *memory = __libc_memalign(alignment, size);
  return *memory == nullptr ? ENOMEM : 0;
}

void free(void* memory) {
  if (memory != nullptr) note("free");
  __libc_free(memory);
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  static const auto next = reinterpret_cast<int (*)(pthread_mutex_t*)>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
  note("pthread_mutex_lock");
  return next(mutex);
}

}  // extern "C"

namespace {

// The library's frames of an event, innermost first, as addr2line takes them.
std::string callers(const Event& event) {
  std::string text;
  for (int frame = 0; frame < event.depth; ++frame) {
    Dl_info where{}, self{};
    dladdr(event.frames[static_cast<size_t>(frame)], &where);
    dladdr(reinterpret_cast<void*>(&note), &self);
    if (where.dli_fbase == self.dli_fbase || where.dli_fname == nullptr) continue;
    if (std::strstr(where.dli_fname, "libgtest") != nullptr) break;
    const char* slash = std::strrchr(where.dli_fname, '/');
    std::ostringstream one;
    one << " < " << (slash ? slash + 1 : where.dli_fname);
    if (where.dli_sname != nullptr) one << ':' << where.dli_sname;
    one << "+0x" << std::hex
        << static_cast<char*>(event.frames[static_cast<size_t>(frame)]) - static_cast<char*>(where.dli_fbase);
    text += one.str();
  }
  return text;
}

}  // namespace

std::string events_of(const std::function<void()>& steady) {
  happened = of_the_engine = 0;
  counting = true;
  steady();
  counting = false;
  std::map<std::string, int> places;
  for (size_t i = 0; i < std::min(happened, recorded.size()); ++i) {
    ++places[recorded[i].function + callers(recorded[i])];
  }
  std::string text;
  for (const auto& [place, count] : places) text += place + " (" + std::to_string(count) + " times)\n";
  return text;
}
