#include "engine/cuda_driver.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "engine/exiting.h"
#include "error.h"

struct CUgraph_st;
struct CUevent_st;

namespace mmedge {
namespace {

// From NVIDIA's driver API reference: enumerators and signatures, but that its 64-bit addresses are pointers here.
constexpr int kSuccess = 0, kOutOfMemory = 2;
constexpr int kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76, kIntegrated = 18, kMultiprocessors = 16;
constexpr int kMemoryType = 2, kDeviceAddress = 3, kDeviceOrdinal = 9, kMemoryTypeHost = 1, kMemoryTypeDevice = 2;
constexpr unsigned kNonBlocking = 1, kPortable = 1, kDeviceMap = 2, kDisableTiming = 2;
constexpr int kCaptureThreadLocal = 1;

struct Driver {
  int (*init)(unsigned);
  int (*get_error_name)(int, const char**);
  int (*get_error_string)(int, const char**);
  int (*device_get_count)(int*);
  int (*device_get)(int*, int);
  int (*device_get_name)(char*, int, int);
  int (*device_get_attribute)(int*, int, int);
  int (*primary_context_retain)(CUctx_st**, int);
  int (*context_push)(CUctx_st*);
  int (*context_pop)(CUctx_st**);
  int (*memory_allocate)(DevicePointer*, size_t);
  int (*memory_free)(DevicePointer);
  int (*host_allocate)(void**, size_t, unsigned);
  int (*host_free)(void*);
  int (*host_device_pointer)(DevicePointer*, void*, unsigned);
  int (*pointer_attribute)(void*, int, const void*);
  int (*copy_to_device)(DevicePointer, const void*, size_t, CUstream_st*);
  int (*copy_to_host)(void*, DevicePointer, size_t, CUstream_st*);
  int (*stream_create)(CUstream_st**, unsigned);
  int (*stream_destroy)(CUstream_st*);
  int (*stream_synchronize)(CUstream_st*);
  int (*stream_wait)(CUstream_st*, CUevent_st*, unsigned);
  int (*event_create)(CUevent_st**, unsigned);
  int (*event_record)(CUevent_st*, CUstream_st*);
  int (*event_destroy)(CUevent_st*);
  int (*stream_begin_capture)(CUstream_st*, int);
  int (*stream_end_capture)(CUstream_st*, CUgraph_st**);
  int (*graph_instantiate)(CUgraphExec_st**, CUgraph_st*, uint64_t);
  int (*graph_destroy)(CUgraph_st*);
  int (*graph_exec_destroy)(CUgraphExec_st*);
  int (*graph_launch)(CUgraphExec_st*, CUstream_st*);
};

constexpr const char* kLibrary = "libcuda.so.1";

std::string message_of(const Driver& driver, int result) {
  const char *name = nullptr, *text = nullptr;
  driver.get_error_name(result, &name);
  driver.get_error_string(result, &text);
  return concat(name ? name : "CUDA error", " (", result, "): ", text ? text : "no description");
}

Driver open_driver() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fail(MME_ENGINE_UNAVAILABLE, "there is no NVIDIA driver (", dlerror(),
         "); install it, or ask for engine onnxruntime and provider cpu");
  }
  Driver driver{};
  const auto find = [library](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr) {
      fail(MME_ENGINE_UNAVAILABLE, kLibrary, " has no ", name, "; mmedge needs a driver of CUDA 11.4 or newer");
    }
  };
  find(driver.init, "cuInit");
  find(driver.get_error_name, "cuGetErrorName");
  find(driver.get_error_string, "cuGetErrorString");
  find(driver.device_get_count, "cuDeviceGetCount");
  find(driver.device_get, "cuDeviceGet");
  find(driver.device_get_name, "cuDeviceGetName");
  find(driver.device_get_attribute, "cuDeviceGetAttribute");
  find(driver.primary_context_retain, "cuDevicePrimaryCtxRetain");
  find(driver.context_push, "cuCtxPushCurrent_v2");
  find(driver.context_pop, "cuCtxPopCurrent_v2");
  find(driver.memory_allocate, "cuMemAlloc_v2");
  find(driver.memory_free, "cuMemFree_v2");
  find(driver.host_allocate, "cuMemHostAlloc");
  find(driver.host_free, "cuMemFreeHost");
  find(driver.host_device_pointer, "cuMemHostGetDevicePointer_v2");
  find(driver.pointer_attribute, "cuPointerGetAttribute");
  find(driver.copy_to_device, "cuMemcpyHtoDAsync_v2");
  find(driver.copy_to_host, "cuMemcpyDtoHAsync_v2");
  find(driver.stream_create, "cuStreamCreate");
  find(driver.stream_destroy, "cuStreamDestroy_v2");
  find(driver.stream_synchronize, "cuStreamSynchronize");
  find(driver.stream_wait, "cuStreamWaitEvent");
  find(driver.event_create, "cuEventCreate");
  find(driver.event_record, "cuEventRecord");
  find(driver.event_destroy, "cuEventDestroy_v2");
  find(driver.stream_begin_capture, "cuStreamBeginCapture_v2");
  find(driver.stream_end_capture, "cuStreamEndCapture");
  find(driver.graph_instantiate, "cuGraphInstantiateWithFlags");
  find(driver.graph_destroy, "cuGraphDestroy");
  find(driver.graph_exec_destroy, "cuGraphExecDestroy");
  find(driver.graph_launch, "cuGraphLaunch");
  if (const int result = driver.init(0); result != kSuccess) {
    fail(MME_ENGINE_UNAVAILABLE, "the NVIDIA driver does not start: ", message_of(driver, result));
  }
  watch_exit();
  return driver;
}

const Driver* opened = nullptr;  // by the first device, and never closed

const Driver& driver() noexcept { return *opened; }

void check(int result, const char* doing) {
  if (result == kSuccess) return;
  if (result == kOutOfMemory) throw std::bad_alloc();
  fail(MME_ENGINE_FAILED, "CUDA failed to ", doing, ": ", message_of(driver(), result));
}

}  // namespace

CudaDevice::CudaDevice(int number) : number_(number) {
  if (opened == nullptr) opened = new Driver(open_driver());
  int count = 0;
  check(driver().device_get_count(&count), "count its devices");
  if (count == 0) fail(MME_ENGINE_UNAVAILABLE, "the NVIDIA driver finds no GPU");
  if (number < 0 || number >= count) {
    fail(MME_INVALID_ARGUMENT, "options->device is ", number, "; this machine has ", count, " GPUs, from 0 on");
  }
  int device = 0;
  check(driver().device_get(&device, number), "find the device");
  char name[128] = {};
  check(driver().device_get_name(name, sizeof name, device), "name the device");
  name_ = name;
  int integrated = 0;
  check(driver().device_get_attribute(&major_, kComputeCapabilityMajor, device), "describe the device");
  check(driver().device_get_attribute(&minor_, kComputeCapabilityMinor, device), "describe the device");
  check(driver().device_get_attribute(&integrated, kIntegrated, device), "describe the device");
  check(driver().device_get_attribute(&multiprocessors_, kMultiprocessors, device), "describe the device");
  integrated_ = integrated != 0;
  check(driver().primary_context_retain(&context_, device), "make its context");
}

const CudaDevice& CudaDevice::get(int number) {
  static std::mutex mutex;
  static auto& devices = *new std::map<int, std::unique_ptr<const CudaDevice>>;
  const std::scoped_lock lock(mutex);
  auto& device = devices[number];
  if (device == nullptr) device.reset(new CudaDevice(number));
  return *device;
}

std::string CudaDevice::model() const { return concat(name_, " (", multiprocessors_, " multiprocessors)"); }

std::string CudaDevice::compute_capability() const { return concat(major_, ".", minor_); }

CudaScope::CudaScope(const CudaDevice& device) noexcept
    : pushed_(driver().context_push(device.context()) == kSuccess) {}

CudaScope::~CudaScope() {
  if (!pushed_) return;
  CUctx_st* context = nullptr;
  driver().context_pop(&context);
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : device_(other.device_),
      memory_(std::exchange(other.memory_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)) {}

DeviceBuffer::~DeviceBuffer() {
  if (memory_ == nullptr || exiting()) return;
  const CudaScope scope(*device_);
  driver().memory_free(memory_);
}

void DeviceBuffer::reserve(size_t bytes) {
  if (bytes <= capacity_) return;
  DevicePointer larger = nullptr;
  check(driver().memory_allocate(&larger, bytes), "allocate memory");
  if (memory_ != nullptr) driver().memory_free(memory_);
  memory_ = larger;
  capacity_ = bytes;
}

void* PinnedMemory::allocate(size_t bytes) {
  const CudaScope scope(*device_);
  void* memory = nullptr;
  check(driver().host_allocate(&memory, bytes, kPortable | kDeviceMap), "allocate pinned memory");
  return memory;
}

void PinnedMemory::release(void* memory) noexcept {
  if (memory == nullptr || exiting()) return;
  const CudaScope scope(*device_);
  driver().host_free(memory);
}

DevicePointer device_address(void* pinned) {
  DevicePointer address = nullptr;
  check(driver().host_device_pointer(&address, pinned, 0), "map pinned memory");
  return address;
}

bool is_memory_of(const CudaDevice& device, const void* pointer) {
  unsigned type = 0;
  int ordinal = -1;
  uintptr_t address = 0;  // for what runs in this context: there may be others of the same device
  if (driver().pointer_attribute(&type, kMemoryType, pointer) != kSuccess) return false;
  if (driver().pointer_attribute(&address, kDeviceAddress, pointer) != kSuccess) return false;
  if (address != reinterpret_cast<uintptr_t>(pointer)) return false;
  if (type == kMemoryTypeHost) return device.integrated();
  return type == kMemoryTypeDevice && driver().pointer_attribute(&ordinal, kDeviceOrdinal, pointer) == kSuccess &&
         ordinal == device.number();
}

CudaGraph::~CudaGraph() {
  if (exiting()) return;
  const CudaScope scope(*device_);
  driver().graph_exec_destroy(graph_);
}

CudaStream::CudaStream(const CudaDevice& device, CUstream_st* lent)
    : device_(&device), stream_(lent), owned_(lent == nullptr) {
  if (owned_) check(driver().stream_create(&stream_, kNonBlocking), "make a stream");
}

CudaStream::~CudaStream() {
  if (!owned_ || exiting()) return;
  const CudaScope scope(*device_);
  driver().stream_destroy(stream_);
}

void CudaStream::copy_to_device(DevicePointer to, const void* from, size_t bytes) {
  check(driver().copy_to_device(to, from, bytes, stream_), "copy to the device");
}

void CudaStream::copy_to_host(void* to, DevicePointer from, size_t bytes) {
  check(driver().copy_to_host(to, from, bytes, stream_), "copy from the device");
}

void CudaStream::synchronize() { check(driver().stream_synchronize(stream_), "run"); }

void CudaStream::drain() noexcept { driver().stream_synchronize(stream_); }

void CudaStream::wait_for(CUstream_st* other) {
  CUevent_st* event = nullptr;
  check(driver().event_create(&event, kDisableTiming), "make an event");
  const int recorded = driver().event_record(event, other);
  const int waits = recorded == kSuccess ? driver().stream_wait(stream_, event, 0) : recorded;
  driver().event_destroy(event);  // when it is no longer waited for
  check(waits, "wait for a stream");
}

bool CudaStream::begin_capture() { return driver().stream_begin_capture(stream_, kCaptureThreadLocal) == kSuccess; }

std::unique_ptr<CudaGraph> CudaStream::end_capture() {
  CUgraph_st* recorded = nullptr;
  if (driver().stream_end_capture(stream_, &recorded) != kSuccess || recorded == nullptr) return nullptr;
  CUgraphExec_st* ready = nullptr;
  const int result = driver().graph_instantiate(&ready, recorded, 0);
  driver().graph_destroy(recorded);
  return result == kSuccess ? std::make_unique<CudaGraph>(*device_, ready) : nullptr;
}

void CudaStream::launch(const CudaGraph& graph) {
  check(driver().graph_launch(graph.get(), stream_), "launch a graph");
}

}  // namespace mmedge
