// A CUDA driver whose GPU is the host: what libmmedge asks of libcuda.so.1, so that its TensorRT engine runs where
// there is no GPU.
//
// A stream keeps what is enqueued until it is waited for, and device memory can be touched only meanwhile: who forgets
// to wait, copies from the host's side or takes one kind of memory for the other crashes or reads old values. The
// environment says what the GPU is: MMEDGE_TEST_GPU, words of "integrated", "sm_MAJOR.MINOR", "refuses-capture",
// "memory=BYTES", "no-memory-in-capture".
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

extern "C" {
struct CUctx_st {
  int uses;
};
using Work = std::function<void()>;
struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUstream_st {
  std::vector<Work> waiting;
  std::vector<Work>* recorded = nullptr;

  void work_off() {
    for (const Work& work : waiting) work();
    waiting.clear();
  }
};
struct CUevent_st {
  CUstream_st* stream = nullptr;
};
}

namespace {

using Pointer = unsigned long long;
constexpr int kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kInvalidContext = 201, kUnsupported = 900;

std::recursive_mutex mutex;
std::map<Pointer, size_t> device_memory;  // by address
std::map<void*, size_t> pinned_memory;
std::map<std::string, int> counts;
CUctx_st context;
CUstream_st default_stream;

// NULL and the two handles that CUDA has for its default streams.
CUstream_st* stream_of(CUstream_st* given) { return reinterpret_cast<uintptr_t>(given) <= 2 ? &default_stream : given; }

thread_local std::vector<CUctx_st*> current;

std::string word(const std::string& prefix, const std::string& otherwise = "") {
  const char* text = std::getenv("MMEDGE_TEST_GPU");
  const std::string words = std::string(" ") + (text ? text : "") + " ";
  const size_t begin = words.find(" " + prefix);
  if (begin == std::string::npos) return otherwise;
  return words.substr(begin + 1 + prefix.size(), words.find(' ', begin + 1) - begin - 1 - prefix.size());
}

bool has(const std::string& name) { return word(name, "absent") != "absent"; }

void count(const char* what, int by = 1) {
  const std::scoped_lock lock(mutex);
  counts[what] += by;
}

bool outside_context() { return current.empty(); }

void touchable(bool yes) {
  for (const auto& [address, size] : device_memory) {
    mprotect(reinterpret_cast<void*>(address), size, yes ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
}

int enqueue(CUstream_st* stream, Work work) {
  if (outside_context()) return kInvalidContext;
  stream = stream_of(stream);
  if (stream->recorded != nullptr && has("no-memory-in-capture")) return kOutOfMemory;
  (stream->recorded ? *stream->recorded : stream->waiting).push_back(std::move(work));
  return kSuccess;
}

bool inside_device(Pointer pointer, size_t bytes) {
  const auto after = device_memory.upper_bound(pointer);
  if (after == device_memory.begin()) return false;
  const auto& [begin, size] = *std::prev(after);
  return pointer + bytes <= begin + size;
}

bool inside_pinned(const void* pointer, size_t bytes) {
  for (const auto& [begin, size] : pinned_memory) {
    const auto* first = static_cast<const char*>(begin);
    if (pointer >= first && static_cast<const char*>(pointer) + bytes <= first + size) return true;
  }
  return false;
}

int copy(CUstream_st* stream, Pointer device, const void* host, size_t bytes, const Work& work, const char* what) {
  const std::scoped_lock lock(mutex);
  // Pageable memory would be copied at once, and not be recordable.
  if (!inside_device(device, bytes) || !inside_pinned(host, bytes)) return kInvalidValue;
  return enqueue(stream, [=] {
    count(what);
    work();
  });
}

}  // namespace

extern "C" {

// How often something was done: "launch", "to device", "to host", "allocate", "destroy a busy stream"; or how many
// there are: "graphs".
int mmedge_test_count(const char* what) {
  const std::scoped_lock lock(mutex);
  return counts[what];
}

int cuInit(unsigned) { return has("no-gpu") ? 100 : kSuccess; }
int cuGetErrorName(int, const char** name) {
  *name = "CUDA_ERROR_OF_TEST";
  return kSuccess;
}
int cuGetErrorString(int, const char** text) {
  *text = "as the test asked for";
  return kSuccess;
}
int cuDeviceGetCount(int* found) {
  *found = 1;
  return kSuccess;
}
int cuDeviceGet(int* device, int number) {
  *device = number;
  return kSuccess;
}
int cuDeviceGetName(char* name, int size, int) {
  std::strncpy(name, "Host GPU", static_cast<size_t>(size));
  return kSuccess;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  const std::string capability = word("sm_", "8.7");
  *value = attribute == 18   ? has("integrated")
           : attribute == 16 ? 4
           : attribute == 75 ? std::atoi(capability.c_str())
                             : std::atoi(capability.c_str() + capability.find('.') + 1);
  return kSuccess;
}
int cuDevicePrimaryCtxRetain(CUctx_st** made, int) {
  *made = &context;
  return kSuccess;
}
int cuCtxPushCurrent_v2(CUctx_st* given) {
  current.push_back(given);
  return kSuccess;
}
int cuCtxPopCurrent_v2(CUctx_st** given) {
  if (outside_context()) return kInvalidContext;
  *given = current.back();
  current.pop_back();
  return kSuccess;
}
int cuMemAlloc_v2(Pointer* address, size_t bytes) {
  const std::scoped_lock lock(mutex);
  if (outside_context()) return kInvalidContext;
  count("allocate");
  const std::string limit = word("memory=");
  if (bytes == 0) return kInvalidValue;
  if (!limit.empty() && bytes > std::stoull(limit)) return kOutOfMemory;
  void* memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return kOutOfMemory;
  *address = reinterpret_cast<Pointer>(memory);
  device_memory[*address] = bytes;
  return kSuccess;
}
int cuMemFree_v2(Pointer address) {
  const std::scoped_lock lock(mutex);
  const auto found = device_memory.find(address);
  if (outside_context() || found == device_memory.end()) return kInvalidValue;
  munmap(reinterpret_cast<void*>(address), found->second);
  device_memory.erase(found);
  return kSuccess;
}
int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  const std::scoped_lock lock(mutex);
  if (outside_context()) return kInvalidContext;
  *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  std::memset(*memory, 0xFF, bytes);
  pinned_memory[*memory] = bytes;
  return kSuccess;
}
int cuMemFreeHost(void* memory) {
  const std::scoped_lock lock(mutex);
  if (outside_context() || pinned_memory.erase(memory) == 0) return kInvalidValue;
  std::free(memory);
  return kSuccess;
}
int cuMemHostGetDevicePointer_v2(Pointer* address, void* memory, unsigned) {
  const std::scoped_lock lock(mutex);
  if (!inside_pinned(memory, 1)) return kInvalidValue;
  *address = reinterpret_cast<Pointer>(memory);
  return kSuccess;
}
int cuPointerGetAttribute(void* value, int attribute, Pointer pointer) {
  const std::scoped_lock lock(mutex);
  const bool on_device = inside_device(pointer, 1);
  if (!on_device && !inside_pinned(reinterpret_cast<void*>(pointer), 1)) return kInvalidValue;
  if (attribute == 3) {
    if (std::getenv("MMEDGE_TEST_FOREIGN") != nullptr) return kInvalidValue;  // of another context
    *static_cast<Pointer*>(value) = pointer;
  } else {
    *static_cast<int*>(value) = attribute != 2 ? 0 : on_device ? 2 : 1;
  }
  return kSuccess;
}
int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, CUstream_st* stream) {
  return copy(stream, to, from, bytes, [=] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); }, "to device");
}
int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, CUstream_st* stream) {
  return copy(stream, from, to, bytes, [=] { std::memcpy(to, reinterpret_cast<void*>(from), bytes); }, "to host");
}
int cuLaunchHostFunc(CUstream_st* stream, void (*function)(void*), void* data) {
  const std::scoped_lock lock(mutex);
  return enqueue(stream, [=] { function(data); });
}
int cuStreamCreate(CUstream_st** stream, unsigned) {
  if (outside_context()) return kInvalidContext;
  *stream = new CUstream_st;
  return kSuccess;
}
int cuStreamDestroy_v2(CUstream_st* stream) {
  if (!stream->waiting.empty()) count("destroy a busy stream");
  delete stream;
  return outside_context() ? kInvalidContext : kSuccess;
}
int cuStreamSynchronize(CUstream_st* stream) {
  const std::scoped_lock lock(mutex);
  if (outside_context() || stream_of(stream)->recorded) return kInvalidContext;
  touchable(true);
  stream_of(stream)->work_off();
  touchable(false);
  return kSuccess;
}
int cuEventCreate(CUevent_st** event, unsigned) {
  *event = new CUevent_st;
  return outside_context() ? kInvalidContext : kSuccess;
}
int cuEventRecord(CUevent_st* event, CUstream_st* stream) {
  event->stream = stream_of(stream);
  return kSuccess;
}
int cuStreamWaitEvent(CUstream_st* stream, CUevent_st* event, unsigned) {
  const std::scoped_lock lock(mutex);
  return enqueue(stream, [other = event->stream] { other->work_off(); });
}
int cuEventDestroy_v2(CUevent_st* event) {
  delete event;
  return kSuccess;
}
int cuStreamBeginCapture_v2(CUstream_st* stream, int) {
  if (has("refuses-capture")) return kUnsupported;
  stream->recorded = new std::vector<Work>;
  return kSuccess;
}
int cuStreamEndCapture(CUstream_st* stream, CUgraph_st** graph) {
  *graph = new CUgraph_st{std::move(*stream->recorded)};
  delete stream->recorded;
  stream->recorded = nullptr;
  return kSuccess;
}
int cuGraphInstantiateWithFlags(CUgraphExec_st** ready, CUgraph_st* graph, unsigned long long) {
  *ready = new CUgraphExec_st{graph->work};
  count("graphs");
  return kSuccess;
}
int cuGraphDestroy(CUgraph_st* graph) {
  delete graph;
  return kSuccess;
}
int cuGraphExecDestroy(CUgraphExec_st* graph) {
  delete graph;
  count("graphs", -1);
  return outside_context() ? kInvalidContext : kSuccess;
}
int cuGraphLaunch(CUgraphExec_st* graph, CUstream_st* stream) {
  count("launch");
  const std::scoped_lock lock(mutex);
  for (const Work& work : graph->work) {
    if (const int result = enqueue(stream, work); result != kSuccess) return result;
  }
  return kSuccess;
}

}  // extern "C"
