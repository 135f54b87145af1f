#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "kernels/device.cuh"
#include "kernels/image_to_tensor/image_to_tensor_cuda.h"
#include "kernels/matrix.cuh"

namespace mmedge {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;           // of a block
constexpr int kLaneBytes = kCudaImageChunk / kCudaImageStrip;  // of a row
constexpr int kPad = kCudaImageColumnStep / kLaneBytes, kPitch = kCudaImageSpan / kLaneBytes + kPad;

struct Frames {
  CudaImageFrame frame[kCudaImageMostFrames];
};

// Of one channel, a lane's row and its columns 2t and 2t + 1 of a group.
struct Sums {
  int of_column[2];
};

// What a warp has resized by rows, in 1/128 level: of eight neighbouring bytes of a row the low bytes of four results,
// the high ones, and the same of the other four. Zeros lie before and after each row.
struct Resized {
  uint4 eights[kPad + kCudaImageStrip * kPitch];
};

struct Shared {
  Resized strips[kWarps];
  Sums sums[kWarps][kWarps][3][kWarp];  // of the group and up to as many strips that a warp resizes by columns
};

// The lane's bytes of four rows.
struct Bytes {
  uint2 of_row[4];
};

// `count` rows on. In one instruction, where the compiler makes four.
__device__ const uint8_t* advance(const uint8_t* from, int count, int stride) {
#ifdef __CUDA_ARCH__
  const uint8_t* to;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(to) : "r"(count), "r"(stride), "l"(from));
  return to;
#else
  return from + static_cast<int64_t>(count) * stride;
#endif
}

// Of rows that are aligned to a lane's bytes. Each byte is read once: L1 is for weights.
__device__ void load(const uint8_t* from, int stride, Bytes& bytes) {
#pragma unroll
  for (int i = 0; i < 4; ++i) bytes.of_row[i] = __ldcs(reinterpret_cast<const uint2*>(advance(from, i, stride)));
}

// Of the first `rows` rows, the first `left` bytes, and zeros. `before`: bytes of a row that lie before these.
__device__ Bytes load_part(const uint8_t* from, int stride, int before, int left, int rows) {
  const bool inner = before >= 3 && left >= kLaneBytes + 3;  // so that whole words around them may be read
  Bytes bytes;
#pragma unroll
  for (int i = 0; i < 4; ++i, from = advance(from, 1, stride)) {
    uint64_t row = 0;
    if (inner && i < rows) {
      const auto off = static_cast<unsigned>(reinterpret_cast<uintptr_t>(from) % 4);
      const auto* const words = reinterpret_cast<const unsigned*>(from - off);
      const unsigned low = __ldcs(words), middle = __ldcs(words + 1), high = off == 0 ? 0 : __ldcs(words + 2);
      bytes.of_row[i] = {__funnelshift_r(low, middle, 8 * off), __funnelshift_r(middle, high, 8 * off)};
      continue;
    }
#pragma unroll 1
    for (int k = i < rows ? min(left, kLaneBytes) - 1 : -1; k >= 0; --k) row = row << 8 | from[k];
    bytes.of_row[i] = {static_cast<unsigned>(row), static_cast<unsigned>(row >> 32)};
  }
  return bytes;
}

// Byte i of row r becomes byte r of word i.
__device__ void transpose(unsigned a, unsigned b, unsigned c, unsigned d, unsigned (&words)[4]) {
  const unsigned low_ab = __byte_perm(a, b, 0x5140), high_ab = __byte_perm(a, b, 0x7362);
  const unsigned low_cd = __byte_perm(c, d, 0x5140), high_cd = __byte_perm(c, d, 0x7362);
  words[0] = __byte_perm(low_ab, low_cd, 0x5410);
  words[1] = __byte_perm(low_ab, low_cd, 0x7632);
  words[2] = __byte_perm(high_ab, high_cd, 0x5410);
  words[3] = __byte_perm(high_ab, high_cd, 0x7632);
}

// Rounds the lane's bytes of a row, columns j and j + 8 in sums[j] with the low bytes of the weights and with the high
// ones, scaled so that they are the upper half of a word.
__device__ void store(const int (&sums)[kLaneBytes][4], unsigned scale, uint4* resized) {
  unsigned low[4], high[4];
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    unsigned values[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto& sum = sums[word % 2 * 4 + i];
      values[i] = static_cast<unsigned>(sum[word / 2]) * scale +
                  (static_cast<unsigned>(sum[word / 2 + 2]) * (scale << 8) + 0x8000U);
    }
    const unsigned two = __byte_perm(values[0], values[1], 0x7362);
    const unsigned others = __byte_perm(values[2], values[3], 0x7362);
    low[word] = __byte_perm(two, others, 0x5410);
    high[word] = __byte_perm(two, others, 0x7632);
  }
  resized[0] = {low[0], high[0], low[1], high[1]};
  resized[1] = {low[2], high[2], low[3], high[3]};
}

// A strip's source rows.
struct Source {
  const uint8_t* data;
  int stride, rows, row_bytes;
};

__device__ void add_products(const unsigned (&columns)[2][4], uint2 weights, int (&sums)[kLaneBytes][4]) {
  const unsigned a[] = {weights.x, weights.y};
#pragma unroll
  for (int j = 0; j < kLaneBytes; ++j) {
    const unsigned b[] = {columns[j / 4][j % 4]};
    multiply_bytes(a, b, sums[j]);
  }
}

__device__ void turn(const Bytes& bytes, unsigned (&columns)[2][4]) {
  const auto& row = bytes.of_row;
  transpose(row[0].x, row[1].x, row[2].x, row[3].x, columns[0]);
  transpose(row[0].y, row[1].y, row[2].y, row[3].y, columns[1]);
}

// A strip of output rows, of bytes `begin` to `end`. `weights` are the lane's of the first product, `resized` is where
// its first eight bytes go. What is past the last row or a row's end has weights of 0.
template <bool kAligned>
__device__ void resize_rows(const Source& source, const uint2* weights, unsigned scale, int begin, int end, int lane,
                            uint4* resized) {
  const int lane_row = lane % 4 * 4, steps = divide_up(source.rows, kCudaImageRowStep);
  int byte = begin + lane / 4 * kLaneBytes, row = lane_row, step = steps;
  const uint8_t* from = advance(source.data + byte, lane_row, source.stride);
  int sums[kLaneBytes][4] = {};
  Bytes bytes{};
  uint2 weight = *weights;
  const auto load_rows = [&] {
    if constexpr (kAligned) {
      if (row < source.rows && byte < end) load(from, source.stride, bytes);
    } else {
      bytes = load_part(from, source.stride, byte, source.row_bytes - byte, source.rows - row);
    }
  };
  load_rows();
#pragma unroll 1
  while (true) {
    unsigned columns[2][4];
    turn(bytes, columns);
    // What comes next, perhaps of the next chunk.
    row += kCudaImageRowStep;
    from = advance(from, kCudaImageRowStep, source.stride);
    const bool ends = --step == 0;
    if (ends) {
      row = lane_row;
      byte += kCudaImageChunk;
      from = advance(from + kCudaImageChunk, -steps * kCudaImageRowStep, source.stride);
    }
    load_rows();
    add_products(columns, weight, sums);
    weight = weights[(ends ? 0 : steps - step) * kWarp];
    if (!ends) continue;
    step = steps;
    store(sums, scale, resized);
    begin += kCudaImageChunk;
    if (begin >= end) return;
    resized += kCudaImageChunk / kLaneBytes;
#pragma unroll
    for (auto& sum : sums) sum[0] = sum[1] = sum[2] = sum[3] = 0;
  }
}

// One channel of a group of output columns, of `steps` products, of `count` strips. `weights` are the lane's of the
// first product, and so are `eights` of the first strip.
__device__ void resize_columns(const uint4* eights, const uint4* weights, int steps, int count, bool more,
                               Sums (*sums)[3][kWarp]) {
  int low[kWarps][4] = {}, high[kWarps][4] = {};  // with those bytes of the weights
#pragma unroll 1
  for (; steps > 0; --steps) {
    const uint4 b = *weights;
    weights += kWarp;
#pragma unroll
    for (int s = 0; s < kWarps; ++s) {
      if (s == count) break;
      const uint4 a = eights[s * (sizeof(Resized) / sizeof(uint4))];
      multiply_bytes({a.x, a.y, a.z, a.w}, {b.x, b.y}, low[s]);
      multiply_bytes({a.x, a.y, a.z, a.w}, {b.z, b.w}, high[s]);
    }
    eights += kPad;
  }
#pragma unroll
  for (int s = 0; s < kWarps; ++s) {
    if (s == count) break;
    Sums sum{};
    if (more) sum = sums[s][0][0];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum.of_column[i] += low[s][i] + ((low[s][i + 2] + high[s][i]) << 8) + (high[s][i + 2] << 16);
    }
    sums[s][0][0] = sum;
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

// A pixel, from the sums of its inputs; `at` is its element.
template <class Element>
__device__ void finish(const CudaImageKernel& kernel, const int (&inputs)[3], bool inside, int at, Element* tensor) {
  float values[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    values[c] = kernel.offset[c];
#pragma unroll
    for (int k = 0; k < 3; ++k) values[c] = fmaf(static_cast<float>(inputs[k]), kernel.factor[c][k], values[c]);
    values[c] = inside ? fminf(fmaxf(values[c], kernel.least[c]), kernel.most[c]) : kernel.pad[c];
  }
  tensor[at + kernel.channel_offset[0]] = convert<Element>(values[0], kernel.zero_point);
  if (kernel.channels == 1) return;
  tensor[at + kernel.channel_offset[1]] = convert<Element>(values[1], kernel.zero_point);
  tensor[at + kernel.channel_offset[2]] = convert<Element>(values[2], kernel.zero_point);
}

// That a multiprocessor holds; on a GeForce shared memory has room for no more than two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
template <bool kAligned>
constexpr int kBlocks = 2;
#else
template <bool kAligned>
constexpr int kBlocks = kAligned ? 6 : 4;
#endif

template <class Element, bool kAligned>
__global__ void __launch_bounds__(kThreads, kBlocks<kAligned>)
    convert_frames(const __grid_constant__ CudaImageKernel kernel, const int32_t* tables,
                   const __grid_constant__ Frames frames, void* tensors) {
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int first_strip = static_cast<int>(blockIdx.y) * kWarps, strip = first_strip + warp;
  const int tile = static_cast<int>(blockIdx.x), strips = divide_up(kernel.full_rows, kCudaImageStrip);
  const CudaImageFrame& frame = frames.frame[blockIdx.z];
  auto& shared = shared_memory<Shared>();
  for (int i = lane; i < kPad * (kCudaImageStrip + 1); i += kWarp) {
    shared.strips[warp].eights[i / kPad * kPitch + i % kPad] = {0, 0, 0, 0};
  }

  // By columns a warp works on one group, and shares the strips with others where there are more warps than groups.
  const int first_group = tile * kernel.tiling.groups;
  const int groups = min(kernel.tiling.groups, divide_up(kernel.full_columns, kCudaImageGroup) - first_group);
  const int sharing = kWarps / groups, group = first_group + warp / sharing, count = kWarps / sharing;
  const int group_strip = warp % sharing * count;
  const bool has_group = warp / sharing < groups;
  for (int p = 0, input = 0; p < kernel.plane_count; input += kernel.planes[p++].channels) {
    const CudaImagePlane& plane = kernel.planes[p];
    const int2 bytes = reinterpret_cast<const int2*>(tables + kernel.tiling.bytes_table[p])[tile];
    const int2 rows = strip < strips ? reinterpret_cast<const int2*>(tables + plane.rows_table)[strip] : int2{0, 0};
    for (int span = bytes.x; span < bytes.y; span += kCudaImageSpan) {
      if (rows.y > 0) {
        const auto stride = static_cast<int>(frame.strides[plane.plane]);
        const Source source{advance(frame.planes[plane.plane], rows.x, stride), stride, rows.y, plane.row_bytes};
        const auto* const weights =
            reinterpret_cast<const uint2*>(tables + plane.row_weight_table) + strip * plane.row_steps * kWarp + lane;
        uint4* const to = shared.strips[warp].eights + kPad + lane / 4 * kPitch + lane % 4 * 2;
        const int span_end = min(bytes.y, span + kCudaImageSpan);
        resize_rows<kAligned>(source, weights, plane.scale, span, span_end, lane, to);
      }
      __syncthreads();
      if (has_group) {
        const int offset = tables[plane.first_byte_table + group] - span, steps = plane.column_steps;
        const int begin = max(-offset, 0) / kCudaImageColumnStep;
        const int end = min(steps, divide_up(kCudaImageSpan - offset, kCudaImageColumnStep));
        const auto* weights = reinterpret_cast<const uint4*>(tables + plane.column_weight_table) +
                              (group * plane.channels * steps + begin) * kWarp + lane;
        const uint4* const eights = shared.strips[group_strip].eights + kPad + lane / 4 * kPitch + offset / kLaneBytes +
                                    begin * kPad + lane % 4;
#pragma unroll 1
        for (int c = 0; c < plane.channels; ++c, weights += steps * kWarp) {
          resize_columns(eights, weights, end - begin, count, span > bytes.x,
                         reinterpret_cast<Sums(*)[3][kWarp]>(&shared.sums[warp][0][input + c][lane]));
        }
      }
      __syncthreads();
    }
  }

  if (!has_group) return;
  Element* const tensor = static_cast<Element*>(tensors) + static_cast<size_t>(blockIdx.z) * kernel.tensor_size;
  // As the frame lies.
  const int column = group * kCudaImageGroup + lane % 4 * 2;
  int row = (first_strip + group_strip) * kCudaImageStrip + lane / 4;
  bool inside[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) inside[i] = column + i >= kernel.left && column + i < kernel.left + kernel.columns;
  const bool both = column + 1 < kernel.full_columns;
  if (column >= kernel.full_columns) return;
#pragma unroll 1
  for (int s = 0; s < count && row < kernel.full_rows; ++s, row += kCudaImageStrip) {
    int inputs[2][3] = {};
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (k >= kernel.inputs) break;
      const Sums sums = shared.sums[warp][s][k][lane];
      inputs[0][k] = sums.of_column[0];
      inputs[1][k] = sums.of_column[1];
    }
    const bool of_picture = row >= kernel.top && row < kernel.top + kernel.rows;
    const int at = kernel.origin + row * kernel.row_step + column * kernel.column_step;
    finish(kernel, inputs[0], of_picture && inside[0], at, tensor);
    if (both) finish(kernel, inputs[1], of_picture && inside[1], at + kernel.column_step, tensor);
  }
}

template <bool kAligned>
auto kernel_for(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return convert_frames<__half, kAligned>;
    case ElementType::kUint8:
      return convert_frames<uint8_t, kAligned>;
    case ElementType::kInt8:
      return convert_frames<int8_t, kAligned>;
    default:
      return convert_frames<float, kAligned>;
  }
}

// Whether all that lanes read are eight bytes of four rows, aligned.
bool aligned(const CudaImageKernel& kernel, std::span<const CudaImageFrame> frames) {
  return std::all_of(kernel.planes, kernel.planes + kernel.plane_count, [&](const CudaImagePlane& plane) {
    return plane.whole && std::all_of(frames.begin(), frames.end(), [&](const CudaImageFrame& frame) {
             const auto address = reinterpret_cast<uintptr_t>(frame.planes[plane.plane]);
             return (address | static_cast<uintptr_t>(frame.strides[plane.plane])) % kLaneBytes == 0;
           });
  });
}

bool fits(const CudaImageKernel& kernel, const CudaImageFrame& frame) {
  return std::all_of(kernel.planes, kernel.planes + kernel.plane_count,
                     [&](const CudaImagePlane& plane) { return std::in_range<int>(frame.strides[plane.plane]); });
}

dim3 grid_of(const CudaImageKernel& kernel, const CudaImageTiling& tiling, size_t frames) {
  return {static_cast<unsigned>(divide_up(kernel.full_columns, tiling.groups * kCudaImageGroup)),
          static_cast<unsigned>(divide_up(kernel.full_rows, kWarps * kCudaImageStrip)), static_cast<unsigned>(frames)};
}

// As narrow as leaves all blocks at once on the device: they wait for memory, and the more of them do the better. Else
// the widest, which reads and computes least.
cudaError_t choose_tiling(const CudaImagePlan& plan, size_t frames, CudaImageTiling& tiling) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  for (const CudaImageTiling& each : plan.tilings) {
    tiling = each;
    const dim3 grid = grid_of(plan.kernel, tiling, frames);
    if (size_t{grid.x} * grid.y * grid.z <= static_cast<size_t>(multiprocessors) * kBlocks<true>) break;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t check_image_to_tensor() {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel_for<true>(ElementType::kFloat32));
  if (error != cudaSuccess) cudaGetLastError();  // or the next launch would be blamed for it
  return error;
}

cudaError_t image_to_tensor(const CudaImagePlan& plan, const int32_t* tables, std::span<const CudaImageFrame> frames,
                            void* tensor, cudaStream_t stream) {
  CudaImageKernel kernel = plan.kernel;
  const size_t tensor_bytes = static_cast<size_t>(kernel.tensor_size) * element_size(kernel.type);
  if (!std::all_of(frames.begin(), frames.end(), [&](const auto& frame) { return fits(kernel, frame); })) {
    return cudaErrorInvalidValue;
  }
  const auto function = aligned(kernel, frames) ? kernel_for<true>(kernel.type) : kernel_for<false>(kernel.type);
  for (size_t first = 0; first < frames.size(); first += kCudaImageMostFrames) {
    const size_t count = std::min<size_t>(frames.size() - first, kCudaImageMostFrames);
    Frames batch{};
    std::copy_n(frames.begin() + static_cast<ptrdiff_t>(first), count, batch.frame);
    cudaError_t error = choose_tiling(plan, count, kernel.tiling);
    if (error != cudaSuccess) return error;
    cudaLaunchConfig_t config{};
    config.gridDim = grid_of(kernel, kernel.tiling, count);
    config.blockDim = dim3(kWarp, kWarps);
    config.stream = stream;
    void* const to = static_cast<std::byte*>(tensor) + first * tensor_bytes;
    error = cudaLaunchKernelEx(&config, function, kernel, tables, batch, to);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace mmedge
