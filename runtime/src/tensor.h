// A dense tensor that owns its memory and keeps it when it shrinks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

#include "mmedge.h"

namespace mmedge {

enum class ElementType : uint8_t { kFloat32, kFloat16, kUint8, kInt8, kInt32, kBool, kOther };

constexpr size_t element_size(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
    case ElementType::kInt32:
      return 4;
    case ElementType::kFloat16:
      return 2;
    default:
      return 1;
  }
}

// As the manifest names it.
constexpr const char* element_name(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kFloat16:
      return "float16";
    case ElementType::kUint8:
      return "uint8";
    case ElementType::kInt8:
      return "int8";
    case ElementType::kInt32:
      return "int32";
    case ElementType::kBool:
      return "bool";
    default:
      return "another type";
  }
}

// As the C ABI says it.
constexpr int32_t to_data_type(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return MME_FLOAT16;
    case ElementType::kUint8:
      return MME_UINT8;
    case ElementType::kInt8:
      return MME_INT8;
    case ElementType::kInt32:
      return MME_INT32;
    default:
      return MME_FLOAT32;
  }
}

// Memory of the host that an engine wants its tensors in, such as pages a GPU can reach. Outlives what it gave.
class HostMemory {
 public:
  virtual ~HostMemory() = default;
  // At least 64-byte aligned; null or an Error where there is none.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
};

// Row-major, no batch dimension, 64-byte aligned. Shapes are short and kept in place: resizing to a size seen before
// allocates nothing.
class Tensor {
 public:
  static constexpr size_t kMostDimensions = 8;

  // `memory`: where it comes from; null: the heap.
  explicit Tensor(ElementType type = ElementType::kFloat32, HostMemory* memory = nullptr)
      : type_(type), memory_(nullptr, Free{memory}) {}

  ElementType type() const { return type_; }
  std::span<const int64_t> shape() const { return {shape_, rank_}; }
  size_t count() const { return count_; }
  size_t bytes() const { return count_ * element_size(type_); }
  bool empty() const { return count_ == 0; }

  void* data() { return memory_.get(); }
  const void* data() const { return memory_.get(); }
  template <class Element>
  std::span<Element> values() {
    return {static_cast<Element*>(data()), count_};
  }
  template <class Element>
  std::span<const Element> values() const {
    return {static_cast<const Element*>(data()), count_};
  }

  // What was in it is kept only where the size stays the same, or where there is no memory: then nothing changes.
  void resize(ElementType type, std::span<const int64_t> shape) {
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    reserve(count * element_size(type));
    rank_ = shape.size();  // at most kMostDimensions, by whoever checked the shape
    std::copy(shape.begin(), shape.end(), shape_);
    type_ = type;
    count_ = count;
  }

 private:
  struct Free {
    HostMemory* source;
    void operator()(std::byte* memory) const {
      if (source != nullptr) {
        source->release(memory);
      } else {
        std::free(memory);
      }
    }
  };

  void reserve(size_t bytes) {
    if (bytes <= capacity_) return;
    const size_t capacity = (bytes + 63) / 64 * 64;
    HostMemory* const source = memory_.get_deleter().source;
    void* const memory = source ? source->allocate(capacity) : std::aligned_alloc(64, capacity);
    if (memory == nullptr) throw std::bad_alloc();
    memory_.reset(static_cast<std::byte*>(memory));
    capacity_ = capacity;
  }

  ElementType type_;
  size_t rank_ = 0, count_ = 0, capacity_ = 0;
  int64_t shape_[kMostDimensions] = {};
  std::unique_ptr<std::byte, Free> memory_;
};

inline mme_tensor describe(const Tensor& tensor, const char* name) {
  return {sizeof(mme_tensor),    name,           to_data_type(tensor.type()),
          tensor.data(),         tensor.bytes(), tensor.shape().size(),
          tensor.shape().data(), MME_MEMORY_HOST};
}

}  // namespace mmedge
