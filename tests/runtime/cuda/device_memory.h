// Device memory of the tests: a GPU's, or the emulator's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

inline void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Runs `launch` on a stream of its own, and waits for it. The stream waits for no other, as those of an application;
// the emulator refuses what is not enqueued on it.
inline cudaError_t on_own_stream(const std::function<cudaError_t(cudaStream_t)>& launch) {
  check_cuda(cudaDeviceSynchronize());  // until what was written is there
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const cudaError_t error = launch(stream);
  check_cuda(cudaStreamSynchronize(stream));
  check_cuda(cudaStreamDestroy(stream));
  return error;
}

// As many elements as were asked for and not a byte more, so that a sanitizer sees an access beyond them.
template <class Element>
class DeviceVector {
 public:
  DeviceVector() = default;
  // Every byte 0xFF: a NaN in every floating type.
  explicit DeviceVector(size_t count) : count_(count) {
    if (count == 0) return;
    void* memory = nullptr;
    check_cuda(cudaMalloc(&memory, bytes()));
    data_ = static_cast<Element*>(memory);
    check_cuda(cudaMemset(data_, 0xFF, bytes()));
  }
  explicit DeviceVector(const std::vector<Element>& values) : DeviceVector(values.size()) { write(values); }
  DeviceVector(DeviceVector&& other) noexcept { swap(other); }
  DeviceVector& operator=(DeviceVector&& other) noexcept {
    swap(other);
    return *this;
  }
  DeviceVector(const DeviceVector&) = delete;
  DeviceVector& operator=(const DeviceVector&) = delete;
  ~DeviceVector() { static_cast<void>(cudaFree(data_)); }

  Element* data() const { return data_; }
  size_t size() const { return count_; }

  // As many values as there are elements.
  void write(const std::vector<Element>& values) {
    if (count_ > 0) check_cuda(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice));
  }
  // Waits for what was launched before.
  std::vector<Element> read() const {
    std::vector<Element> values(count_);
    if (count_ > 0) check_cuda(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  size_t bytes() const { return count_ * sizeof(Element); }
  void swap(DeviceVector& other) {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
  }

  Element* data_ = nullptr;
  size_t count_ = 0;
};
