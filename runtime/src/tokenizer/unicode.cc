#include "tokenizer/unicode.h"

#include <algorithm>

#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

#include "tokenizer/unicode_mappings.inc"
#include "tokenizer/unicode_properties.inc"

// A code point beside what orders marks: combining class, then where it stood.
constexpr int kClassShift = 56, kPlaceShift = 21;

char32_t point_of(uint64_t packed) { return static_cast<char32_t>(packed & ((1 << kPlaceShift) - 1)); }
uint8_t class_of(uint64_t packed) { return static_cast<uint8_t>(packed >> kClassShift); }

void decompose(const Unicode& unicode, bool compatible, std::string_view text, std::vector<uint64_t>& points) {
  points.clear();
  const auto add = [&](char32_t c) {
    points.push_back(uint64_t{unicode[c].combining_class} << kClassShift | uint64_t{points.size()} << kPlaceShift | c);
  };
  for (size_t at = 0; at < text.size();) {
    const char32_t c = decode_utf8(text, at);
    if (is_hangul(c)) {
      const char32_t syllable = c - kHangulFirst;
      add(kJamoL + syllable / (kJamoVCount * kJamoTCount));
      add(kJamoV + syllable / kJamoTCount % kJamoVCount);
      if (syllable % kJamoTCount != 0) add(kJamoT + syllable % kJamoTCount);
      continue;
    }
    const auto content = compatible ? unicode.compatible(c) : unicode.canonical(c);
    if (content.empty()) {
      add(c);
    } else {
      for (const char32_t part : content) add(part);
    }
  }
  for (auto first = points.begin(); first != points.end();) {
    const auto starter = [](uint64_t packed) { return class_of(packed) == 0; };
    first = std::find_if_not(first, points.end(), starter);
    const auto last = std::find_if(first, points.end(), starter);
    std::sort(first, last);
    first = last;
  }
}

void compose(const Unicode& unicode, std::vector<uint64_t>& points) {
  constexpr size_t none = SIZE_MAX;
  size_t starter = none, kept = 0;
  int before = -1;  // the class of the last code point kept behind the starter
  for (const uint64_t packed : points) {
    const int combining = class_of(packed);
    if (starter != none && before < combining) {
      if (const char32_t composite = unicode.compose(point_of(points[starter]), point_of(packed))) {
        points[starter] = composite;
        continue;
      }
    }
    before = combining;
    if (combining == 0) {
      starter = kept;
      before = -1;
    }
    points[kept++] = packed;
  }
  points.resize(kept);
}

}  // namespace

template <class Value>
void CodePointTable<Value>::set(char32_t c, Value value) {
  uint16_t& block = block_[c >> 8];
  if (block == 0) {
    block = static_cast<uint16_t>(blocks_.size());
    blocks_.emplace_back();
  }
  blocks_[block][c & 0xff] = value;
}

const Unicode& Unicode::get() {
  static const auto& unicode = *new Unicode;  // never destroyed: exit handlers may still call in
  return unicode;
}

Unicode::Unicode() : classes_(kClasses) {
  // Where nothing is set it is the first class, the most common one.
  char32_t c = 0;
  for (size_t i = 0; i < std::size(kRuns); i += 2) {
    for (const char32_t end = c + kRuns[i]; c < end; ++c) {
      if (kRuns[i + 1] != 0) class_.set(c, static_cast<uint8_t>(kRuns[i + 1]));
    }
  }
  read_mappings(kLowercase, lowercase_);
  read_mappings(kCanonical, canonical_);
  read_mappings(kCompatible, compatible_);
  // Shorter ones first: of a longer one, all but the last code point make a composite themselves.
  for (size_t length = 2; length <= 4; ++length) {
    std::vector<std::pair<uint64_t, char32_t>> found;
    for (char32_t composite = 0; composite < 0x110000; ++composite) {
      const auto parts = canonical(composite);
      if (parts.size() != length ||
          std::binary_search(std::begin(kNotComposed), std::end(kNotComposed), static_cast<int32_t>(composite)))
        continue;
      char32_t first = parts[0];
      for (const char32_t part : parts.subspan(1, length - 2)) first = compose(first, part);
      found.emplace_back(uint64_t{first} << 32 | parts.back(), composite);
    }
    composites_.insert(composites_.end(), found.begin(), found.end());
    std::sort(composites_.begin(), composites_.end());
  }
}

void Unicode::read_mappings(std::span<const int32_t> numbers, CodePointTable<Mapping>& table) {
  char32_t c = 0;
  for (size_t i = 0; i < numbers.size();) {
    c += static_cast<char32_t>(numbers[i]);
    const auto count = numbers[i + 1], length = numbers[i + 2];
    i += 3;
    std::vector<int32_t> content(static_cast<size_t>(length));
    for (const char32_t end = c + static_cast<char32_t>(count); c < end; ++c) {
      table.set(c, {static_cast<uint32_t>(contents_.size()), static_cast<uint32_t>(length)});
      for (int32_t& point : content) {
        point += numbers[i++];
        contents_.push_back(static_cast<char32_t>(point));
      }
    }
  }
}

char32_t Unicode::compose(char32_t first, char32_t second) const {
  if (first - kJamoL < kJamoLCount && second - kJamoV < kJamoVCount) {
    return kHangulFirst + ((first - kJamoL) * kJamoVCount + (second - kJamoV)) * kJamoTCount;
  }
  if (is_hangul(first) && (first - kHangulFirst) % kJamoTCount == 0 && second > kJamoT &&
      second < kJamoT + kJamoTCount) {
    return first + (second - kJamoT);
  }
  const uint64_t key = uint64_t{first} << 32 | second;
  const auto found = std::lower_bound(composites_.begin(), composites_.end(), key,
                                      [](auto& pair, uint64_t k) { return pair.first < k; });
  return found != composites_.end() && found->first == key ? found->second : 0;
}

void normalize(UnicodeForm form, std::string& text, std::vector<uint64_t>& points) {
  if (is_ascii(text)) return;
  const Unicode& unicode = Unicode::get();
  decompose(unicode, form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd, text, points);
  if (form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc) compose(unicode, points);
  text.clear();
  for (const uint64_t packed : points) append_utf8(text, point_of(packed));
}

}  // namespace mmedge
