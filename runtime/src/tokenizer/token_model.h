// How a piece of text becomes tokens: the "model" of a tokenizer file.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/fields.h"
#include "tokenizer/vocabulary.h"

namespace mmedge {

// Memory that a model reuses.
struct TokenScratch {
  // The best way to a place in the text: its last token, where that begins, and the sum of the scores.
  struct Step {
    double score;
    size_t begin;
    int32_t token;
  };
  std::vector<Step> steps;
  std::vector<size_t> path;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the tokens of a piece that is not empty.
  virtual void tokenize(std::string_view piece, TokenScratch& scratch, std::vector<int32_t>& ids) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }
  // Tokens as the file counts them: the first id that is free.
  size_t size() const { return size_; }

 protected:
  Vocabulary vocabulary_;
  size_t size_ = 0;
};

// Throws MME_INVALID_ARGUMENT naming what is not known.
std::unique_ptr<const TokenModel> read_token_model(Fields fields);

}  // namespace mmedge
