#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/image_to_tensor/image_to_tensor_cuda.h"

namespace mmedge {
namespace {

constexpr int kTileRows = 8, kThreads = kTileRows * kWarp;
constexpr int kPixels = kCudaImageTileColumns / kWarp;   // of a lane
constexpr int kLaneBytes = 16, kWords = kLaneBytes / 4;  // of a row

struct Frames {
  CudaImageFrame frame[kCudaImageMostFrames];
};

// What a warp has resized by rows, in 1/128 level: one part of the bytes after the other.
union Chunk {
  uint4 eights[kCudaImageChunk / 8];
  uint2 fours[kCudaImageChunk / 4];
  unsigned pairs[kCudaImageChunk / 2];
  uint16_t values[kCudaImageChunk];
};

struct Chunks {
  Chunk of_warp[kTileRows];
};

// A lane's bytes of a row. kWhole: they are 16, aligned to as many; else there are `left` of them.
template <bool kWhole>
__device__ uint4 load(const uint8_t* from, int left) {
  if constexpr (kWhole) return *reinterpret_cast<const uint4*>(from);
  unsigned words[kWords] = {};
  for (int i = 0; i < kLaneBytes; ++i) {
    if (i < left) words[i / 4] |= static_cast<unsigned>(from[i]) << (8 * (i % 4));
  }
  return {words[0], words[1], words[2], words[3]};
}

// Adds the products of four columns of two rows with the rows' weights.
__device__ void add_pair(unsigned upper, unsigned lower, unsigned weight, unsigned* sums) {
  const unsigned low = __byte_perm(upper, lower, 0x5140), high = __byte_perm(upper, lower, 0x7362);
  sums[0] = __dp2a_lo(weight, low, sums[0]);
  sums[1] = __dp2a_hi(weight, low, sums[1]);
  sums[2] = __dp2a_lo(weight, high, sums[2]);
  sums[3] = __dp2a_hi(weight, high, sums[3]);
}

// Two values of one part, the first of them `i`.
template <int kParts>
__device__ unsigned pack(const unsigned (&sums)[kLaneBytes], int i) {
  return sums[i] | sums[i + kParts] << 16;
}

__device__ void store(const unsigned (&sums)[kLaneBytes], int parts, int lane, Chunk& chunk) {
  if (parts == 1) {
    chunk.eights[2 * lane] = {pack<1>(sums, 0), pack<1>(sums, 2), pack<1>(sums, 4), pack<1>(sums, 6)};
    chunk.eights[2 * lane + 1] = {pack<1>(sums, 8), pack<1>(sums, 10), pack<1>(sums, 12), pack<1>(sums, 14)};
  } else if (parts == 2) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      chunk.eights[part * kWarp + lane] = {pack<2>(sums, part), pack<2>(sums, part + 4), pack<2>(sums, part + 8),
                                           pack<2>(sums, part + 12)};
    }
  } else if (parts == 4) {
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      chunk.fours[part * kWarp + lane] = {pack<4>(sums, part), pack<4>(sums, part + 8)};
    }
  } else {
#pragma unroll
    for (int i = 0; i < kLaneBytes; ++i) {
      const int byte = kLaneBytes * lane + i;
      chunk.values[byte % 3 * (kCudaImageChunk / (3 * kLaneBytes) * kLaneBytes) + byte / 3] =
          static_cast<uint16_t>(sums[i]);
    }
  }
}

// One output row of a lane's bytes, which begin at `data` in the plane's first row.
template <bool kWhole>
__device__ void resize_rows(const uint8_t* data, int64_t stride, int left, const CudaImagePlane& plane,
                            const int32_t* tables, int row, int lane, Chunk& chunk) {
  const int first = tables[plane.first_row_table + row], pairs = tables[plane.pairs_table + row];
  const int32_t* const weights = tables + plane.weight_table + ptrdiff_t{row} * plane.pairs;
  unsigned sums[kLaneBytes];
  for (unsigned& sum : sums) sum = 1U << (plane.shift - 1);
  const uint8_t* from = data + first * stride;
#pragma unroll 2
  for (int pair = 0; pair < pairs; ++pair, from += 2 * stride) {
    const bool last = first + 2 * pair + 1 >= plane.height;  // no lower row: its weight is 0
    const uint4 upper = load<kWhole>(from, left), lower = load<kWhole>(last ? from : from + stride, left);
    const unsigned weight = weights[pair];
    add_pair(upper.x, lower.x, weight, sums);
    add_pair(upper.y, lower.y, weight, sums + 4);
    add_pair(upper.z, lower.z, weight, sums + 8);
    add_pair(upper.w, lower.w, weight, sums + 12);
  }
  for (unsigned& sum : sums) sum >>= plane.shift;
  store(sums, plane.interleaved, lane, chunk);
}

// What of the taps of a lane's output columns in one channel lies in the chunk whose parts begin at `begin_pair`.
// kClips: not all of them do.
template <bool kClips>
__device__ void resize_columns(const Chunk& chunk, int begin_pair, const CudaImagePlane& plane,
                               const CudaImageChannel& channel, const int32_t* tables, int columns,
                               const int (&column)[kPixels], unsigned (&sums)[kPixels]) {
  const unsigned* values[kPixels];
  const int32_t* weights[kPixels];
  int first[kPixels];
  unsigned low[kPixels] = {}, high[kPixels] = {};
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    first[pixel] = tables[channel.first_table + column[pixel]] - begin_pair;
    values[pixel] = chunk.pairs + channel.part * plane.part_pairs + (kClips ? 0 : first[pixel]);
    weights[pixel] = tables + channel.weight_table + column[pixel];
  }
#pragma unroll 4
  for (int pair = 0; pair < channel.pairs; ++pair) {
#pragma unroll
    for (int pixel = 0; pixel < kPixels; ++pixel) {
      int at = pair;
      auto weight = static_cast<unsigned>(*weights[pixel]);
      weights[pixel] += columns;
      if constexpr (kClips) {
        at += first[pixel];
        if (at < 0 || at >= plane.part_pairs) at = 0, weight = 0;
      }
      low[pixel] = __dp2a_lo(values[pixel][at], weight, low[pixel]);
      high[pixel] = __dp2a_hi(values[pixel][at], weight, high[pixel]);
    }
  }
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) sums[pixel] = low[pixel] + (high[pixel] << 8);
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

// Pixel (full_row, full_column) of the output, as the frame lies, from the sums of its channels.
template <class Element>
__device__ void finish(const CudaImageKernel& kernel, Element* tensor, int full_row, int full_column, bool inside,
                       const int (&inputs)[3]) {
  Element* const pixel = tensor + (kernel.origin + full_row * kernel.row_step + full_column * kernel.column_step);
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    if (c == kernel.channels) return;
    float value = kernel.offset[c];
#pragma unroll
    for (int k = 0; k < 3; ++k) value = fmaf(static_cast<float>(inputs[k]), kernel.factor[c][k], value);
    value = inside ? fminf(fmaxf(value, kernel.least[c]), kernel.most[c]) : kernel.pad[c];
    pixel[kernel.channel_offset[c]] = convert<Element>(value, kernel.zero_point);
  }
}

template <class Element>
__global__ void __launch_bounds__(kThreads, 4)
    convert_frames(const __grid_constant__ CudaImageKernel kernel, const int32_t* tables,
                   const __grid_constant__ Frames frames, void* tensors) {
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int first_column = static_cast<int>(blockIdx.x) * kernel.tile_columns;
  const int full_row = static_cast<int>(blockIdx.y) * kTileRows + warp, row = full_row - kernel.top;
  if (full_row >= kernel.full_rows) return;
  const CudaImageFrame& frame = frames.frame[blockIdx.z];
  Element* const tensor = static_cast<Element*>(tensors) + static_cast<size_t>(blockIdx.z) * kernel.tensor_size;
  Chunk& chunk = shared_memory<Chunks>().of_warp[warp];

  const bool row_inside = row >= 0 && row < kernel.rows;
  int inputs[kPixels][3] = {}, column[kPixels];  // of the picture; past it or the tile the nearest, its sums unused
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    const int offset = min(lane + pixel * kWarp, kernel.tile_columns - 1);
    column[pixel] = min(max(first_column + offset - kernel.left, 0), kernel.columns - 1);
  }
  for (int p = 0, input = 0; row_inside && p < kernel.plane_count; input += kernel.planes[p++].channels) {
    const CudaImagePlane& plane = kernel.planes[p];
    const uint8_t* const data = frame.planes[plane.plane];
    const int64_t stride = frame.strides[plane.plane];
    const bool aligned = (reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(stride)) % kLaneBytes == 0;
    int begin_pair = tables[plane.begin_table + blockIdx.x], begin = 2 * begin_pair * plane.interleaved;
    const int chunks = tables[plane.chunks_table + blockIdx.x];
    for (int i = 0; i < chunks; ++i) {
      const int byte = begin + kLaneBytes * lane, left = plane.row_bytes - byte;
      if (kLaneBytes * lane < plane.chunk && left > 0) {
        if (aligned && left >= kLaneBytes) {
          resize_rows<true>(data + byte, stride, left, plane, tables, row, lane, chunk);
        } else {
          resize_rows<false>(data + byte, stride, left, plane, tables, row, lane, chunk);
        }
      }
      __syncwarp();
      for (int c = 0; c < plane.channels; ++c) {
        const CudaImageChannel& channel = plane.channel[c];
        unsigned sums[kPixels];
        if (chunks == 1 && channel.pairs <= plane.part_pairs) {
          resize_columns<false>(chunk, begin_pair, plane, channel, tables, kernel.columns, column, sums);
        } else {
          resize_columns<true>(chunk, begin_pair, plane, channel, tables, kernel.columns, column, sums);
        }
#pragma unroll
        for (int pixel = 0; pixel < kPixels; ++pixel) {
#pragma unroll
          for (int k = 0; k < 3; ++k) inputs[pixel][k] += k == input + c ? static_cast<int>(sums[pixel]) : 0;
        }
      }
      __syncwarp();
      begin += plane.chunk;
      begin_pair += plane.part_pairs;
    }
  }

#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    const int offset = lane + pixel * kWarp, full_column = first_column + offset;
    if (offset < kernel.tile_columns && full_column < kernel.full_columns) {
      const bool inside = row_inside && full_column - kernel.left == column[pixel];
      finish(kernel, tensor, full_row, full_column, inside, inputs[pixel]);
    }
  }
}

auto kernel_for(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return convert_frames<__half>;
    case ElementType::kUint8:
      return convert_frames<uint8_t>;
    case ElementType::kInt8:
      return convert_frames<int8_t>;
    default:
      return convert_frames<float>;
  }
}

}  // namespace

cudaError_t image_to_tensor(const CudaImagePlan& plan, const int32_t* tables, std::span<const CudaImageFrame> frames,
                            void* tensor, cudaStream_t stream) {
  const CudaImageKernel& kernel = plan.kernel;
  const size_t tensor_bytes = static_cast<size_t>(kernel.tensor_size) * element_size(kernel.type);
  for (size_t first = 0; first < frames.size(); first += kCudaImageMostFrames) {
    const size_t count = std::min<size_t>(frames.size() - first, kCudaImageMostFrames);
    Frames batch{};
    std::copy_n(frames.begin() + static_cast<ptrdiff_t>(first), count, batch.frame);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(divide_up(kernel.full_columns, kernel.tile_columns), divide_up(kernel.full_rows, kTileRows),
                          static_cast<unsigned>(count));
    config.blockDim = dim3(kWarp, kTileRows);
    config.stream = stream;
    void* const to = static_cast<std::byte*>(tensor) + first * tensor_bytes;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel_for(kernel.type), kernel, tables, batch, to);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace mmedge
