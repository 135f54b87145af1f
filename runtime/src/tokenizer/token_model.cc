#include "tokenizer/token_model.h"

#include <algorithm>
#include <cstdio>

#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

Vocabulary read_vocabulary(Fields& fields) {
  const auto& tokens = fields.at("vocab");
  if (!tokens.is_object()) fields.wrong("vocab", "an object of tokens and their ids");
  std::vector<std::pair<std::string, int32_t>> entries;
  entries.reserve(tokens.size());
  for (const auto& [token, id] : tokens.items()) {
    if (!is_whole_number(id)) {
      fail(MME_INVALID_ARGUMENT, "tokenizer: ", fields.path(), ".vocab gives \"", token, "\" the id ", id.dump(),
           "; expected a whole number from 0 on");
    }
    entries.emplace_back(token, id.get<int32_t>());
  }
  return Vocabulary(std::move(entries));
}

int32_t find_unknown(Fields& fields, const Vocabulary& vocabulary) {
  const int32_t id = vocabulary.find(fields.string("unk_token"));
  if (id < 0) fields.wrong("unk_token", "a token of the vocabulary");
  return id;
}

// Whole pieces only.
class WordLevel : public TokenModel {
 public:
  explicit WordLevel(Fields& fields) {
    vocabulary_ = read_vocabulary(fields);
    size_ = vocabulary_.size();
    unknown_ = find_unknown(fields, vocabulary_);
  }

  void tokenize(std::string_view piece, TokenScratch& /*scratch*/, std::vector<int32_t>& ids) const override {
    const int32_t id = vocabulary_.find(piece);
    ids.push_back(id < 0 ? unknown_ : id);
  }

 private:
  int32_t unknown_;
};

// The longest token, then the longest that goes on, ...; a piece that does not come out is unknown as a whole.
class WordPiece : public TokenModel {
 public:
  explicit WordPiece(Fields& fields) {
    vocabulary_ = read_vocabulary(fields);
    size_ = vocabulary_.size();
    unknown_ = find_unknown(fields, vocabulary_);
    inside_ = vocabulary_.walk(Vocabulary::kRoot, fields.string("continuing_subword_prefix"));
    most_ = static_cast<size_t>(fields.number("max_input_chars_per_word"));
  }

  void tokenize(std::string_view piece, TokenScratch& /*scratch*/, std::vector<int32_t>& ids) const override {
    const size_t before = ids.size();
    bool known = count_points(piece) <= most_;
    for (size_t begin = 0; known && begin < piece.size();) {
      int32_t id = -1;
      size_t end = begin;
      Vocabulary::Node node = begin == 0 ? Vocabulary::kRoot : inside_;
      for (size_t at = begin; node != Vocabulary::kNone && at < piece.size();) {
        node = vocabulary_.step(node, piece[at++]);
        if (node != Vocabulary::kNone && vocabulary_.id(node) >= 0) {
          id = vocabulary_.id(node);
          end = at;
        }
      }
      known = id >= 0;
      if (known) ids.push_back(id);
      begin = end;
    }
    if (known) return;
    ids.resize(before);
    ids.push_back(unknown_);
  }

 private:
  int32_t unknown_;
  Vocabulary::Node inside_;  // where tokens begin that go on
  size_t most_;
};

// The tokens whose scores sum to the most (Kudo 2018, section 3.2), by Viterbi's algorithm.
class Unigram : public TokenModel {
 public:
  explicit Unigram(Fields& fields) {
    const auto& tokens = fields.array("vocab");
    std::vector<std::pair<std::string, int32_t>> entries;
    for (const auto& entry : tokens) {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
        fail(MME_INVALID_ARGUMENT, "tokenizer: ", fields.path(), ".vocab[", entries.size(),
             "] is not a token and its score");
      }
      scores_.push_back(entry[1].get<double>());
      entries.emplace_back(entry[0].get<std::string>(), static_cast<int32_t>(entries.size()));
    }
    size_ = entries.size();
    vocabulary_ = Vocabulary(std::move(entries));
    unknown_ = fields.number("unk_id");
    if (static_cast<size_t>(unknown_) >= scores_.size()) fields.wrong("unk_id", "a token of the vocabulary");
    constexpr double penalty = 10.0;
    unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - penalty;
    if (fields.has("byte_fallback") && fields.boolean("byte_fallback")) {
      for (int byte = 0; byte < 256; ++byte) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", byte);
        bytes_.push_back(vocabulary_.find(name));
      }
    }
  }

  void tokenize(std::string_view piece, TokenScratch& scratch, std::vector<int32_t>& ids) const override {
    find_best(piece, scratch.steps);
    scratch.path.clear();
    for (size_t end = piece.size(); end > 0; end = scratch.steps[end].begin) scratch.path.push_back(end);
    size_t begin = 0;
    for (size_t i = scratch.path.size(); i > 0;) {
      size_t end = scratch.path[--i];
      if (scratch.steps[end].token != unknown_) {
        ids.push_back(scratch.steps[end].token);
      } else {
        // What is unknown side by side is one token.
        while (i > 0 && scratch.steps[scratch.path[i - 1]].token == unknown_) end = scratch.path[--i];
        add_unknown(piece.substr(begin, end - begin), ids);
      }
      begin = end;
    }
  }

 private:
  void find_best(std::string_view piece, std::vector<TokenScratch::Step>& steps) const {
    steps.assign(piece.size() + 1, {0.0, 0, -1});
    const auto offer = [&](size_t end, const TokenScratch::Step& step) {
      if (steps[end].token < 0 || step.score > steps[end].score) steps[end] = step;
    };
    for (size_t begin = 0; begin < piece.size();) {
      const double score = steps[begin].score;
      const size_t single = utf8_length(piece[begin]);
      bool has_single = false;
      Vocabulary::Node node = Vocabulary::kRoot;
      for (size_t at = begin; at < piece.size();) {
        node = vocabulary_.step(node, piece[at++]);
        if (node == Vocabulary::kNone) break;
        const int32_t id = vocabulary_.id(node);
        if (id < 0) continue;
        offer(at, {scores_[static_cast<size_t>(id)] + score, begin, id});
        has_single = has_single || at - begin == single;
      }
      if (!has_single) offer(begin + single, {unknown_score_ + score, begin, unknown_});
      begin += single;
    }
  }

  void add_unknown(std::string_view text, std::vector<int32_t>& ids) const {
    const int32_t whole = vocabulary_.find(text);
    const auto is_missing = [&](char byte) { return bytes_[static_cast<uint8_t>(byte)] < 0; };
    if (whole >= 0) {
      ids.push_back(whole);
    } else if (!bytes_.empty() && std::none_of(text.begin(), text.end(), is_missing)) {
      for (const char byte : text) ids.push_back(bytes_[static_cast<uint8_t>(byte)]);
    } else {
      ids.push_back(unknown_);
    }
  }

  std::vector<double> scores_;
  std::vector<int32_t> bytes_;  // the tokens of single bytes, -1 where there is none; empty without fallback
  int32_t unknown_;
  double unknown_score_;
};

std::unique_ptr<const TokenModel> make(Fields& fields) {
  const std::string type = fields.type();
  if (type == "WordPiece") return std::make_unique<WordPiece>(fields);
  if (type == "Unigram") return std::make_unique<Unigram>(fields);
  if (type == "WordLevel") return std::make_unique<WordLevel>(fields);
  if (type == "BPE") fields.wrong("type", "another: BPE is not supported yet");
  fields.wrong("type", "WordPiece, Unigram or WordLevel");
}

}  // namespace

std::unique_ptr<const TokenModel> read_token_model(Fields fields) {
  auto model = make(fields);
  fields.finish();
  return model;
}

}  // namespace mmedge
