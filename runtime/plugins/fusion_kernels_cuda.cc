// GatedFusion on CUDA devices, for libmmedge_onnxruntime_cuda.so.
#include <algorithm>
#include <bit>
#include <mutex>
#include <utility>
#include <vector>

#include "fusion_kernels.h"
#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/gated_fusion/gated_fusion_cuda.h"
#include "node_values.h"

namespace mmedge {
namespace {

// The tests' emulator runs a kernel on host memory, which is what the CPU's provider hands it.
#ifdef MMEDGE_EMULATED
constexpr const char* kProvider = "CPUExecutionProvider";
#else
constexpr const char* kProvider = "CUDAExecutionProvider";
#endif

void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) fail(MME_ENGINE_FAILED, "GatedFusion: CUDA: ", cudaGetErrorString(error));
}

// Of the device that is current where it is made.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(size_t bytes) { check_cuda(cudaMalloc(&data_, bytes)); }
  template <class T>
  explicit DeviceMemory(const std::vector<T>& values) : DeviceMemory(values.size() * sizeof(T)) {
    check_cuda(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyDefault));
  }
  DeviceMemory(DeviceMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { static_cast<void>(cudaFree(data_)); }  // waits for what uses it

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

// What runs on one stream runs in order, so that all its runs may use the same memory. A larger batch gets memory of
// its own: a CUDA graph that was captured with a smaller one goes on using what was there then.
struct Scratch {
  cudaStream_t stream;
  size_t rows;  // that there is memory for
  DeviceMemory z, tickets;
};

float to_float(float value) { return value; }
float to_float(__half value) { return __half2float(value); }

// A constant of the graph, wherever it lies.
template <class Element>
std::vector<Element> read_constant(const OrtApi* api, const OrtKernelInfo* info, size_t index) {
  const OrtValue* value = constant(api, info, index);
  if (value == nullptr) {
    fail(MME_INVALID_ARGUMENT, "GatedFusion: input ", index,
         " is computed; on CUDA devices all but presence and each x must be constants of the graph");
  }
  const auto from = values<Element>(api, value);
  std::vector<Element> read(from.count);
  check_cuda(cudaMemcpy(read.data(), from.data, read.size() * sizeof(Element), cudaMemcpyDefault));
  return read;
}

template <class Element>
class CudaFusionKernel final : public FusionKernel {
 public:
  CudaFusionKernel(const OrtApi* api, const OrtKernelInfo* info) : FusionKernel(api) {
    const size_t modalities = count_modalities(api, info, "GatedFusion", kFusionInputs);
    if (modalities > size_t{kCudaFusionMostModalities}) {
      fail(MME_INVALID_ARGUMENT, "GatedFusion fuses ", modalities, " modalities; expected up to ",
           kCudaFusionMostModalities, " on CUDA devices");
    }
    fusion_.modality_count = static_cast<int>(modalities);
    fusion_.epsilon = read_epsilon(api, info);
    const ONNXTensorElementDataType type = input_type(api, info, 1);
    for (size_t i = 1; i < 1 + modalities * kFusionInputs; ++i) check_type(api, info, "GatedFusion", i, type);
    for (size_t m = 0; m < modalities; ++m) read(info, m);
  }

  void run(OrtKernelContext* context) const override {
    CudaFusion<Element> fusion = fusion_;
    const auto modalities = static_cast<size_t>(fusion.modality_count);
    const auto [presence, rows] = read_presence(api_, context, modalities);
    if (rows > 4U * 65535U) fail(MME_INVALID_ARGUMENT, "GatedFusion: a batch of ", rows, "; expected up to 262140");
    for (size_t m = 0; m < modalities; ++m) {
      const auto x = values<Element>(api_, input(api_, context, 1 + m * kFusionInputs));
      check_features(m, x.count, rows, static_cast<size_t>(fusion.modalities[m].features));
      fusion.modalities[m].x = x.data;
    }
    size_t outputs = 0;
    check_status(api_, api_->KernelContext_GetOutputCount(context, &outputs));
    fusion.batch = static_cast<int>(rows);
    fusion.presence = presence;
    fusion.y = output<Element>(api_, context, 0, rows, static_cast<size_t>(fusion.dimension));
    fusion.alpha = outputs > 1 ? output<float>(api_, context, 1, rows, modalities) : nullptr;
    void* stream = nullptr;
    check_status(api_, api_->KernelContext_GetGPUComputeStream(context, &stream));
    launch(fusion, static_cast<cudaStream_t>(stream));
  }

 private:
  void read(const OrtKernelInfo* info, size_t m) {
    std::vector<Element> given[kFusionInputs];
    for (size_t i = 1; i < kFusionInputs; ++i) {
      given[i] = read_constant<Element>(api_, info, 1 + m * kFusionInputs + i);
    }
    if (m == 0) fusion_.dimension = static_cast<int>(given[2].size());
    const auto d = static_cast<size_t>(fusion_.dimension);
    const size_t features = d == 0 ? 0 : given[1].size() / d;
    const size_t wanted[] = {0, d * features, d, d, d, d, 1};
    for (size_t i = 1; i < kFusionInputs; ++i) {
      if (d == 0 || given[i].size() != wanted[i] || features > kFusionMostFeatures) {
        fail(MME_INVALID_ARGUMENT, "GatedFusion: input ", 1 + m * kFusionInputs + i, " holds ", given[i].size(),
             " numbers; expected weight [D, F], bias, norm_weight, norm_bias [D], gate_weight [1, D] and gate_bias [1]"
             " of D = ",
             d, ", D at least 1 and F up to ", kFusionMostFeatures);
      }
    }
    auto& modality = fusion_.modalities[m];
    modality.features = static_cast<int>(features);
    std::vector<Element> packed(packed_cuda_fusion_weight_size<Element>(fusion_.dimension, modality.features));
    pack_cuda_fusion_weight(given[1].data(), fusion_.dimension, modality.features, packed.data());
    modality.packed_weight = static_cast<const Element*>(keep(packed));
    const float** const others[] = {&modality.bias, &modality.norm_weight, &modality.norm_bias, &modality.gate_weight,
                                    &modality.gate_bias};
    for (size_t i = 0; i < std::size(others); ++i) {
      std::vector<float> floats(given[2 + i].size());
      std::transform(given[2 + i].begin(), given[2 + i].end(), floats.begin(), [](Element x) { return to_float(x); });
      *others[i] = static_cast<const float*>(keep(floats));
    }
  }

  template <class T>
  const void* keep(const std::vector<T>& values) {
    return parameters_.emplace_back(values).data();
  }

  void launch(CudaFusion<Element>& fusion, cudaStream_t stream) const {
    // Launches of one stream must not part: each leaves the tickets at zero for the next.
    const std::scoped_lock lock(mutex_);
    const auto rows = static_cast<size_t>(fusion.batch);
    const auto found = std::find_if(scratch_.begin(), scratch_.end(),
                                    [&](const Scratch& of) { return of.stream == stream && of.rows >= rows; });
    const Scratch& scratch = found != scratch_.end() ? *found : scratch_.emplace_back(make_scratch(stream, rows));
    fusion.z = static_cast<float*>(scratch.z.data());
    fusion.tickets = static_cast<unsigned*>(scratch.tickets.data());
    check_cuda(gated_fusion(fusion, stream));
  }

  // Of a power of two of rows: what a stream has of all sizes is less than twice the largest.
  Scratch make_scratch(cudaStream_t stream, size_t batch) const {
    const size_t rows = std::bit_ceil(batch), tickets = (rows + 3) / 4 * sizeof(unsigned);
    const auto values = static_cast<size_t>(fusion_.modality_count) * static_cast<size_t>(fusion_.dimension);
    Scratch scratch{stream, rows, DeviceMemory(rows * values * sizeof(float)), DeviceMemory(tickets)};
    check_cuda(cudaMemsetAsync(scratch.tickets.data(), 0, tickets, stream));
    return scratch;
  }

  CudaFusion<Element> fusion_{};  // without what a run brings
  std::vector<DeviceMemory> parameters_;
  mutable std::mutex mutex_;
  mutable std::vector<Scratch> scratch_;
};

OrtStatus* create(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  if (OrtStatus* status = guarded(api, [&] { type = input_type(api, info, 1); })) return status;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return create_kernel<CudaFusionKernel<float>>(op, api, info, kernel);
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
    return create_kernel<CudaFusionKernel<__half>>(op, api, info, kernel);
  }
  return api->CreateStatus(ORT_INVALID_ARGUMENT, "GatedFusion: expected float32 or float16 features on CUDA devices");
}

}  // namespace

std::vector<Operator> make_operators(const OrtApi* api) {
  Operator op = gated_fusion_operator(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
  op.GetExecutionProviderType = [](const OrtCustomOp*) { return kProvider; };
  op.CreateKernelV2 = create;
  return {op};
}

void set_session_options(const OrtApi*, OrtSessionOptions*) {}

}  // namespace mmedge
