#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "kernels/device.cuh"
#include "kernels/image_to_tensor/image_to_tensor_cuda.h"
#include "kernels/image_to_tensor/image_to_tensor_passes.cuh"

namespace mmedge {
namespace {

constexpr int kThreads = kImageWarps * kWarp;  // of a block

struct Frames {
  CudaImageFrame frame[kCudaImageMostFrames];
};

struct Shared {
  ResizedStrip strips[kImageWarps];
  ImageSums sums[kImageWarps][kImageWarps][3][kWarp];  // of a warp's group: of its strips, and channels
};

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

// That registers leave room for on a multiprocessor. A GeForce's shared memory has room for two.
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
  const int first_strip = static_cast<int>(blockIdx.y) * kImageWarps, strip = first_strip + warp;
  const int tile = static_cast<int>(blockIdx.x), strips = divide_up(kernel.full_rows, kCudaImageStrip);
  const CudaImageFrame& frame = frames.frame[blockIdx.z];
  auto& shared = shared_memory<Shared>();
  for (int i = lane; i < kImagePad * (kCudaImageStrip + 1); i += kWarp) {
    shared.strips[warp].eights[i / kImagePad * kImagePitch + i % kImagePad] = {0, 0, 0, 0};
  }

  // By columns a warp works on one group, and shares the strips with others where there are more warps than groups.
  const int first_group = tile * kernel.tiling.groups;
  const int groups = min(kernel.tiling.groups, divide_up(kernel.full_columns, kCudaImageGroup) - first_group);
  const int sharing = kImageWarps / groups, group = first_group + warp / sharing, count = kImageWarps / sharing;
  const int group_strip = warp % sharing * count;
  const bool has_group = warp / sharing < groups;
  for (int p = 0, input = 0; p < kernel.plane_count; input += kernel.planes[p++].channels) {
    const CudaImagePlane& plane = kernel.planes[p];
    const int2 bytes = reinterpret_cast<const int2*>(tables + kernel.tiling.bytes_table[p])[tile];
    const int2 rows = strip < strips ? reinterpret_cast<const int2*>(tables + plane.rows_table)[strip] : int2{0, 0};
    for (int span = bytes.x; span < bytes.y; span += kCudaImageSpan) {
      if (rows.y > 0) {
        const auto stride = static_cast<int>(frame.strides[plane.plane]);
        const SourceRows source{advance(frame.planes[plane.plane], rows.x, stride), stride, rows.y, plane.row_bytes};
        const auto* const weights =
            reinterpret_cast<const uint2*>(tables + plane.row_weight_table) + strip * plane.row_steps * kWarp + lane;
        uint4* const to = shared.strips[warp].eights + kImagePad + lane / 4 * kImagePitch + lane % 4 * 2;
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
        const uint4* const eights = shared.strips[group_strip].eights + kImagePad + lane / 4 * kImagePitch +
                                    offset / kImageLaneBytes + begin * kImagePad + lane % 4;
#pragma unroll 1
        for (int c = 0; c < plane.channels; ++c, weights += steps * kWarp) {
          resize_columns(eights, weights, end - begin, count, span > bytes.x,
                         reinterpret_cast<ImageSums(*)[3][kWarp]>(&shared.sums[warp][0][input + c][lane]));
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
      const ImageSums sums = shared.sums[warp][s][k][lane];
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
             return (address | static_cast<uintptr_t>(frame.strides[plane.plane])) % kImageLaneBytes == 0;
           });
  });
}

bool fits(const CudaImageKernel& kernel, const CudaImageFrame& frame) {
  return std::all_of(kernel.planes, kernel.planes + kernel.plane_count,
                     [&](const CudaImagePlane& plane) { return std::in_range<int>(frame.strides[plane.plane]); });
}

dim3 grid_of(const CudaImageKernel& kernel, const CudaImageTiling& tiling, size_t frames) {
  return {static_cast<unsigned>(divide_up(kernel.full_columns, tiling.groups * kCudaImageGroup)),
          static_cast<unsigned>(divide_up(kernel.full_rows, kImageWarps * kCudaImageStrip)),
          static_cast<unsigned>(frames)};
}

// As narrow as leaves all blocks at once on the device: they wait for memory, and the more of them do the better. Else
// the widest, which reads and computes least.
cudaError_t choose_tiling(const CudaImagePlan& plan, int most_blocks, size_t frames, CudaImageTiling& tiling) {
  int device = 0, multiprocessors = 0, shared = 0, reserved = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  // Each with its type: nvcc before 12.9 does not see that they are alike.
  for (const auto& [attribute, value] : {std::pair{cudaDevAttrMultiProcessorCount, &multiprocessors},
                                         std::pair{cudaDevAttrMaxSharedMemoryPerMultiprocessor, &shared},
                                         std::pair{cudaDevAttrReservedSharedMemoryPerBlock, &reserved}}) {
    const cudaError_t failed = cudaDeviceGetAttribute(value, attribute, device);
    if (failed != cudaSuccess) return failed;
  }
  const int blocks = std::min(most_blocks, shared / (static_cast<int>(sizeof(Shared)) + reserved));
  for (const CudaImageTiling& each : plan.tilings) {
    tiling = each;
    const dim3 grid = grid_of(plan.kernel, tiling, frames);
    if (size_t{grid.x} * grid.y * grid.z <= static_cast<size_t>(multiprocessors) * static_cast<size_t>(blocks)) break;
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
  const bool is_aligned = aligned(kernel, frames);
  const auto function = is_aligned ? kernel_for<true>(kernel.type) : kernel_for<false>(kernel.type);
  for (size_t first = 0; first < frames.size(); first += kCudaImageMostFrames) {
    const size_t count = std::min<size_t>(frames.size() - first, kCudaImageMostFrames);
    Frames batch{};
    std::copy_n(frames.begin() + static_cast<ptrdiff_t>(first), count, batch.frame);
    cudaError_t error = choose_tiling(plan, is_aligned ? kBlocks<true> : kBlocks<false>, count, kernel.tiling);
    if (error != cudaSuccess) return error;
    cudaLaunchConfig_t config{};
    config.gridDim = grid_of(kernel, kernel.tiling, count);
    config.blockDim = dim3(kWarp, kImageWarps);
    config.stream = stream;
    void* const to = static_cast<std::byte*>(tensor) + first * tensor_bytes;
    error = cudaLaunchKernelEx(&config, function, kernel, tables, batch, to);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace mmedge
