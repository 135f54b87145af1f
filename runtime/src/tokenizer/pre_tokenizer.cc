#include "tokenizer/pre_tokenizer.h"

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

// What becomes of a code point where a text is split.
enum class Role : uint8_t {
  kDropped,  // a separator
  kAlone,    // a piece of its own
  kFirst,    // belongs together with its neighbours of the same kind
  kSecond
};

// Splits by the role of each code point.
template <class RoleOf>
void split(PieceList& list, PieceList& scratch, RoleOf role_of) {
  scratch.pieces.clear();
  for (const Piece& piece : list.pieces) {
    if (piece.token >= 0) {
      scratch.pieces.push_back(piece);
      continue;
    }
    const auto add = [&](size_t begin, size_t end) {
      if (begin == end) return;
      const size_t from_start = piece.from_start - std::min(piece.from_start, begin);
      scratch.pieces.push_back({piece.begin + begin, end - begin, std::min(from_start, end - begin)});
    };
    const std::string_view text = list.text_of(piece);
    size_t begin = 0;
    Role before = Role::kDropped;
    for (size_t at = 0; at < text.size();) {
      const size_t here = at;
      const Role role = role_of(decode_utf8(text, at));
      if (role != before || role == Role::kAlone) {
        if (before != Role::kDropped) add(begin, here);
        begin = here;
        before = role;
      }
    }
    if (before != Role::kDropped) add(begin, text.size());
  }
  list.pieces.swap(scratch.pieces);
}

class WhitespaceSplit : public PreTokenizer {
 public:
  void run(PieceList& list, PieceList& scratch) const override {
    const Unicode& unicode = Unicode::get();
    split(list, scratch, [&](char32_t c) { return unicode.is(c, kWhitespace) ? Role::kDropped : Role::kFirst; });
  }
};

// \w+|[^\w\s]+
class Whitespace : public PreTokenizer {
 public:
  void run(PieceList& list, PieceList& scratch) const override {
    const Unicode& unicode = Unicode::get();
    split(list, scratch, [&](char32_t c) {
      if (unicode.is(c, kWord)) return Role::kFirst;
      return unicode.is(c, kWhitespace) ? Role::kDropped : Role::kSecond;
    });
  }
};

class Punctuation : public PreTokenizer {
 public:
  explicit Punctuation(Fields& fields) {
    if (fields.has("behavior") && fields.string("behavior") != "Isolated") fields.wrong("behavior", "\"Isolated\"");
  }

  void run(PieceList& list, PieceList& scratch) const override {
    const Unicode& unicode = Unicode::get();
    split(list, scratch, [&](char32_t c) { return unicode.is(c, kPunctuation) ? Role::kAlone : Role::kFirst; });
  }
};

class Bert : public PreTokenizer {
 public:
  void run(PieceList& list, PieceList& scratch) const override {
    const Unicode& unicode = Unicode::get();
    split(list, scratch, [&](char32_t c) {
      if (unicode.is(c, kWhitespace)) return Role::kDropped;
      return unicode.is(c, kPunctuation) ? Role::kAlone : Role::kFirst;
    });
  }
};

// SentencePiece's spaces as characters: each begins a piece.
class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(Fields& fields) : space_(fields.string("replacement")) {
    if (space_.empty() || utf8_length(space_[0]) != space_.size()) fields.wrong("replacement", "one character");
    if (fields.has("prepend_scheme")) {
      const std::string scheme = fields.string("prepend_scheme");
      if (scheme != "always" && scheme != "first" && scheme != "never") {
        fields.wrong("prepend_scheme", R"("always", "first" or "never")");
      }
      prepend_ = scheme != "never";
      only_first_ = scheme == "first";
    }
    if (fields.has("add_prefix_space") && !fields.boolean("add_prefix_space") && prepend_) {
      fields.wrong("add_prefix_space", "true, or prepend_scheme \"never\"");
    }
    if (fields.has("split")) split_ = fields.boolean("split");
    fields.ignore("str_rep");
  }

  void run(PieceList& list, PieceList& scratch) const override {
    scratch.clear();
    for (const Piece& piece : list.pieces) {
      const std::string_view text = list.text_of(piece);
      size_t begin = scratch.text.size(), from_start = piece.from_start;
      if (piece.token >= 0) {
        scratch.text.append(text);
        scratch.pieces.push_back({begin, text.size(), 0, piece.token});
        continue;
      }
      const auto add = [&] {
        const size_t size = scratch.text.size() - begin;
        if (size == 0) return;
        scratch.pieces.push_back({begin, size, std::min(from_start, size)});
        from_start -= std::min(from_start, size);
        begin = scratch.text.size();
      };
      if (prepend_ && (!only_first_ || from_start > 0) && !text.starts_with(' ') && !text.starts_with(space_)) {
        scratch.text.append(space_);
        if (from_start > 0) from_start += space_.size();
      }
      for (size_t at = 0; at < text.size();) {
        const auto c = text.substr(at, utf8_length(text[at]));
        const bool space = c == " " || c == space_;
        if (space && split_) add();
        scratch.text.append(space ? space_ : c);
        if (space && at < piece.from_start) from_start += space_.size() - c.size();
        at += c.size();
      }
      add();
    }
    std::swap(list, scratch);
  }

 private:
  std::string space_;
  bool prepend_ = true, only_first_ = false, split_ = true;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(Fields& fields) {
    const auto& steps = fields.array("pretokenizers");
    for (size_t i = 0; i < steps.size(); ++i) {
      steps_.push_back(read_pre_tokenizer({steps[i], concat(fields.path(), ".pretokenizers[", i, "]")}));
    }
  }

  void run(PieceList& list, PieceList& scratch) const override {
    for (const auto& step : steps_) step->run(list, scratch);
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> steps_;
};

std::unique_ptr<const PreTokenizer> make(Fields& fields) {
  const std::string type = fields.type();
  if (type == "Sequence") return std::make_unique<Sequence>(fields);
  if (type == "BertPreTokenizer") return std::make_unique<Bert>();
  if (type == "Whitespace") return std::make_unique<Whitespace>();
  if (type == "WhitespaceSplit") return std::make_unique<WhitespaceSplit>();
  if (type == "Punctuation") return std::make_unique<Punctuation>(fields);
  if (type == "Metaspace") return std::make_unique<Metaspace>(fields);
  if (type == "ByteLevel") fields.wrong("type", "another: byte-level tokenizers are not supported yet");
  fields.wrong("type", "Sequence, BertPreTokenizer, Whitespace, WhitespaceSplit, Punctuation or Metaspace");
}

}  // namespace

std::unique_ptr<const PreTokenizer> read_pre_tokenizer(Fields fields) {
  auto pre_tokenizer = make(fields);
  fields.finish();
  return pre_tokenizer;
}

}  // namespace mmedge
