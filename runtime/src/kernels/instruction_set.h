// Which SIMD instructions the kernels use: the best this processor has, or no better than MMEDGE_MAX_ISA says ("ssse3",
// "sse4", "avx2", "avx3", "avx3_dl", "neon"), to see on one machine what another would compute.
#pragma once

namespace mmedge {

// To be called before a process's first kernel; later calls do nothing. Throws MME_INVALID_ARGUMENT on a name that
// is none of those.
void choose_instruction_set();

// The name of the instructions in use, such as "AVX3".
const char* instruction_set();

// Whether this is an x86 processor without VNNI, whose fastest way to sum products of bytes cuts off at 16 bits. The
// kernels here avoid it; ONNX Runtime does where it is told to. No environment variable changes the answer.
bool sums_bytes_in_16_bits();

}  // namespace mmedge
