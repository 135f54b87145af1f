#include "tokenizer/tokenizer.h"

#include <algorithm>

#include "tokenizer/tokenizer_json.h"
#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

// Which end a text is cut off or filled up at.
void require_right(Fields fields) {
  if (fields.has("direction") && fields.string("direction") != "Right") fields.wrong("direction", "\"Right\"");
}

// A token of BertProcessing and RobertaProcessing: its name and its id.
int32_t named_token(Fields& fields, const char* key) {
  const auto& token = fields.array(key);
  if (token.size() != 2 || !is_whole_number(token[1])) fields.wrong(key, "a token and its id");
  return token[1].get<int32_t>();
}

}  // namespace

Tokenizer::Tokenizer(std::span<const uint8_t> bytes) {
  const nlohmann::json json = parse_tokenizer_json(bytes);
  Fields file(json, "the file");
  if (file.has("version") && file.string("version") != "1.0") file.wrong("version", "\"1.0\"");
  if (file.has("normalizer")) normalizer_ = read_normalizer({file.at("normalizer"), "normalizer"});
  if (file.has("pre_tokenizer")) pre_tokenizer_ = read_pre_tokenizer({file.at("pre_tokenizer"), "pre_tokenizer"});
  model_ = read_token_model({file.at("model"), "model"});
  if (file.has("added_tokens")) added_ = AddedTokens(file.array("added_tokens"), *model_, normalizer_.get());
  if (file.has("post_processor")) read_post_processor({file.at("post_processor"), "post_processor"});
  // How long a text may get is said by the preprocessing, not by the file.
  if (file.has("truncation")) require_right({file.at("truncation"), "truncation"});
  read_padding(file);
  file.ignore("decoder");
  file.finish();
}

void Tokenizer::read_padding(Fields& file) {
  if (file.has("padding")) {
    require_right({file.at("padding"), "padding"});
    padding_ = Fields(file.at("padding"), "padding").number("pad_id");
    return;
  }
  for (const char* name : {"[PAD]", "<pad>"}) {
    if (padding_ < 0) padding_ = added_.find(name);
  }
  if (padding_ < 0) {
    fail(MME_INVALID_ARGUMENT, "tokenizer: the file has no \"padding\", and no added token [PAD] or <pad>");
  }
}

void Tokenizer::read_post_processor(Fields fields) {
  const std::string type = fields.type();
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    before_.push_back(named_token(fields, "cls"));
    after_.push_back(named_token(fields, "sep"));
    if (type == "RobertaProcessing") {  // of the offsets, which are not given out
      fields.ignore("trim_offsets");
      fields.ignore("add_prefix_space");
    }
  } else if (type == "TemplateProcessing") {
    const auto& tokens = fields.at("special_tokens");
    int sequences = 0;
    const auto& single = fields.array("single");
    for (size_t i = 0; i < single.size(); ++i) {
      Fields part(single[i], concat("post_processor.single[", i, "]"));
      if (part.has("Sequence")) {
        Fields sequence = part.child("Sequence");
        if (sequence.string("id") != "A") sequence.wrong("id", "\"A\"");
        ++sequences;
      } else {
        Fields special = part.child("SpecialToken");
        const std::string name = special.string("id");
        if (!tokens.is_object() || !tokens.contains(name)) special.wrong("id", "one of special_tokens");
        Fields token(tokens.at(name), concat("post_processor.special_tokens.", name));
        for (const auto& id : token.array("ids")) {
          if (!is_whole_number(id)) token.wrong("ids", "whole numbers from 0 on");
          (sequences == 0 ? before_ : after_).push_back(id.get<int32_t>());
        }
      }
      part.finish();
    }
    if (sequences != 1) fields.wrong("single", "the sequence A, once");
    fields.ignore("pair");
  } else {
    fields.wrong("type", "TemplateProcessing, BertProcessing or RobertaProcessing");
  }
  fields.finish();
}

void Tokenizer::encode(std::string_view text, Scratch& scratch, std::span<int32_t> ids) const {
  PieceList& pieces = scratch.pieces;
  pieces.clear();
  added_.split_given(text, scratch.given);
  for (const TextPart& part : scratch.given) {
    if (part.token >= 0) {
      pieces.pieces.push_back({pieces.text.size(), 0, 0, part.token});
      continue;
    }
    NormalizedText& given = scratch.text;
    given.text.assign(text, part.begin, part.end - part.begin);
    given.from_start = part.begin == 0 ? utf8_length(text[0]) : 0;
    if (normalizer_) normalizer_->run(given, scratch.normalizer);
    added_.split_normalized(given.text, scratch.normalized);
    for (const TextPart& found : scratch.normalized) {
      const size_t size = found.end - found.begin;
      const size_t from_start = given.from_start - std::min(given.from_start, found.begin);
      pieces.pieces.push_back({pieces.text.size() + found.begin, size, std::min(from_start, size), found.token});
    }
    pieces.text.append(given.text);
  }
  if (pre_tokenizer_) pre_tokenizer_->run(pieces, scratch.other);

  const size_t room = ids.size() - special_count();
  scratch.ids.clear();
  for (const Piece& piece : pieces.pieces) {
    if (scratch.ids.size() >= room) break;
    if (piece.token >= 0) {
      scratch.ids.push_back(piece.token);
    } else {
      model_->tokenize(pieces.text_of(piece), scratch.model, scratch.ids);
    }
  }
  const auto count = static_cast<ptrdiff_t>(std::min(scratch.ids.size(), room));
  auto end = std::copy(before_.begin(), before_.end(), ids.begin());
  end = std::copy(scratch.ids.begin(), scratch.ids.begin() + count, end);
  end = std::copy(after_.begin(), after_.end(), end);
  std::fill(end, ids.end(), padding_);
}

}  // namespace mmedge
