// Tokens that are found in a text before anything else is done: the "added_tokens" of a tokenizer file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/fields.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/token_model.h"

namespace mmedge {

// A part of a text: a token, or what lies between (-1).
struct TextPart {
  size_t begin, end;
  int32_t token;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // Throws MME_INVALID_ARGUMENT naming what cannot be. `normalizer` may be NULL.
  AddedTokens(const nlohmann::json& tokens, const TokenModel& model, const Normalizer* normalizer);

  // The id of a token, or -1.
  int32_t find(const std::string& content) const;
  // The parts of a text as it was given, and of a part that was normalized: each has its own tokens.
  void split_given(std::string_view text, std::vector<TextPart>& parts) const { split(given_, text, parts); }
  void split_normalized(std::string_view text, std::vector<TextPart>& parts) const { split(normalized_, text, parts); }

 private:
  struct Token {
    std::string content;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized;
  };

  void split(const Vocabulary& patterns, std::string_view text, std::vector<TextPart>& parts) const;

  std::vector<Token> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  Vocabulary given_, normalized_;  // of indices into tokens_
};

}  // namespace mmedge
