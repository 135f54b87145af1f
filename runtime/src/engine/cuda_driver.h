// The CUDA driver, opened with dlopen so that libmmedge needs neither CUDA nor its headers.
//
// It is the driver's interface and its primary context, which PyTorch, PyCUDA, CuPy and CUDA's runtime library use too:
// memory and streams go from one to the other as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "tensor.h"

struct CUctx_st;
struct CUstream_st;
struct CUgraphExec_st;

namespace mmedge {

using DevicePointer = std::byte*;  // of memory that the processor may not touch

// A GPU and its primary context. One object a device, never destroyed.
class CudaDevice {
 public:
  // Throws MME_ENGINE_UNAVAILABLE where there is no driver or no GPU, MME_INVALID_ARGUMENT where none has this number.
  static const CudaDevice& get(int number);

  const std::string& name() const { return name_; }
  // Its name and size, such as "Orin (8 multiprocessors)": a Jetson's name alone does not tell which one it is.
  std::string model() const;
  // Such as "8.7".
  std::string compute_capability() const;
  // Whether it shares the host's memory, as in a Jetson.
  bool integrated() const { return integrated_; }
  int number() const { return number_; }
  CUctx_st* context() const { return context_; }

 private:
  explicit CudaDevice(int number);

  int number_, major_ = 0, minor_ = 0, multiprocessors_ = 0;
  bool integrated_ = false;
  std::string name_;
  CUctx_st* context_ = nullptr;
};

// Makes the device's context this thread's own for one scope. Where it cannot, what is done inside fails.
class CudaScope {
 public:
  explicit CudaScope(const CudaDevice& device) noexcept;
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;
  ~CudaScope();

 private:
  bool pushed_;
};

// The following are used inside a CudaScope of the device they are made in; their ends make one of their own. Their
// faults are MME_ENGINE_FAILED, or std::bad_alloc where memory is short.

// Memory of the device.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(const CudaDevice& device) : device_(&device) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;
  ~DeviceBuffer();
  // Keeps what there is where it is large enough, but not what is in it.
  void reserve(size_t bytes);
  DevicePointer get() const { return memory_; }

 private:
  const CudaDevice* device_;
  DevicePointer memory_ = nullptr;
  size_t capacity_ = 0;
};

// Pages of the host that the GPU reads and writes itself. May be used from any thread.
class PinnedMemory : public HostMemory {
 public:
  explicit PinnedMemory(const CudaDevice& device) : device_(&device) {}
  void* allocate(size_t bytes) override;
  void release(void* memory) noexcept override;

 private:
  const CudaDevice* device_;
};

// Where the device finds pinned memory.
DevicePointer device_address(void* pinned);

// Whether `pointer` is memory of this device; of an integrated one pinned memory too, which there is the same memory.
bool is_memory_of(const CudaDevice& device, const void* pointer);

// What was recorded of a stream, to be launched again at once.
class CudaGraph {
 public:
  CudaGraph(const CudaDevice& device, CUgraphExec_st* graph) : device_(&device), graph_(graph) {}
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph();
  CUgraphExec_st* get() const { return graph_; }

 private:
  const CudaDevice* device_;
  CUgraphExec_st* graph_;
};

// A stream of our own, or one that a caller lends.
class CudaStream {
 public:
  CudaStream(const CudaDevice& device, CUstream_st* lent);
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  ~CudaStream();

  CUstream_st* get() const { return stream_; }
  void copy_to_device(DevicePointer to, const void* from, size_t bytes);
  void copy_to_host(void* to, DevicePointer from, size_t bytes);
  void synchronize();
  // Waits, whatever comes of what is waited for.
  void drain() noexcept;
  // What is enqueued from now on comes after what `other` has now.
  void wait_for(CUstream_st* other);
  // What is enqueued until end_capture() is recorded instead of done. Both give false, and no exception, where the
  // stream or what was enqueued cannot be recorded.
  bool begin_capture();
  std::unique_ptr<CudaGraph> end_capture();
  void launch(const CudaGraph& graph);

 private:
  const CudaDevice* device_;
  CUstream_st* stream_ = nullptr;
  bool owned_;
};

}  // namespace mmedge
