// Text into token ids, as Hugging Face's `tokenizers` does it, from the same file.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/token_model.h"

namespace mmedge {

// Immutable, shared by threads.
class Tokenizer {
 public:
  // Memory that encoding reuses.
  struct Scratch {
    NormalizerScratch normalizer;
    NormalizedText text;
    std::vector<TextPart> given, normalized;
    PieceList pieces, other;
    TokenScratch model;
    std::vector<int32_t> ids;
  };

  // Of a tokenizer.json. Throws MME_INVALID_ARGUMENT naming what is damaged or not known.
  explicit Tokenizer(std::span<const uint8_t> file);

  // How many special tokens stand around a text.
  size_t special_count() const { return before_.size() + after_.size(); }
  // The tokens of a valid UTF-8 text, among the special ones, cut off and padded to the size of `ids`, which is more
  // than special_count().
  void encode(std::string_view text, Scratch& scratch, std::span<int32_t> ids) const;

 private:
  void read_post_processor(Fields fields);
  void read_padding(Fields& file);

  std::unique_ptr<const Normalizer> normalizer_;
  std::unique_ptr<const PreTokenizer> pre_tokenizer_;
  std::unique_ptr<const TokenModel> model_;
  AddedTokens added_;
  std::vector<int32_t> before_, after_;
  int32_t padding_ = -1;
};

}  // namespace mmedge
