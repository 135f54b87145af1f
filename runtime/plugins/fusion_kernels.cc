#include "fusion_kernels.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/gated_fusion/gated_fusion.h"
#include "kernels/instruction_set.h"
#include "node_values.h"
#include "tensor.h"

namespace mmedge {
namespace {

// On the session's own threads where there is more than one chunk of rows.
void compute(const OrtApi* api, OrtKernelContext* context, std::span<const FusionModality> modalities,
             const uint8_t* presence, size_t rows, size_t dimension, float epsilon) {
  size_t outputs = 0;
  check_status(api, api->KernelContext_GetOutputCount(context, &outputs));
  auto* const y = output<float>(api, context, 0, rows, dimension);
  float* const alpha = outputs > 1 ? output<float>(api, context, 1, rows, modalities.size()) : nullptr;
  const Fusion fusion = {modalities, presence, y, alpha, dimension, epsilon};
  if (rows <= kFusionChunk) return gated_fusion(fusion, 0, rows);
  struct Call {
    const Fusion& fusion;
    size_t rows;
    std::atomic<bool> out_of_memory;
  } call{fusion, rows, false};
  const auto chunk = [](void* data, size_t index) {
    auto& [fused, count, failed] = *static_cast<Call*>(data);
    try {
      const size_t first = index * kFusionChunk;
      gated_fusion(fused, first, std::min(first + kFusionChunk, count));
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  };
  const size_t chunks = (rows + kFusionChunk - 1) / kFusionChunk;
  check_status(api, api->KernelContext_ParallelFor(context, chunk, chunks, 0, &call));
  if (call.out_of_memory) throw std::bad_alloc();
}

size_t dimension_of(const Floats& bias) {
  if (bias.count == 0) fail(MME_INVALID_ARGUMENT, "GatedFusion: a bias is empty; expected D numbers, D at least 1");
  return bias.count;
}

// ---- GatedFusion ----

// The seven inputs of modality m, in the order of the graph; x's is not looked at.
FusionModality parameters(size_t m, size_t dimension, const Floats* inputs) {
  const size_t wanted[] = {0, inputs[1].count, dimension, dimension, dimension, dimension, 1};
  for (size_t i = 1; i < kFusionInputs; ++i) {
    if (inputs[i].count != wanted[i] || inputs[i].count % (i == 1 ? dimension : 1) != 0) {
      fail(MME_INVALID_ARGUMENT, "GatedFusion: input ", 1 + m * kFusionInputs + i, " holds ", inputs[i].count,
           " numbers; expected weight [D, F], bias, norm_weight, norm_bias [D], gate_weight [1, D] and gate_bias [1] of"
           " D = ",
           dimension);
    }
  }
  return {nullptr,        inputs[1].data, nullptr,
          inputs[2].data, inputs[3].data, inputs[4].data,
          inputs[5].data, inputs[6].data, inputs[1].count / dimension,
          nullptr};
}

class GatedFusionKernel final : public FusionKernel {
 public:
  GatedFusionKernel(const OrtApi* api, const OrtKernelInfo* info)
      : FusionKernel(api),
        epsilon_(read_epsilon(api, info)),
        modalities_(count_modalities(api, info, "GatedFusion", kFusionInputs)) {
    size_t packed_size = 0;
    for (size_t m = 0; m < modalities_.size(); ++m) {
      Floats found[kFusionInputs] = {};
      if (!constants(info, m, found)) continue;
      if (dimension_ == 0) dimension_ = dimension_of(found[2]);
      modalities_[m] = parameters(m, dimension_, found);
      packed_size += packed_fusion_weight_size(dimension_, modalities_[m].features);
    }
    pack(packed_size);
  }

  void run(OrtKernelContext* context) const override {
    // Kept by the thread: one object serves all threads of a session.
    thread_local std::vector<FusionModality> modalities;
    modalities.assign(modalities_.begin(), modalities_.end());
    size_t dimension = dimension_;
    for (size_t m = 0; m < modalities.size(); ++m) {
      if (modalities[m].weight == nullptr) modalities[m] = computed(context, m, dimension);
    }
    const auto [presence, rows] = read_presence(api_, context, modalities.size());
    for (size_t m = 0; m < modalities.size(); ++m) {
      const auto x = values<float>(api_, input(api_, context, 1 + m * kFusionInputs));
      check_features(m, x.count, rows, modalities[m].features);
      modalities[m].x = x.data;
    }
    compute(api_, context, modalities, presence, rows, dimension, epsilon_);
  }

 private:
  // Whether all six parameters of modality m are constants of the graph, and those.
  bool constants(const OrtKernelInfo* info, size_t m, Floats* found) const {
    for (size_t i = 1; i < kFusionInputs; ++i) {
      const OrtValue* value = constant(api_, info, 1 + m * kFusionInputs + i);
      if (value == nullptr) return false;
      found[i] = values<float>(api_, value);
    }
    return true;
  }

  // The parameters of modality m as this run computed them.
  FusionModality computed(const OrtKernelContext* context, size_t m, size_t& dimension) const {
    Floats found[kFusionInputs] = {};
    for (size_t i = 1; i < kFusionInputs; ++i) {
      found[i] = values<float>(api_, input(api_, context, 1 + m * kFusionInputs + i));
    }
    if (dimension == 0) dimension = dimension_of(found[2]);
    return parameters(m, dimension, found);
  }

  void pack(size_t size) {
    const auto count = static_cast<int64_t>(size);
    packed_.resize(ElementType::kFloat32, {&count, 1});
    auto* next = static_cast<float*>(packed_.data());
    for (FusionModality& modality : modalities_) {
      if (modality.weight == nullptr) continue;
      pack_fusion_weight(modality.weight, dimension_, modality.features, next);
      modality.packed = next;
      next += packed_fusion_weight_size(dimension_, modality.features);
    }
  }

  float epsilon_;
  size_t dimension_ = 0;                    // 0: no modality is constant
  std::vector<FusionModality> modalities_;  // without x; weight is NULL where the parameters are computed
  Tensor packed_;
};

// ---- QGatedFusion ----

// Of input i of a modality: x and its zero point, the weight, and the rest.
ONNXTensorElementDataType q_type(size_t i) {
  if (i == 0 || i == 2) return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  return i == 3 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

class QGatedFusionKernel final : public FusionKernel {
 public:
  QGatedFusionKernel(const OrtApi* api, const OrtKernelInfo* info)
      : FusionKernel(api),
        epsilon_(read_epsilon(api, info)),
        parts_(count_modalities(api, info, "QGatedFusion", kQFusionInputs)) {
    for (size_t m = 0; m < parts_.size(); ++m) read(info, m);
  }

  void run(OrtKernelContext* context) const override {
    thread_local std::vector<FusionModality> modalities;
    thread_local std::vector<FusionIntegers> integers;
    modalities.resize(parts_.size());
    integers.resize(parts_.size());
    const auto [presence, rows] = read_presence(api_, context, parts_.size());
    for (size_t m = 0; m < parts_.size(); ++m) {
      const auto x = values<uint8_t>(api_, input(api_, context, 1 + m * kQFusionInputs));
      check_features(m, x.count, rows, parts_[m].modality.features);
      integers[m] = parts_[m].integers;
      integers[m].x = x.data;
      modalities[m] = parts_[m].modality;
      modalities[m].integers = &integers[m];
    }
    compute(api_, context, modalities, presence, rows, dimension_, epsilon_);
  }

 private:
  struct Part {
    FusionModality modality;  // without x
    FusionIntegers integers;  // without x
    Tensor packed;
    std::vector<int32_t> offset;
    std::vector<float> scale;
  };

  void read(const OrtKernelInfo* info, size_t m) {
    for (size_t i = 0; i < kQFusionInputs; ++i) {
      check_type(api_, info, "QGatedFusion", 1 + m * kQFusionInputs + i, q_type(i));
    }
    const OrtValue* given[kQFusionInputs] = {};
    for (size_t i = 1; i < kQFusionInputs; ++i) {
      given[i] = constant(api_, info, 1 + m * kQFusionInputs + i);
      if (given[i] == nullptr) {
        fail(MME_INVALID_ARGUMENT, "QGatedFusion: input ", 1 + m * kQFusionInputs + i,
             " is computed; expected all but presence and each x to be constants of the graph");
      }
    }
    Floats floats[kQFusionInputs] = {};
    for (const size_t i : {1, 4, 5, 6, 7, 8, 9}) floats[i] = values<float>(api_, given[i]);
    const auto zero = values<uint8_t>(api_, given[2]);
    const auto weight = values<int8_t>(api_, given[3]);
    if (m == 0) dimension_ = dimension_of(floats[5]);
    const size_t found[] = {floats[1].count, zero.count,      floats[4].count, floats[5].count,
                            floats[6].count, floats[7].count, floats[8].count, floats[9].count};
    const size_t d = dimension_, wanted[] = {1, 1, d, d, d, d, d, 1}, features = weight.count / d;
    if (!std::ranges::equal(found, wanted) || weight.count % d != 0 || features > kFusionMostFeatures) {
      fail(MME_INVALID_ARGUMENT, "QGatedFusion: the inputs of modality ", m, " do not fit D = ", d,
           "; expected x_scale [], x_zero_point [], weight [D, F], weight_scale, bias, norm_weight, norm_bias [D], "
           "gate_weight [1, D], gate_bias [1], and F up to ",
           kFusionMostFeatures);
    }
    Part& part = parts_[m];
    part.modality = {nullptr,        nullptr,        nullptr,        floats[5].data, floats[6].data,
                     floats[7].data, floats[8].data, floats[9].data, features,       nullptr};
    const auto size = static_cast<int64_t>(packed_fusion_integers_size(d, features));
    part.packed.resize(ElementType::kInt32, {&size, 1});
    part.offset.resize(d + 15);  // readable up to D rounded up to 16
    part.scale.resize(d + 15);
    auto* const packed = static_cast<int32_t*>(part.packed.data());
    pack_fusion_integers(weight.data, d, features, *zero.data, packed, part.offset.data());
    std::transform(floats[4].data, floats[4].data + d, part.scale.begin(),
                   [step = *floats[1].data](float scale) { return step * scale; });
    part.integers = {nullptr, packed, part.offset.data(), part.scale.data()};
  }

  float epsilon_;
  size_t dimension_ = 0;
  std::vector<Part> parts_;
};

Operator q_gated_fusion_operator(const OrtApi* api) {
  Operator op = fusion_operator(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  op.bias = 6;
  op.GetName = [](const OrtCustomOp*) { return "QGatedFusion"; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) {  // floats and integers in turn
    return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return static_cast<int>(kQFusionInputs); };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.CreateKernelV2 = create_kernel<QGatedFusionKernel>;
  return op;
}

}  // namespace

std::vector<Operator> make_operators(const OrtApi* api) {
  choose_instruction_set();
  Operator gated_fusion = gated_fusion_operator(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  gated_fusion.CreateKernelV2 = create_kernel<GatedFusionKernel>;
  return {gated_fusion, q_gated_fusion_operator(api)};
}

void set_session_options(const OrtApi* api, OrtSessionOptions* options) {
  // It makes uint8 of int8 weights, for kernels that sum in 32 bits, with VNNI too, where it would only be slower.
  if (sums_bytes_in_16_bits()) check_status(api, api->AddSessionConfigEntry(options, "session.x64quantprecision", "1"));
}

}  // namespace mmedge
