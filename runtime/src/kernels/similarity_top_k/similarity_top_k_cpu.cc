#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/similarity_top_k/similarity_top_k.h"
#include "kernels/top_k.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/similarity_top_k/similarity_top_k_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef MMEDGE_SIMILARITY_TOP_K_ONCE
#define MMEDGE_SIMILARITY_TOP_K_ONCE
namespace mmedge {
namespace {

struct Neighbour {
  float score;  // larger is nearer: of a distance, its negative
  int64_t row;
};

struct Nearer {
  bool operator()(const Neighbour& a, const Neighbour& b) const {
    return a.score > b.score || (a.score == b.score && a.row < b.row);
  }
};

using Nearest = TopK<Neighbour, Nearer>;

// Whether a float32 sum of squares has lost nothing to underflow or overflow.
bool sound(float squares) { return squares > 1e-30F && squares < 1e30F; }

double value_at(const std::byte* row, size_t i, const float*) {
  float value = 0;
  std::memcpy(&value, row + i * sizeof value, sizeof value);
  return value;
}
double value_at(const std::byte* row, size_t i, const hwy::float16_t*) {
  uint16_t bits = 0;
  std::memcpy(&bits, row + i * sizeof bits, sizeof bits);
  const int exponent = bits >> 10 & 31;
  const double fraction = bits & 1023;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : NAN;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}
double value_at(const std::byte* row, size_t i, const int8_t*) { return static_cast<int8_t>(row[i]); }

// The score of one row in float64.
template <class Element>
float exact_score(const std::byte* row, double scale, mme_metric metric, std::span<const float> query) {
  double dot = 0, row_squares = 0, query_squares = 0, distance = 0;
  for (size_t i = 0; i < query.size(); ++i) {
    const double q = query[i], value = scale * value_at(row, i, static_cast<const Element*>(nullptr));
    dot += q * value;
    row_squares += value * value;
    query_squares += q * q;
    distance += (q - value) * (q - value);
  }
  if (metric == MME_DOT) return static_cast<float>(dot);
  if (metric == MME_EUCLIDEAN) return -static_cast<float>(std::sqrt(distance));
  if (row_squares == 0 || query_squares == 0) return 0;
  return static_cast<float>(dot / (std::sqrt(row_squares) * std::sqrt(query_squares)));
}

}  // namespace
}  // namespace mmedge
#endif

HWY_BEFORE_NAMESPACE();
namespace mmedge::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vector = hn::Vec<Floats>;

constexpr size_t kLanes = hn::MaxLanes(Floats());
constexpr size_t kSums = 4;  // enough to hide the latency of one

HWY_INLINE Vector load(const float* from) { return hn::LoadU(Floats(), from); }
HWY_INLINE Vector load(const hwy::float16_t* from) {
  const Floats d;
  const Vector value = hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, Floats>(), from));
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX2
  // Without the processor's own conversion, infinity and NaN become finite: make both NaN, which exact_score sorts out.
  const hn::RebindToSigned<Floats> di;
  const auto bits =
      hn::PromoteTo(di, hn::LoadU(hn::Rebind<uint16_t, Floats>(), reinterpret_cast<const uint16_t*>(from)));
  const auto exponent = hn::Set(di, 0x7C00);
  const auto special = hn::RebindMask(d, hn::Eq(hn::And(bits, exponent), exponent));
  return hn::IfThenElse(special, hn::NaN(d), value);
#else
  return value;
#endif
}
HWY_INLINE Vector load(const int8_t* from) {
  const hn::Rebind<int32_t, Floats> d;
  return hn::ConvertTo(Floats(), hn::PromoteTo(d, hn::LoadU(hn::Rebind<int8_t, Floats>(), from)));
}

HWY_INLINE float total(const Vector* sums) {
  const Floats d;
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]))));
}

template <class Element, mme_metric kMetric>
void scan(const Gallery& gallery, std::span<const float> query, float* scores) {
  const Floats d;
  const size_t dimension = query.size(), whole = dimension / kLanes * kLanes, rest = dimension - whole;
  HWY_ALIGN float query_rest[kLanes] = {};
  std::copy(query.begin() + static_cast<ptrdiff_t>(whole), query.end(), query_rest);
  double query_squares = 0;
  for (const float q : query) query_squares += static_cast<double>(q) * q;
  const auto query_length = static_cast<float>(std::sqrt(query_squares));
  const bool usual = kMetric != MME_COSINE || sound(static_cast<float>(query_squares));
  const float sign = gallery.scale < 0 ? -1.0F : 1.0F;
  const Vector scale = hn::Set(d, gallery.scale);

  for (size_t r = 0; r < gallery.count; ++r) {
    const std::byte* const bytes = gallery.rows + r * gallery.stride;
    const auto* const row = reinterpret_cast<const Element*>(bytes);
    Vector products[kSums];  // of q r, or of (q - scale r)^2
    Vector squares[kSums];   // of r r
    for (size_t k = 0; k < kSums; ++k) products[k] = squares[k] = hn::Zero(d);
    const auto add = [&](size_t k, Vector q, Vector values) HWY_ATTR {
      if constexpr (kMetric == MME_EUCLIDEAN) {
        const Vector difference = hn::NegMulAdd(scale, values, q);
        products[k] = hn::MulAdd(difference, difference, products[k]);
      } else {
        products[k] = hn::MulAdd(q, values, products[k]);
        if constexpr (kMetric == MME_COSINE) squares[k] = hn::MulAdd(values, values, squares[k]);
      }
    };
    size_t i = 0;
    for (; i + kSums * kLanes <= whole; i += kSums * kLanes) {
      for (size_t k = 0; k < kSums; ++k) {
        add(k, hn::LoadU(d, query.data() + i + k * kLanes), load(row + i + k * kLanes));
      }
    }
    for (; i < whole; i += kLanes) add(0, hn::LoadU(d, query.data() + i), load(row + i));
    if (rest != 0) {
      HWY_ALIGN Element part[kLanes] = {};
      std::memcpy(part, bytes + whole * sizeof(Element), rest * sizeof(Element));
      add(1, hn::Load(d, query_rest), load(part));
    }
    const float sum = total(products);
    float score = 0;
    bool exact = usual;  // else again, in float64
    if constexpr (kMetric == MME_COSINE) {
      const float row_squares = total(squares);
      exact = exact && sound(row_squares);
      score = sign * sum / (std::sqrt(row_squares) * query_length);
    } else if constexpr (kMetric == MME_EUCLIDEAN) {
      exact = sound(sum);
      score = -std::sqrt(sum);
    } else {
      score = gallery.scale * sum;
      exact = std::isfinite(score);
    }
    if (!exact) score = exact_score<Element>(bytes, gallery.scale, kMetric, query);
    scores[r] = std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
  }
}

template <class Element>
void scan_rows(const Gallery& gallery, mme_metric metric, std::span<const float> query, float* scores) {
  switch (metric) {
    case MME_COSINE:
      return scan<Element, MME_COSINE>(gallery, query, scores);
    case MME_DOT:
      return scan<Element, MME_DOT>(gallery, query, scores);
    case MME_EUCLIDEAN:
      return scan<Element, MME_EUCLIDEAN>(gallery, query, scores);
  }
}

void run(const Gallery& gallery, mme_metric metric, std::span<const float> query, float* scores) {
  if (gallery.type == ElementType::kFloat32) return scan_rows<float>(gallery, metric, query, scores);
  if (gallery.type == ElementType::kFloat16) return scan_rows<hwy::float16_t>(gallery, metric, query, scores);
  scan_rows<int8_t>(gallery, metric, query, scores);
}

}  // namespace
}  // namespace mmedge::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mmedge {
namespace {

HWY_EXPORT(run);

constexpr size_t kOnStack = 1024;
constexpr size_t kBlock = 2048;  // rows: their scores stay in L1, and the query's length is worked out once for them

}  // namespace

// NOLINTNEXTLINE(misc-const-correctness): Highway's table hides the write
void similarity_scores(const Gallery& gallery, mme_metric metric, std::span<const float> query, float* scores) {
  HWY_DYNAMIC_DISPATCH(run)(gallery, metric, query, scores);
}

size_t similarity_top_k(const Gallery& gallery, mme_metric metric, std::span<const float> query, size_t k,
                        int64_t* rows, float* scores) {
  k = std::min(k, gallery.count);
  if (k == 0) return 0;
  std::array<Neighbour, kOnStack> few;  // NOLINT(cppcoreguidelines-pro-type-member-init): written before it is read
  std::vector<Neighbour> many(k > kOnStack ? k : 0);
  Nearest nearest(many.empty() ? std::span<Neighbour>(few).first(k) : std::span<Neighbour>(many), Nearer());
  std::array<float, kBlock> block;  // NOLINT(cppcoreguidelines-pro-type-member-init): likewise
  for (size_t first = 0; first < gallery.count; first += kBlock) {
    const size_t count = std::min(kBlock, gallery.count - first);
    similarity_scores({gallery.rows + first * gallery.stride, count, gallery.stride, gallery.type, gallery.scale},
                      metric, query, block.data());
    for (size_t i = 0; i < count; ++i) nearest.offer({block[i], static_cast<int64_t>(first + i)});
  }
  const std::span<const Neighbour> found = nearest.sort();
  for (size_t i = 0; i < k; ++i) {
    rows[i] = found[i].row;
    scores[i] = metric == MME_EUCLIDEAN ? std::abs(found[i].score) : found[i].score;
  }
  return k;
}

}  // namespace mmedge
#endif
