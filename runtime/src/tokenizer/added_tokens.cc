#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <set>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t at = last_point(text);
  return Unicode::get().is(decode_utf8(text, at), kWord);
}

bool starts_with_word(std::string_view text) {
  size_t at = 0;
  return !text.empty() && Unicode::get().is(decode_utf8(text, at), kWord);
}

size_t without_space_at_end(std::string_view text) {
  while (!text.empty()) {
    const size_t begin = last_point(text);
    size_t at = begin;
    if (!Unicode::get().is(decode_utf8(text, at), kWhitespace)) break;
    text = text.substr(0, begin);
  }
  return text.size();
}

size_t space_at_start(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size(); end = at) {
    if (!Unicode::get().is(decode_utf8(text, at), kWhitespace)) break;
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(const nlohmann::json& tokens, const TokenModel& model, const Normalizer* normalizer) {
  std::vector<std::pair<std::string, int32_t>> given, normalized;
  std::set<std::string> patterns;
  NormalizerScratch scratch;
  auto next = static_cast<int32_t>(model.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    Fields fields(tokens[i], concat("added_tokens[", i, "]"));
    const Token token{fields.string("content"), fields.number("id"),      fields.boolean("single_word"),
                      fields.boolean("lstrip"), fields.boolean("rstrip"), fields.boolean("normalized")};
    fields.ignore("special");
    fields.finish();
    if (token.content.empty()) continue;
    if (ids_.contains(token.content)) fields.wrong("content", "no token that came before");
    // The reference gives ids itself, and only warns where the file says otherwise.
    const int32_t known = model.vocabulary().find(token.content), id = known >= 0 ? known : next++;
    if (token.id != id) fields.wrong("id", concat(id, ", by the vocabulary and the tokens before"));
    ids_[token.content] = id;
    const auto index = static_cast<int32_t>(tokens_.size());
    if (token.normalized) {
      NormalizedText text{token.content, 0};
      if (normalizer != nullptr) normalizer->run(text, scratch);
      if (text.text.empty() || !patterns.insert(text.text).second)
        fields.wrong("content", "one that normalizing leaves, and leaves different");
      normalized.emplace_back(text.text, index);
    } else {
      given.emplace_back(token.content, index);
    }
    tokens_.push_back(token);
  }
  given_ = Vocabulary(std::move(given));
  normalized_ = Vocabulary(std::move(normalized));
}

int32_t AddedTokens::find(const std::string& content) const {
  const auto found = ids_.find(content);
  return found == ids_.end() ? -1 : found->second;
}

void AddedTokens::split(const Vocabulary& patterns, std::string_view text, std::vector<TextPart>& parts) const {
  parts.clear();
  size_t done = 0;
  for (size_t at = 0; patterns.size() > 0 && at < text.size();) {
    // The longest of those that begin first.
    int32_t index = -1;
    size_t begin = at, end = at + 1;
    Vocabulary::Node node = Vocabulary::kRoot;
    for (size_t i = at; i < text.size() && (node = patterns.step(node, text[i])) != Vocabulary::kNone; ++i) {
      if (patterns.id(node) < 0) continue;
      index = patterns.id(node);
      end = i + 1;
    }
    at = end;
    if (index < 0) continue;
    const Token& token = tokens_[static_cast<size_t>(index)];
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token.lstrip) begin = std::max(without_space_at_end(text.substr(0, begin)), done);
    if (token.rstrip) end += space_at_start(text.substr(end));
    if (done < begin) parts.push_back({done, begin, -1});
    end = std::max(begin, end);  // spaces that the token before took are gone
    parts.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
}

}  // namespace mmedge
