// Gated fusion: one embedding of D features out of the features of the modalities that are present.
//
// Steps, per row of the batch and for each modality m that is present there:
//   1. z = weight_m x_m + bias_m                                                      [D]
//   2. n = (z - mean z) / sqrt(variance z + epsilon) * norm_weight_m + norm_bias_m    layer norm, Ba et al. 2016;
//                                                                                     the variance divides by D
//   3. h_m = max(n, 0)
//   4. s_m = gate_weight_m . h_m + gate_bias_m
//   then over those modalities
//   5. alpha = softmax s
//   6. y = sum of alpha_m h_m; zero where no modality is present
// alpha is written too where it is asked for, 0 for an absent modality.
// An absent modality's x is never read: it may hold anything. A NaN in a present one reaches y.
//
// | x       | weight  | y, alpha, the other parameters | presence | sums of step 1 |
// |---------|---------|--------------------------------|----------|----------------|
// | float32 | float32 | float32                        | bytes    | float32        |
// | uint8   | int8    | float32                        | bytes    | int32          |
//
// Each modality may have its own row. In integers step 1 is z = scale_m (weight_m (x_m - zero_m)) + bias_m, with a
// scale per feature of z; the sum is exact, and so the same on every processor, for up to kFusionMostFeatures features.
// Four products are one instruction with AVX512-VNNI and with NEON's dot product (of x - 128, as sdot takes signed
// bytes only; what that leaves out is in the offset), several without, none of which saturates.
//
// Rounding: products and sums of step 1 in another order than a BLAS takes, variance in two passes. Within 1e-5 of
// float64 for features and weights of the size training leaves them at.
//
// Roofline, batch 1: 4 D (sum of F_m) bytes of weights are read once, 2 D (sum of F_m) operations done: two bytes a
// flop, so the speed is that at which the weights arrive. 512/256/384 -> 256 reads 1.18 MB, which stays in a 2 MB L2;
// at its 64 bytes a cycle that is 18,400 cycles, in integers a quarter of that. Hence the packed form: the weights of
// all modalities in one piece, in the order of reading, which the processor fetches ahead by itself. A batch reuses
// each weight for four rows in registers and for kFusionChunk rows in L2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mmedge {

// Rows computed together. To split a batch between threads, split it here.
constexpr size_t kFusionChunk = 32;

constexpr size_t kFusionMostFeatures = 65536;

struct FusionIntegers {
  const uint8_t* x;       // [B, features]
  const int32_t* packed;  // from pack_fusion_integers, like offset
  const int32_t* offset;  // [D]; like scale readable up to D rounded up to 16
  const float* scale;     // [D]: the step of x times that of the row of weight
};

struct FusionModality {
  const float* x;       // [B, features]; not read, like weight and packed, where `integers` are there
  const float* weight;  // [D, features], row-major: read where `packed` is NULL
  const float* packed;  // the same from pack_fusion_weight
  const float* bias;    // [D], like the three that follow
  const float* norm_weight;
  const float* norm_bias;
  const float* gate_weight;
  const float* gate_bias;  // [1]
  size_t features;
  const FusionIntegers* integers;  // or NULL
};

struct Fusion {
  std::span<const FusionModality> modalities;
  const uint8_t* presence;  // [B, modalities], not 0: present
  float* y;                 // [B, D]
  float* alpha;             // [B, modalities], or NULL
  size_t dimension;         // D, at least 1
  float epsilon;
};

// Floats of one packed weight; a multiple of 16.
size_t packed_fusion_weight_size(size_t dimension, size_t features);
// `packed` must be 64-byte aligned. The same on every processor.
void pack_fusion_weight(const float* weight, size_t dimension, size_t features, float* packed);

// The same in integers: words of four bytes, and what is to be taken from the sums of each row of the weight, for
// `zero`, the stored value of x that means 0. The same on every processor of an architecture.
size_t packed_fusion_integers_size(size_t dimension, size_t features);
void pack_fusion_integers(const int8_t* weight, size_t dimension, size_t features, uint8_t zero, int32_t* packed,
                          int32_t* offset);

// Rows [first, last) of the batch. Any thread, any number at once: scratch belongs to the calling thread, which keeps
// it (kFusionChunk * modalities * D floats) for its next call. Throws std::bad_alloc.
void gated_fusion(const Fusion& fusion, size_t first, size_t last);

}  // namespace mmedge
