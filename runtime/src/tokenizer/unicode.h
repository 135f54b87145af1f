// What Hugging Face's `tokenizers` knows of each code point: unicode_*.inc, unpacked once into tables.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mmedge {

// Bits of CodePointClass::flags.
enum CodePointFlag : uint8_t {
  kWhitespace = 1 << 0,
  kRemoved = 1 << 1,      // by BERT's clean_text: controls, formats, private use
  kPunctuation = 1 << 2,  // the standard's, and ASCII's symbols
  kNonspacing = 1 << 3,   // a mark that strip_accents removes
  kMark = 1 << 4,         // a mark that StripAccents removes
  kWord = 1 << 5          // \w
};

// By what grapheme clusters are found (UAX #29); a pair of regional indicators makes no difference here.
enum class Grapheme : uint8_t {
  kOther,
  kControl,
  kExtend,
  kZwj,
  kSpacing,
  kPrepend,
  kL,
  kV,
  kT,
  kPictographic,
  kLv,
  kLvt
};

// The part between consonants that make one cluster (UAX #29, GB9c).
enum class Conjunct : uint8_t { kNone, kConsonant, kLinker, kExtend };

struct CodePointClass {
  uint8_t flags;
  Grapheme grapheme;
  Conjunct conjunct;
  uint8_t combining_class;
};

constexpr char32_t kHangulFirst = 0xac00, kHangulCount = 11172, kJamoL = 0x1100, kJamoV = 0x1161, kJamoT = 0x11a7;
constexpr char32_t kJamoLCount = 19, kJamoVCount = 21, kJamoTCount = 28;

inline bool is_hangul(char32_t c) { return c - kHangulFirst < kHangulCount; }

// One value for each code point, kept by blocks of which equal ones are shared.
template <class Value>
class CodePointTable {
 public:
  const Value& operator[](char32_t c) const { return blocks_[block_[c >> 8]][c & 0xff]; }
  void set(char32_t c, Value value);

 private:
  std::array<uint16_t, 0x1100> block_{};
  std::vector<std::array<Value, 256>> blocks_{1};
};

class Unicode {
 public:
  // Made at the first call.
  static const Unicode& get();

  const CodePointClass& operator[](char32_t c) const { return classes_[class_[c]]; }
  bool is(char32_t c, CodePointFlag flag) const { return ((*this)[c].flags & flag) != 0; }
  Grapheme grapheme(char32_t c) const {
    if (is_hangul(c)) return (c - kHangulFirst) % kJamoTCount == 0 ? Grapheme::kLv : Grapheme::kLvt;
    return (*this)[c].grapheme;
  }
  // What a code point becomes; nothing where it stays as it is. Hangul's decompositions are by algorithm.
  std::span<const char32_t> lowercase(char32_t c) const { return content(lowercase_[c]); }
  std::span<const char32_t> canonical(char32_t c) const { return content(canonical_[c]); }
  std::span<const char32_t> compatible(char32_t c) const {
    const auto found = content(compatible_[c]);
    return found.empty() ? canonical(c) : found;
  }
  // The composite of two code points, 0 where there is none.
  char32_t compose(char32_t first, char32_t second) const;

 private:
  // Where the content lies in contents_, and its length.
  struct Mapping {
    uint32_t offset = 0, length = 0;
  };

  Unicode();
  void read_mappings(std::span<const int32_t> numbers, CodePointTable<Mapping>& table);
  std::span<const char32_t> content(const Mapping& mapping) const {
    return {contents_.data() + mapping.offset, mapping.length};
  }

  std::span<const CodePointClass> classes_;
  CodePointTable<uint8_t> class_;
  CodePointTable<Mapping> lowercase_, canonical_, compatible_;
  std::vector<char32_t> contents_;
  std::vector<std::pair<uint64_t, char32_t>> composites_;  // by the two code points
};

enum class UnicodeForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// Brings `text` into a normalization form (UAX #15). `points` is scratch memory.
void normalize(UnicodeForm form, std::string& text, std::vector<uint64_t>& points);

}  // namespace mmedge
