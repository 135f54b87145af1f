#include "tokenizer/grapheme.h"

#include "tokenizer/utf8.h"

namespace mmedge {

bool Graphemes::joins(char32_t c) const {
  const Grapheme before = unicode_.grapheme(last_), after = unicode_.grapheme(c);
  if (last_ == '\r' && c == '\n') return true;
  if (before == Grapheme::kControl || after == Grapheme::kControl) return false;
  if (after == Grapheme::kExtend || after == Grapheme::kZwj || after == Grapheme::kSpacing) return true;
  if (before == Grapheme::kPrepend) return true;
  switch (after) {
    case Grapheme::kL:
    case Grapheme::kLv:
    case Grapheme::kLvt:
      return before == Grapheme::kL;
    case Grapheme::kV:
      return before == Grapheme::kL || before == Grapheme::kV || before == Grapheme::kLv;
    case Grapheme::kT:
      return before == Grapheme::kV || before == Grapheme::kLv || before == Grapheme::kT || before == Grapheme::kLvt;
    case Grapheme::kPictographic:
      return emoji_ == Emoji::kJoined;
    default:
      return consonant_ == Consonant::kLinked && unicode_[c].conjunct == Conjunct::kConsonant;
  }
}

void Graphemes::take(char32_t c) {
  const CodePointClass& kind = unicode_[c];
  if (kind.grapheme == Grapheme::kPictographic) {
    emoji_ = Emoji::kPictographic;
  } else if (emoji_ == Emoji::kPictographic && kind.grapheme == Grapheme::kZwj) {
    emoji_ = Emoji::kJoined;
  } else if (emoji_ != Emoji::kPictographic || kind.grapheme != Grapheme::kExtend) {
    emoji_ = Emoji::kNo;
  }
  if (kind.conjunct == Conjunct::kConsonant) {
    consonant_ = Consonant::kAlone;
  } else if (kind.conjunct == Conjunct::kNone) {
    consonant_ = Consonant::kNo;
  } else if (consonant_ == Consonant::kAlone && kind.conjunct == Conjunct::kLinker) {
    consonant_ = Consonant::kLinked;
  }
  last_ = c;
}

std::string_view Graphemes::next() {
  const size_t begin = at_;
  bool first = true;
  while (at_ < text_.size()) {
    size_t behind = at_;
    const char32_t c = decode_utf8(text_, behind);
    if (!first && !joins(c)) break;
    take(c);
    at_ = behind;
    first = false;
  }
  return text_.substr(begin, at_ - begin);
}

}  // namespace mmedge
