// similarity_top_k on a CUDA device: the steps of similarity_top_k.h, for a batch of queries in one launch.
//
// | gallery | query   | products and sums                        | result          |
// |---------|---------|------------------------------------------|-----------------|
// | float32 | float32 | float32                                  | float32 score,  |
// | float16 | float32 | float32                                  | int64 row       |
// | int8    | float32 | float32; squares of a cosine's row int32 |                 |
//
// Rounding: as similarity_top_k.h but for the order of the sums, which is the same in every run. They run in eight
// parts: the error is within about dimension / 8 * 6e-8 of sum |q_i r_i|. The same rows are computed again in float64.
//
// Of more than four queries, but for the distance and for k above 48, products run on tensor cores: of more than eight,
// or where the gallery has 256 rows for each multiprocessor. Tensor cores take 11 bits of a float32, which is therefore
// made the sum of two such; what that leaves out of a product is within 5e-7 of it, of float16 and int8 within 1.2e-7.
// They may round towards zero, so that their sums are of 16 or 32 values, which are added as above; squares run in four
// parts. A query whose sum of squares leaves 1e-30 to 1e30 is then computed in float64 for the dot product too; of a
// value below 1e-35 the lower half of the bits may be lost, below 1e-38 the value.
//
// Roofline: the gallery is read once for one query, once for 4 or, on tensor cores, 16 of more, or less where they find
// it in L2. 1 M rows of 256 float16: 512 MB, 153 us at the 3.35 TB/s of an H100, 2.5 ms at the 205 GB/s of an Orin. A
// value costs a conversion (not float32) and, for each query, one multiply-add (two operations for the distance), and
// for the row another; on tensor cores two products for each query, three of float32.
//
// Launch: lanes share a row, eight, or four on tensor cores, each reading 16 bytes of it at a time; each lane has four
// rows under way, so that a warp asks for 2 KB before it waits: 32 to 48 KB a multiprocessor. Queries lie in shared
// memory; a value that is read from there is used for four rows. The grid is what the device holds at once, or four
// times that of many queries: a block goes through every n-th tile, of 128 rows with a barrier after each 512 (256 of a
// batch), or, on tensor cores, of 256 rows with a barrier after each and a few more where a row is near. Rows nearer
// than the k-th best of the last sort, mostly none, are put aside in shared memory, and sorted when they are many.
// Whichever block of a query finishes last (an atomic counter says so) merges what the blocks kept: it reads the best
// of each, then further ones only of the k blocks whose best are best, down to where all are worse than the k-th.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/similarity_top_k/similarity_top_k.h"

namespace mmedge {

constexpr int kCudaSimilarityMostK = 256;
constexpr int kCudaSimilarityMostDimension = 65536;
constexpr int kCudaSimilarityMostRows = 1 << 30;
constexpr int kCudaSimilarityMostStride = 1 << 24;  // bytes
constexpr int kCudaSimilarityMostQueries = 1 << 20;
constexpr int kCudaSimilarityMostMultiprocessors = 1024;

// All pointers are to device memory.
struct CudaSimilarity {
  // `rows` and `stride` are multiples of the element's size; of 16 bytes: then rows are read in vectors, else value by
  // value, which takes several times as long.
  Gallery gallery;
  mme_metric metric;
  const float* queries;  // [Q, dimension], finite
  int query_count;       // Q
  int dimension;
  int k;
  int multiprocessors;  // of the device
  int64_t* rows;        // [Q, k], of which the first min(k, gallery.count) of each query are written; so are scores
  float* scores;        // [Q, k]
  // Of one launch at a time.
  uint64_t* candidates;  // cuda_similarity_candidates() of them
  unsigned* tickets;     // [(Q + 3) / 4], zero; zero again after each launch
};

// Of a search that similarity_top_k() takes; its pointers do not matter.
size_t cuda_similarity_candidates(const CudaSimilarity& search);

// cudaErrorInvalidValue where a size is out of range, the type is none of the three, or the gallery is misaligned.
cudaError_t similarity_top_k(const CudaSimilarity& search, cudaStream_t stream);

}  // namespace mmedge
