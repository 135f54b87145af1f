#include "gallery.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "error.h"
#include "kernels/instruction_set.h"
#include "kernels/similarity_top_k/similarity_top_k.h"
#include "kernels/top_k.h"
#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

constexpr size_t kBlock = 1024;  // rows scored together

// Room for `extra` more elements, so that adding them cannot fail; grown geometrically.
template <class Element>
void make_room(std::vector<Element>& vector, size_t extra) {
  const size_t needed = vector.size() + extra;
  if (needed > vector.capacity()) vector.reserve(std::max(needed, 2 * vector.capacity()));
}

void check_name(std::string_view name) {
  if (name.empty() || name.size() > NamedGallery::kMostNameBytes) {
    fail(MME_INVALID_ARGUMENT, "the name has ", name.size(), " bytes; expected 1 to ", NamedGallery::kMostNameBytes);
  }
  if (const size_t wrong = first_invalid_utf8(name); wrong < name.size()) {
    fail(MME_INVALID_ARGUMENT, "the name is not UTF-8: byte ", wrong, " is wrong");
  }
  if (name.find('\0') != std::string_view::npos) fail(MME_INVALID_ARGUMENT, "the name holds a zero byte");
}

}  // namespace

NamedGallery::NamedGallery(size_t dimension, int32_t metric, std::string model)
    : dimension_(dimension), metric_(static_cast<mme_metric>(metric)), model_(std::move(model)) {
  if (dimension == 0 || dimension > kMostDimensions) {
    fail(MME_INVALID_ARGUMENT, "dimension is ", dimension, "; expected 1 to ", kMostDimensions);
  }
  if (metric < MME_COSINE || metric > MME_EUCLIDEAN) {
    fail(MME_INVALID_ARGUMENT, "metric is ", metric, "; expected a mme_metric");
  }
  if (model_.find('\0') != std::string::npos) fail(MME_INVALID_ARGUMENT, "the model's hash holds a zero byte");
}

void NamedGallery::check_embedding(std::span<const float> embedding) const {
  if (embedding.size() != dimension_) {
    fail(MME_INVALID_ARGUMENT, "the embedding has ", embedding.size(), " elements; the gallery's have ", dimension_);
  }
  const auto wrong =
      std::find_if_not(embedding.begin(), embedding.end(), [](float value) { return std::isfinite(value); });
  if (wrong != embedding.end()) {
    fail(MME_BAD_INPUT, "element ", wrong - embedding.begin(), " of the embedding is ", *wrong,
         "; expected finite numbers");
  }
}

void NamedGallery::enroll(std::string_view name, std::span<const float> embedding) {
  check_name(name);
  check_embedding(embedding);
  if (owners_.size() == std::numeric_limits<uint32_t>::max()) {
    fail(MME_OUT_OF_MEMORY, "the gallery holds ", owners_.size(), " embeddings, as many as it can");
  }
  make_room(rows_, dimension_);
  make_room(owners_, 1);
  std::string copy(name);
  auto known = numbers_.find(copy);
  if (known == numbers_.end()) {
    make_room(names_, 1);
    make_room(scores_, 1);
    make_room(ranking_, 1);
    known = numbers_.emplace(copy, static_cast<uint32_t>(names_.size())).first;
    names_.push_back(std::move(copy));
    scores_.push_back(0);
    ranking_.push_back(0);
  }
  owners_.push_back(known->second);
  rows_.insert(rows_.end(), embedding.begin(), embedding.end());
}

void NamedGallery::remove(std::string_view name) {
  const auto known = numbers_.find(std::string(name));
  if (known == numbers_.end()) fail(MME_INVALID_ARGUMENT, "nothing is enrolled under \"", name, "\"");
  const uint32_t number = known->second;
  numbers_.erase(known);
  for (auto& [other, its_number] : numbers_) its_number -= its_number > number;
  names_.erase(names_.begin() + number);
  scores_.pop_back();
  ranking_.pop_back();
  size_t kept = 0;
  for (size_t i = 0; i < owners_.size(); ++i) {
    if (owners_[i] == number) continue;
    owners_[kept] = owners_[i] - (owners_[i] > number);
    if (kept != i) std::copy_n(rows_.data() + i * dimension_, dimension_, rows_.data() + kept * dimension_);
    ++kept;
  }
  owners_.resize(kept);
  rows_.resize(kept * dimension_);
}

size_t NamedGallery::find(std::span<const float> embedding, size_t most) {
  check_embedding(embedding);
  choose_instruction_set();
  std::fill(scores_.begin(), scores_.end(), -std::numeric_limits<float>::infinity());
  const size_t stride = dimension_ * sizeof(float);
  std::array<float, kBlock> block;  // NOLINT(cppcoreguidelines-pro-type-member-init): written before it is read
  for (size_t first = 0; first < owners_.size(); first += kBlock) {
    const size_t count = std::min(kBlock, owners_.size() - first);
    const auto* rows = reinterpret_cast<const std::byte*>(rows_.data() + first * dimension_);
    similarity_scores({rows, count, stride, ElementType::kFloat32, 1.0F}, metric_, embedding, block.data());
    for (size_t i = 0; i < count; ++i) {
      float& best = scores_[owners_[first + i]];
      best = std::max(best, block[i]);
    }
  }
  const size_t found = std::min(most, names_.size());
  if (found == 0) return 0;
  const auto before = [this](uint32_t a, uint32_t b) {
    return scores_[a] > scores_[b] || (scores_[a] == scores_[b] && a < b);
  };
  TopK<uint32_t, decltype(before)> best(std::span<uint32_t>(ranking_).first(found), before);
  for (uint32_t number = 0; number < names_.size(); ++number) best.offer(number);
  best.sort();
  return found;
}

NamedGallery::Match NamedGallery::match(size_t place) const {
  const uint32_t number = ranking_[place];
  return {&names_[number], metric_ == MME_EUCLIDEAN ? std::abs(scores_[number]) : scores_[number]};
}

}  // namespace mmedge
