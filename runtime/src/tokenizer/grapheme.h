// Extended grapheme clusters: what a reader takes for one character.
#pragma once

#include <string_view>

#include "tokenizer/unicode.h"

namespace mmedge {

// Goes through a text cluster by cluster (UAX #29, with the conjuncts of Unicode 15.1).
class Graphemes {
 public:
  explicit Graphemes(std::string_view text) : text_(text) {}

  // The next cluster; empty at the end.
  std::string_view next();

 private:
  // Whether `c` belongs to the cluster that ends with last_.
  bool joins(char32_t c) const;
  void take(char32_t c);

  const Unicode& unicode_ = Unicode::get();
  std::string_view text_;
  size_t at_ = 0;
  // Of the cluster so far: its last code point, whether a pictograph and extensions end it, then whether with a joiner
  // behind them, and whether a consonant is waiting for a linker or has one.
  char32_t last_ = 0;
  enum class Emoji : uint8_t { kNo, kPictographic, kJoined } emoji_ = Emoji::kNo;
  enum class Consonant : uint8_t { kNo, kAlone, kLinked } consonant_ = Consonant::kNo;
};

}  // namespace mmedge
