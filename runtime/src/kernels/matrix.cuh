// Small matrix products on tensor cores, a whole warp at a time. The lanes share the matrices as PTX's mma.sync does:
// with g = lane / 4 and t = lane % 4, a lane holds
//   of a, 16 rows: rows g and g + 8, in turn, first of the left half of the columns, then of the right;
//   of b, 8 columns: column g; first of the upper half of the rows, then of the lower;
//   of the sums, 16 x 8: (g, 2t), (g, 2t + 1), (g + 8, 2t) and (g + 8, 2t + 1);
// where a register has neighbouring columns of a, or rows of b: those that t numbers. All lanes must come to a product
// together: volatile keeps compilers from putting one under a condition that lanes answer differently.
#pragma once

#include "kernels/device.cuh"

#ifdef __CUDACC__
namespace mmedge {

// sums += a b: of unsigned bytes, 16 columns of a; registers of four. Sums wrap.
__device__ inline void multiply_bytes(const unsigned (&a)[2], const unsigned (&b)[1], int (&sums)[4]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.u8.u8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}

// The same of 32 columns of a.
__device__ inline void multiply_bytes(const unsigned (&a)[4], const unsigned (&b)[2], int (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same of signed bytes.
__device__ inline void multiply_signed_bytes(const unsigned (&a)[4], const unsigned (&b)[2], int (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same of float16, 16 columns of a; registers of two. Products are exact; how their sum is rounded to float32 is
// the tensor cores' own.
__device__ inline void multiply_halves(const unsigned (&a)[4], const unsigned (&b)[2], float (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same of float32, 8 columns of a; registers of one, of which the upper 19 bits count (TF32): PTX leaves it open
// what the lower ones do, and to compilers and devices so far they are nothing. Sums may be rounded towards zero.
__device__ inline void multiply_floats(const unsigned (&a)[4], const unsigned (&b)[2], float (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace mmedge
#endif
