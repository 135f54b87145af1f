// The k rows of a gallery nearest to a query, best first, equal scores by row.
//
// Steps, per row r of the gallery (int8: r is scale * its values):
//   1. the score    cosine      q . r / (|q| |r|), 0 where q or r is all zeros; largest first
//                   dot         q . r, largest first
//                   Euclidean   |q - r|, smallest first
//   2. the row enters a heap of the k best so far, if it is one of them
//   then
//   3. the heap is sorted
// A row whose score is not a number (it holds NaN or infinities) scores as the worst: -infinity, or for the Euclidean
// distance infinity.
//
// | gallery | query   | products and sums | result          |
// |---------|---------|-------------------|-----------------|
// | float32 | float32 | float32           | float32 score,  |
// | float16 | float32 | float32           | int64 row       |
// | int8    | float32 | float32           |                 |
//
// Rounding: float16 and int8 values become float32 exactly; the query is never quantised. Sums run in as many parts as
// vectors have lanes, times four: the error is within about dimension / 64 * 6e-8 of sum |q_i r_i|. A row whose sums of
// squares leave 1e-30 to 1e30 (or whose dot product overflows) is computed again in float64, so a tiny or huge row, or
// one equal to the query, scores as exactly as any other.
//
// Roofline: the gallery is read once, rows * dimension * element size bytes; a value costs one conversion (not float32)
// and one or, for the cosine, two multiply-adds: 1/4 to 2 operations a byte, so memory sets the speed of float32 and
// float16. Of int8, and of rows below about 128 values, the conversions and each row's sum of lanes do: 13 ns a row of
// 128 for a cosine with AVX-512.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "mmedge.h"
#include "tensor.h"

namespace mmedge {

struct Gallery {
  const std::byte* rows;  // of any alignment
  size_t count;
  size_t stride;     // bytes from one row to the next
  ElementType type;  // kFloat32, kFloat16 or kInt8
  float scale;       // of int8 rows; finite, not 0. Other types: 1
};

// `query` is not empty and finite; a row holds as many values: step 1 alone, for every row, as it enters the heap: the
// larger, the nearer, so the negative of a distance. Allocates nothing. Any thread.
void similarity_scores(const Gallery& gallery, mme_metric metric, std::span<const float> query, float* scores);

// `query` is not empty and finite; a row holds as many values. Writes min(k, gallery.count) rows and scores, k at least
// 1, and returns that number. Allocates for k past 1024 only. Any thread. Throws std::bad_alloc.
size_t similarity_top_k(const Gallery& gallery, mme_metric metric, std::span<const float> query, size_t k,
                        int64_t* rows, float* scores);

}  // namespace mmedge
