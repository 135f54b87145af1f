// The CUDA kernels as C functions for device_kernels.py. Pointers are to device memory unless said otherwise; each
// returns a cudaError_t.
#include <cstdint>
#include <vector>

#include "kernels/gated_fusion/gated_fusion_cuda.h"
#include "kernels/image_to_tensor/image_to_tensor_cuda.h"
#include "kernels/log_mel/log_mel_cuda.h"
#include "kernels/similarity_top_k/similarity_top_k_cuda.h"

namespace {

template <class Element>
void pack(const void* weight, int dimension, int features, void* packed) {
  mmedge::pack_cuda_fusion_weight(static_cast<const Element*>(weight), dimension, features,
                                  static_cast<Element*>(packed));
}

// As device_kernels.py lays them out; of one type for each element.
struct Modality {
  const void *x, *packed_weight;
  const float* scale;
  const int32_t* offset;
  const float *bias, *norm_weight, *norm_bias, *gate_weight, *gate_bias;
  int features;
};

struct Fusion {
  Modality modalities[mmedge::kCudaFusionMostModalities];
  int modality_count, batch, dimension;
  float epsilon;
  const uint8_t* presence;
  void* y;
  float *alpha, *z;
  unsigned* tickets;
};

template <class Element>
int fuse(const Fusion& given, void* stream) {
  mmedge::CudaFusion<Element> fusion{};
  for (int m = 0; m < given.modality_count; ++m) {
    const Modality& of = given.modalities[m];
    fusion.modalities[m] = {static_cast<const Element*>(of.x),
                            static_cast<const Element*>(of.packed_weight),
                            of.scale,
                            of.offset,
                            of.bias,
                            of.norm_weight,
                            of.norm_bias,
                            of.gate_weight,
                            of.gate_bias,
                            of.features};
  }
  fusion.modality_count = given.modality_count;
  fusion.batch = given.batch;
  fusion.dimension = given.dimension;
  fusion.epsilon = given.epsilon;
  fusion.presence = given.presence;
  fusion.y = static_cast<typename mmedge::CudaFusion<Element>::Output*>(given.y);
  fusion.alpha = given.alpha;
  fusion.z = given.z;
  fusion.tickets = given.tickets;
  return mmedge::gated_fusion(fusion, static_cast<cudaStream_t>(stream));
}

}  // namespace

extern "C" {

// `element`: 0 float32, 1 float16, 2 int8. `weight` and `packed` are on the host.
size_t bench_packed_size(int element, int dimension, int features) {
  if (element == 0) return mmedge::packed_cuda_fusion_weight_size<float>(dimension, features);
  if (element == 1) return mmedge::packed_cuda_fusion_weight_size<__half>(dimension, features);
  return mmedge::packed_cuda_fusion_weight_size<int8_t>(dimension, features);
}

void bench_pack(int element, const void* weight, int dimension, int features, void* packed) {
  (element == 0 ? pack<float> : element == 1 ? pack<__half> : pack<int8_t>)(weight, dimension, features, packed);
}

int bench_gated_fusion(int element, const Fusion* fusion, void* stream) {
  return (element == 0 ? fuse<float> : element == 1 ? fuse<__half> : fuse<int8_t>)(*fusion, stream);
}

// Of NV12 frames, to planar float32 (element 0) or float16 (1). Freed by nobody: a benchmark makes a few.
mmedge::CudaImagePlan* bench_image_plan(int frame_width, int frame_height, int width, int height, int element) {
  mmedge::ImageToTensorSpec spec;
  spec.width = width;
  spec.height = height;
  spec.antialias = true;
  spec.type = element == 0 ? mmedge::ElementType::kFloat32 : mmedge::ElementType::kFloat16;
  spec.mean = {0.485F, 0.456F, 0.406F};
  spec.stddev = {0.229F, 0.224F, 0.225F};
  mmedge::ImageGeometry geometry{};
  geometry.format = MME_IMAGE_NV12;
  geometry.width = geometry.region_width = frame_width;
  geometry.height = geometry.region_height = frame_height;
  geometry.color_matrix = MME_COLOR_BT709;
  geometry.color_range = MME_COLOR_LIMITED;
  return new mmedge::CudaImagePlan(mmedge::make_cuda_image_plan(spec, geometry));
}

// The plan's tables, on the host.
const int32_t* bench_image_tables(const mmedge::CudaImagePlan* plan, size_t* count) {
  *count = plan->tables.size();
  return plan->tables.data();
}

// Frames one after the other, without gaps, luma before chroma.
int bench_image_to_tensor(const mmedge::CudaImagePlan* plan, const int32_t* tables, const uint8_t* frames, int count,
                          int frame_width, int frame_height, void* tensor, void* stream) {
  const int64_t luma = int64_t{frame_width} * frame_height;
  std::vector<mmedge::CudaImageFrame> cameras;
  for (int i = 0; i < count; ++i) {
    const uint8_t* const frame = frames + i * (luma * 3 / 2);
    cameras.push_back({{frame, frame + luma, nullptr}, {frame_width, frame_width, 0}});
  }
  return mmedge::image_to_tensor(*plan, tables, cameras, tensor, static_cast<cudaStream_t>(stream));
}

// Centred, of HTK's mel scale from 0 to half the rate; natural logarithms. Freed by nobody, as the plan of an image.
mmedge::CudaLogMelPlan* bench_log_mel_plan(int rate, int n_fft, int hop, int n_mels, float floor) {
  mmedge::LogMelSpec spec{};
  spec.sample_rate = rate;
  spec.n_fft = spec.win_length = n_fft;
  spec.hop_length = hop;
  spec.n_mels = n_mels;
  spec.f_max = rate / 2.0;
  spec.mel_scale = mmedge::MelScale::kHtk;
  spec.mel_norm = mmedge::MelNorm::kNone;
  spec.power = 2;
  spec.center = true;
  spec.padding = mmedge::Padding::kReflect;
  spec.log = mmedge::LogBase::kNatural;
  spec.floor = floor;
  spec.normalize = mmedge::Normalize::kNone;
  return new mmedge::CudaLogMelPlan(mmedge::make_cuda_log_mel_plan(spec));
}

// The plan's numbers and bands, on the host.
const float* bench_log_mel_numbers(const mmedge::CudaLogMelPlan* plan, size_t* count) {
  *count = plan->numbers.size();
  return plan->numbers.data();
}

const int32_t* bench_log_mel_bands(const mmedge::CudaLogMelPlan* plan, size_t* count) {
  *count = plan->bands.size();
  return plan->bands.data();
}

// Clips of as many samples, one after the other, as are their features [n_mels, frames].
int bench_log_mel(const mmedge::CudaLogMelPlan* plan, const float* numbers, const int32_t* bands, const float* samples,
                  int count, int sample_count, float* features, void* stream) {
  const int frames = static_cast<int>(plan->spec.frame_count(static_cast<size_t>(sample_count)));
  std::vector<mmedge::CudaLogMelClip> clips;
  for (int i = 0; i < count; ++i) {
    clips.push_back({samples + int64_t{i} * sample_count, sample_count, frames, frames,
                     features + int64_t{i} * frames * plan->spec.n_mels, nullptr});
  }
  return mmedge::log_mel(*plan, {numbers, bands}, clips, static_cast<cudaStream_t>(stream));
}

// `search`: a CudaSimilarity, on the host.
size_t bench_similarity_candidates(const mmedge::CudaSimilarity* search) {
  return mmedge::cuda_similarity_candidates(*search);
}

int bench_similarity_top_k(const mmedge::CudaSimilarity* search, void* stream) {
  return mmedge::similarity_top_k(*search, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
