// Named embeddings, searched by name. Used by one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mmedge.h"

namespace mmedge {

class NamedGallery {
 public:
  struct Match {
    const std::string* name;  // valid until the gallery changes
    float score;
  };

  static constexpr size_t kMostDimensions = 65536, kMostNameBytes = 1024;

  // Throws MME_INVALID_ARGUMENT.
  NamedGallery(size_t dimension, int32_t metric, std::string model);

  size_t dimension() const { return dimension_; }
  mme_metric metric() const { return metric_; }
  const std::string& model() const { return model_; }
  size_t count() const { return owners_.size(); }
  // In the order of their first enrolment.
  const std::vector<std::string>& names() const { return names_; }
  // Of each embedding, in the order of enrolment: the number of its name, and `dimension` floats.
  std::span<const uint32_t> owners() const { return owners_; }
  std::span<const float> rows() const { return rows_; }

  // All throw, where they do, before anything has changed. MME_INVALID_ARGUMENT: the name or the size; MME_BAD_INPUT:
  // a value that is not finite.
  void enroll(std::string_view name, std::span<const float> embedding);
  void remove(std::string_view name);

  // The matches of the best names, at most `most` of them, best first. Allocates nothing: find() works in memory taken
  // by enroll(), and match() reads what it left there.
  size_t find(std::span<const float> embedding, size_t most);
  Match match(size_t place) const;

 private:
  void check_embedding(std::span<const float> embedding) const;

  size_t dimension_;
  mme_metric metric_;
  std::string model_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, uint32_t> numbers_;  // of names_
  std::vector<uint32_t> owners_;
  std::vector<float> rows_;
  std::vector<float> scores_;      // of find(): each name's best, the larger the nearer
  std::vector<uint32_t> ranking_;  // of find(): numbers of names
};

}  // namespace mmedge
