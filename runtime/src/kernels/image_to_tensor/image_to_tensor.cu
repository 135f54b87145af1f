#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "kernels/device.cuh"
#include "kernels/image_to_tensor/image_to_tensor_cuda.h"

namespace mmedge {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;     // of a block
constexpr int kLines = 2, kTileRows = kWarps * kLines;   // output rows of a warp, and of a block
constexpr int kAtOnce = 4;                               // pairs of source rows that a lane waits for at once
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
  Chunk of_warp[kWarps][kLines];
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

// Bytes of two rows, those of one column side by side.
struct Columns {
  unsigned words[2 * kWords];
};

__device__ Columns interleave(uint4 upper, uint4 lower) {
  return {__byte_perm(upper.x, lower.x, 0x5140), __byte_perm(upper.x, lower.x, 0x7362),
          __byte_perm(upper.y, lower.y, 0x5140), __byte_perm(upper.y, lower.y, 0x7362),
          __byte_perm(upper.z, lower.z, 0x5140), __byte_perm(upper.z, lower.z, 0x7362),
          __byte_perm(upper.w, lower.w, 0x5140), __byte_perm(upper.w, lower.w, 0x7362)};
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

// The warp's output rows, `row` and those after it up to `lines`, of a lane's bytes, which begin at `data` in the
// plane's first row.
template <bool kWhole>
__device__ void resize_rows(const uint8_t* data, int64_t stride, int left, const CudaImagePlane& plane,
                            const int32_t* tables, int row, int lines, int lane, Chunk (&chunks)[kLines]) {
  constexpr int at_once = kWhole ? kAtOnce : 1;
  int first[kLines], pairs[kLines];
  unsigned sums[kLines][kLaneBytes];
#pragma unroll
  for (int line = 0; line < kLines; ++line) {
    const int at = row + min(line, lines - 1);
    first[line] = tables[plane.first_pair_table + at];
    pairs[line] = tables[plane.pairs_table + at];
    for (unsigned& sum : sums[line]) sum = 1U << (plane.shift - 1);
  }
  const int32_t* const weights = tables + plane.weight_table + ptrdiff_t{row} * plane.pairs;
  const int next_line = lines == 1 ? 0 : plane.pairs;
  static_assert(kLines == 2);
  const int begin = min(first[0], first[1]), end = max(first[0] + pairs[0], first[1] + pairs[1]);
  for (int batch = begin; batch < end; batch += at_once) {
    uint4 upper[at_once], lower[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int y = 2 * (batch + i);
      if (batch + i >= end) continue;
      upper[i] = load<kWhole>(data + y * stride, left);
      lower[i] = load<kWhole>(data + min(y + 1, plane.height - 1) * stride, left);  // past the end: weight 0
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (batch + i >= end) continue;
      const Columns columns = interleave(upper[i], lower[i]);
#pragma unroll
      for (int line = 0; line < kLines; ++line) {
        const int pair = batch + i - first[line];
        if (pair < 0 || pair >= pairs[line]) continue;
        const auto weight = static_cast<unsigned>(weights[line * next_line + pair]);
#pragma unroll
        for (int word = 0; word < 2 * kWords; ++word) {
          unsigned* const sum = sums[line] + 2 * word;
          sum[0] = __dp2a_lo(weight, columns.words[word], sum[0]);
          sum[1] = __dp2a_hi(weight, columns.words[word], sum[1]);
        }
      }
    }
  }
#pragma unroll
  for (int line = 0; line < kLines; ++line) {
    for (unsigned& sum : sums[line]) sum >>= plane.shift;
    store(sums[line], plane.interleaved, lane, chunks[line]);
  }
}

// What of the taps of a lane's output columns in one channel lies in the chunk whose parts begin at `begin_pair`.
// kClips: not all of them do.
template <bool kClips>
__device__ void resize_columns(const Chunk (&chunks)[kLines], int begin_pair, const CudaImagePlane& plane,
                               const CudaImageChannel& channel, const int32_t* tables, int columns,
                               const int (&column)[kPixels], unsigned (&sums)[kLines][kPixels]) {
  const uint2* weights[kPixels];  // of two pairs
  int first[kPixels];
  unsigned low[kLines][kPixels] = {}, high[kLines][kPixels] = {};
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    first[pixel] = tables[channel.first_table + column[pixel]] - begin_pair;
    weights[pixel] = reinterpret_cast<const uint2*>(tables + channel.weight_table) + column[pixel];
  }
  const int part = channel.part * plane.part_pairs;
  for (int pair = 0; pair < channel.pairs; pair += 2) {
#pragma unroll
    for (int pixel = 0; pixel < kPixels; ++pixel) {
      const uint2 both = *weights[pixel];
      weights[pixel] += columns;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        int at = first[pixel] + pair + i;
        unsigned weight = i == 0 ? both.x : both.y;
        if (kClips && (at < 0 || at >= plane.part_pairs)) at = 0, weight = 0;
#pragma unroll
        for (int line = 0; line < kLines; ++line) {
          const unsigned values = chunks[line].pairs[part + at];
          low[line][pixel] = __dp2a_lo(values, weight, low[line][pixel]);
          high[line][pixel] = __dp2a_hi(values, weight, high[line][pixel]);
        }
      }
    }
  }
#pragma unroll
  for (int line = 0; line < kLines; ++line) {
#pragma unroll
    for (int pixel = 0; pixel < kPixels; ++pixel) sums[line][pixel] = low[line][pixel] + (high[line][pixel] << 8);
  }
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
  // Counted so that the picture begins with a warp's first row.
  const int full_row = static_cast<int>(blockIdx.y) * kTileRows + warp * kLines - kernel.top % kLines;
  if (full_row >= kernel.full_rows) return;
  const CudaImageFrame& frame = frames.frame[blockIdx.z];
  Element* const tensor = static_cast<Element*>(tensors) + static_cast<size_t>(blockIdx.z) * kernel.tensor_size;
  Chunk(&chunks)[kLines] = shared_memory<Chunks>().of_warp[warp];

  // Of the picture: rows, of which there may be none, and columns; past it or the tile the nearest, whose sums go
  // unused.
  const int row = full_row - kernel.top, lines = row < 0 ? 0 : min(kLines, kernel.rows - row);
  int column[kPixels], inputs[kLines][kPixels][3] = {};
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    const int offset = min(lane + pixel * kWarp, kernel.tile_columns - 1);
    column[pixel] = min(max(first_column + offset - kernel.left, 0), kernel.columns - 1);
  }
  for (int p = 0, input = 0; lines > 0 && p < kernel.plane_count; input += kernel.planes[p++].channels) {
    const CudaImagePlane& plane = kernel.planes[p];
    const uint8_t* const data = frame.planes[plane.plane];
    const int64_t stride = frame.strides[plane.plane];
    const bool aligned = (reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(stride)) % kLaneBytes == 0;
    int begin_pair = tables[plane.begin_table + blockIdx.x], begin = 2 * begin_pair * plane.interleaved;
    const int count = tables[plane.chunks_table + blockIdx.x];
    for (int i = 0; i < count; ++i) {
      const int byte = begin + kLaneBytes * lane, left = plane.row_bytes - byte;
      if (kLaneBytes * lane < plane.chunk && left > 0) {
        if (aligned && left >= kLaneBytes) {
          resize_rows<true>(data + byte, stride, left, plane, tables, row, lines, lane, chunks);
        } else {
          resize_rows<false>(data + byte, stride, left, plane, tables, row, lines, lane, chunks);
        }
      }
      __syncwarp();
      for (int c = 0; c < plane.channels; ++c) {
        const CudaImageChannel& channel = plane.channel[c];
        unsigned sums[kLines][kPixels];
        if (count == 1 && channel.pairs <= plane.part_pairs) {
          resize_columns<false>(chunks, begin_pair, plane, channel, tables, kernel.columns, column, sums);
        } else {
          resize_columns<true>(chunks, begin_pair, plane, channel, tables, kernel.columns, column, sums);
        }
#pragma unroll
        for (int line = 0; line < kLines; ++line) {
#pragma unroll
          for (int pixel = 0; pixel < kPixels; ++pixel) {
#pragma unroll
            for (int k = 0; k < 3; ++k) {
              inputs[line][pixel][k] += k == input + c ? static_cast<int>(sums[line][pixel]) : 0;
            }
          }
        }
      }
      __syncwarp();
      begin += plane.chunk;
      begin_pair += plane.part_pairs;
    }
  }

#pragma unroll
  for (int line = 0; line < kLines; ++line) {
    const int to = full_row + line;
#pragma unroll
    for (int pixel = 0; pixel < kPixels; ++pixel) {
      const int offset = lane + pixel * kWarp, full_column = first_column + offset;
      if (to < 0 || to >= kernel.full_rows) continue;
      if (offset >= kernel.tile_columns || full_column >= kernel.full_columns) continue;
      const bool inside = line < lines && full_column - kernel.left == column[pixel];
      finish(kernel, tensor, to, full_column, inside, inputs[line][pixel]);
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

cudaError_t check_image_to_tensor() {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel_for(ElementType::kFloat32));
  if (error != cudaSuccess) cudaGetLastError();  // or the next launch would be blamed for it
  return error;
}

cudaError_t image_to_tensor(const CudaImagePlan& plan, const int32_t* tables, std::span<const CudaImageFrame> frames,
                            void* tensor, cudaStream_t stream) {
  const CudaImageKernel& kernel = plan.kernel;
  const size_t tensor_bytes = static_cast<size_t>(kernel.tensor_size) * element_size(kernel.type);
  for (size_t first = 0; first < frames.size(); first += kCudaImageMostFrames) {
    const size_t count = std::min<size_t>(frames.size() - first, kCudaImageMostFrames);
    Frames batch{};
    std::copy_n(frames.begin() + static_cast<ptrdiff_t>(first), count, batch.frame);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(divide_up(kernel.full_columns, kernel.tile_columns),
                          divide_up(kernel.full_rows + kernel.top % kLines, kTileRows), static_cast<unsigned>(count));
    config.blockDim = dim3(kWarp, kWarps);
    config.stream = stream;
    void* const to = static_cast<std::byte*>(tensor) + first * tensor_bytes;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel_for(kernel.type), kernel, tables, batch, to);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace mmedge
