#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/image_to_tensor/image_to_tensor_cuda.h"

namespace mmedge {
namespace {

constexpr int kTileRows = 8, kTileColumns = kWarp, kThreads = kTileRows * kTileColumns;
constexpr int kChunk = 1024;  // bytes of a row that a warp resizes at a time

struct Frames {
  CudaImageFrame frame[kCudaImageMostFrames];
};

// Of each warp, in 1/128 level; written four at a time.
struct Chunks {
  alignas(sizeof(uint2)) uint16_t values[kTileRows][kChunk];
};

// Rows of a plane, from a byte of them on.
struct Rows {
  const uint8_t* data;
  int64_t stride;
  int left;      // readable bytes, of which 4 are read
  bool aligned;  // to 4 bytes

  __device__ unsigned load(int row) const {
    const uint8_t* const from = data + row * stride;
    if (aligned && left >= 4) return *reinterpret_cast<const unsigned*>(from);
    unsigned word = 0;
    for (int i = 0; i < min(left, 4); ++i) word |= static_cast<unsigned>(from[i]) << (8 * i);
    return word;
  }
};

// One output row of four neighbouring bytes, in 1/128 level.
__device__ uint2 resize_rows(const Rows& rows, const CudaImagePlane& plane, const int32_t* tables, int row) {
  const int first = tables[plane.first_row_table + row], pairs = tables[plane.pairs_table + row];
  const int32_t* const weights = tables + plane.weight_table + ptrdiff_t{row} * plane.pairs;
  const unsigned half = 1U << (plane.shift - 1);
  unsigned sums[4] = {half, half, half, half};
#pragma unroll 4
  for (int pair = 0; pair < pairs; ++pair) {
    const int y = first + 2 * pair;
    const unsigned weight = weights[pair];
    const unsigned upper = rows.load(y), lower = rows.load(min(y + 1, plane.height - 1));  // past the end: weight 0
    const unsigned low = __byte_perm(upper, lower, 0x5140), high = __byte_perm(upper, lower, 0x7362);
    sums[0] = __dp2a_lo(weight, low, sums[0]);
    sums[1] = __dp2a_hi(weight, low, sums[1]);
    sums[2] = __dp2a_lo(weight, high, sums[2]);
    sums[3] = __dp2a_hi(weight, high, sums[3]);
  }
  for (unsigned& sum : sums) sum >>= plane.shift;
  return {sums[0] | sums[1] << 16, sums[2] | sums[3] << 16};
}

// What of an output pixel's taps in one channel lies in the chunk that begins at byte `begin`.
__device__ int resize_columns(const uint16_t* chunk, int begin, const CudaImageChannel& channel, const int32_t* tables,
                              int columns, int column) {
  const int first = tables[channel.first_table + column], count = tables[channel.count_table + column];
  const int before = max(0, divide_up(begin - channel.first_byte, channel.pixel_bytes) - first);
  const int after = min(count, divide_up(begin + kChunk - channel.first_byte, channel.pixel_bytes) - first);
  const int32_t* weight = tables + channel.weight_table + column + ptrdiff_t{before} * columns;
  const uint16_t* value = chunk + ((first + before) * channel.pixel_bytes + channel.first_byte - begin);
  int sum = 0;
#pragma unroll 4
  for (int i = before; i < after; ++i) {
    sum += *value * *weight;
    value += channel.pixel_bytes;
    weight += columns;
  }
  return sum;
}

template <class Element>
__device__ Element convert(float value, int zero_point) {
  if constexpr (std::is_same_v<Element, float>) {
    return value;
  } else if constexpr (std::is_same_v<Element, __half>) {
    return __float2half_rn(value);
  } else {
    constexpr int least = std::is_same_v<Element, int8_t> ? -128 : 0;
    // Past this any byte is saturated, whatever the zero point.
    const int rounded = __float2int_rn(fminf(fmaxf(value, -512.0F), 512.0F)) + zero_point;
    return static_cast<Element>(min(max(rounded, least), least + 255));
  }
}

template <class Element>
__device__ void write(const CudaImageKernel& kernel, void* tensor, size_t pixel, const float* values) {
  const size_t area = static_cast<size_t>(kernel.width) * kernel.height;
  Element* const to = static_cast<Element*>(tensor) + blockIdx.z * area * kernel.channels;
  const bool planar = kernel.layout == ImageLayout::kPlanar;
  for (int c = 0; c < kernel.channels; ++c) {
    const int channel = kernel.order[c];
    to[planar ? channel * area + pixel : pixel * kernel.channels + channel] =
        convert<Element>(values[c], kernel.zero_point);
  }
}

__device__ void write_any(const CudaImageKernel& kernel, void* tensor, size_t pixel, const float* values) {
  switch (kernel.type) {
    case ElementType::kFloat16:
      return write<__half>(kernel, tensor, pixel, values);
    case ElementType::kUint8:
      return write<uint8_t>(kernel, tensor, pixel, values);
    case ElementType::kInt8:
      return write<int8_t>(kernel, tensor, pixel, values);
    default:
      return write<float>(kernel, tensor, pixel, values);
  }
}

__global__ void __launch_bounds__(kThreads, 4)
    convert_frames(const __grid_constant__ CudaImageKernel kernel, const int32_t* tables,
                   const __grid_constant__ Frames frames, void* tensor) {
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int full_column = static_cast<int>(blockIdx.x) * kTileColumns + lane;
  const int full_row = static_cast<int>(blockIdx.y) * kTileRows + warp;
  const int column = full_column - kernel.left, row = full_row - kernel.top;
  const bool row_inside = row >= 0 && row < kernel.rows;
  const bool inside = row_inside && column >= 0 && column < kernel.columns;
  const CudaImageFrame& frame = frames.frame[blockIdx.z];
  uint16_t* const chunk = shared_memory<Chunks>().values[warp];

  int inputs[3] = {};
  for (int p = 0, input = 0; row_inside && p < kernel.plane_count; input += kernel.planes[p++].channels) {
    const CudaImagePlane& plane = kernel.planes[p];
    const uint8_t* const data = frame.planes[plane.plane];
    const int64_t stride = frame.strides[plane.plane];
    const bool aligned = (reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(stride)) % 4 == 0;
    const int end = tables[plane.end_table + blockIdx.x];
    for (int begin = tables[plane.begin_table + blockIdx.x]; begin < end; begin += kChunk) {
      for (int byte = begin + 4 * lane; byte < min(end, begin + kChunk); byte += 4 * kWarp) {
        const Rows rows{data + byte, stride, plane.row_bytes - byte, aligned};
        *reinterpret_cast<uint2*>(chunk + (byte - begin)) = resize_rows(rows, plane, tables, row);
      }
      __syncwarp();
      for (int c = 0; inside && c < plane.channels && input + c < kernel.inputs; ++c) {
        inputs[input + c] += resize_columns(chunk, begin, plane.channel[c], tables, kernel.columns, column);
      }
      __syncwarp();
    }
  }

  if (full_column >= kernel.full_columns || full_row >= kernel.full_rows) return;
  float values[3];
  for (int c = 0; c < kernel.channels; ++c) {
    float value = kernel.offset[c];
    for (int k = 0; k < kernel.inputs; ++k) {
      value = fmaf(static_cast<float>(inputs[k]), kernel.factor[c][k], value);
    }
    values[c] = inside ? fminf(fmaxf(value, kernel.least[c]), kernel.most[c]) : kernel.pad[kernel.order[c]];
  }
  const int stored_x = kernel.flip_columns ? kernel.full_columns - 1 - full_column : full_column;
  const int stored_y = kernel.flip_rows ? kernel.full_rows - 1 - full_row : full_row;
  const int x = kernel.turned ? stored_y : stored_x, y = kernel.turned ? stored_x : stored_y;
  write_any(kernel, tensor, static_cast<size_t>(y) * kernel.width + x, values);
}

}  // namespace

cudaError_t image_to_tensor(const CudaImagePlan& plan, const int32_t* tables, std::span<const CudaImageFrame> frames,
                            void* tensor, cudaStream_t stream) {
  const CudaImageKernel& kernel = plan.kernel;
  const size_t tensor_bytes =
      static_cast<size_t>(kernel.width) * kernel.height * kernel.channels * element_size(kernel.type);
  for (size_t first = 0; first < frames.size(); first += kCudaImageMostFrames) {
    const size_t count = std::min<size_t>(frames.size() - first, kCudaImageMostFrames);
    Frames batch{};
    std::copy_n(frames.begin() + static_cast<ptrdiff_t>(first), count, batch.frame);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(divide_up(kernel.full_columns, kTileColumns), divide_up(kernel.full_rows, kTileRows),
                          static_cast<unsigned>(count));
    config.blockDim = dim3(kTileColumns, kTileRows);
    config.stream = stream;
    void* const to = static_cast<std::byte*>(tensor) + first * tensor_bytes;
    const cudaError_t error = cudaLaunchKernelEx(&config, convert_frames, kernel, tables, batch, to);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace mmedge
