// The samples of an mme_audio, checked and brought to one channel of float32.
#pragma once

#include "mmedge.h"

namespace mmedge {

constexpr int kLeastRate = 1000, kMostRate = 768000;

// Throws MME_INVALID_ARGUMENT or MME_BAD_INPUT unless the description is usable. No samples at all are.
void check_audio(const mme_audio& audio);
// Writes audio.frames floats; throws MME_BAD_INPUT naming a sample that is not finite.
void read_mono(const mme_audio& audio, float* output);

}  // namespace mmedge
