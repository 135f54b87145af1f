// Interleaved samples to one channel of float32.
//
// | input                                     | output                                                   |
// |-------------------------------------------|----------------------------------------------------------|
// | int16, 1 to 8 channels                    | (their sum) / (32768 channels): exact but for one rounding |
// | float32 within +-kMostAmplitude, the same | (their sum, from the first on) / channels                |
//
// Roofline: 2 or 4 bytes per sample in, 4 out, 2 or 3 operations; memory decides.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mmedge {

constexpr float kMostAmplitude = 1e9F;  // its power spectrum still fits float32

// Returns `frames`, or the index of the first frame with a sample that is NaN or beyond kMostAmplitude; output is then
// of no use.
size_t to_mono(const float* input, size_t frames, size_t channels, float* output);
void to_mono(const int16_t* input, size_t frames, size_t channels, float* output);

}  // namespace mmedge
