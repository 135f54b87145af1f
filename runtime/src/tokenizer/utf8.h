// UTF-8, forwards.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace mmedge {

// The offset of the first byte that is not UTF-8 (overlong, a surrogate, beyond U+10FFFF, cut off), or text.size().
inline size_t first_invalid_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0U; };
  const auto continues = [&](size_t i, unsigned least, unsigned most) { return byte(i) >= least && byte(i) <= most; };
  size_t i = 0;
  while (i < text.size()) {
    uint64_t eight = 0;
    if (i + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + i, sizeof eight);
      if ((eight & 0x8080808080808080U) == 0) {
        i += sizeof eight;
        continue;
      }
    }
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      i += 1;
    } else if (lead >= 0xc2 && lead <= 0xdf && continues(i + 1, 0x80, 0xbf)) {
      i += 2;
    } else if ((lead & 0xf0) == 0xe0 && continues(i + 1, lead == 0xe0 ? 0xa0 : 0x80, lead == 0xed ? 0x9f : 0xbf) &&
               continues(i + 2, 0x80, 0xbf)) {
      i += 3;
    } else if (lead >= 0xf0 && lead <= 0xf4 &&
               continues(i + 1, lead == 0xf0 ? 0x90 : 0x80, lead == 0xf4 ? 0x8f : 0xbf) &&
               continues(i + 2, 0x80, 0xbf) && continues(i + 3, 0x80, 0xbf)) {
      i += 4;
    } else {
      return i;
    }
  }
  return text.size();
}

// Bytes of the code point that begins with `lead`.
inline size_t utf8_length(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

inline size_t count_points(std::string_view text) {
  size_t count = 0;
  for (const char byte : text) count += (byte & 0xc0) != 0x80 ? 1 : 0;
  return count;
}

// Where the last code point of a text begins that is not empty.
inline size_t last_point(std::string_view text) {
  size_t begin = text.size() - 1;
  while ((text[begin] & 0xc0) == 0x80) --begin;
  return begin;
}

// The code point at `at`, which moves behind it; the text is valid.
inline char32_t decode_utf8(std::string_view text, size_t& at) {
  const auto next = [&] { return static_cast<uint8_t>(text[at++]); };
  const char32_t lead = next();
  if (lead < 0x80) return lead;
  char32_t c = lead < 0xe0 ? lead & 0x1f : lead < 0xf0 ? lead & 0x0f : lead & 0x07;
  for (size_t left = utf8_length(static_cast<char>(lead)) - 1; left > 0; --left) c = c << 6 | (next() & 0x3f);
  return c;
}

inline void append_utf8(std::string& text, char32_t c) {
  const auto add = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    add(c);
    return;
  }
  if (c < 0x800) {
    add(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      add(0xe0 | c >> 12);
    } else {
      add(0xf0 | c >> 18);
      add(0x80 | (c >> 12 & 0x3f));
    }
    add(0x80 | (c >> 6 & 0x3f));
  }
  add(0x80 | (c & 0x3f));
}

inline bool is_ascii(std::string_view text) {
  size_t i = 0;
  for (uint64_t eight = 0; i + sizeof eight <= text.size(); i += sizeof eight) {
    std::memcpy(&eight, text.data() + i, sizeof eight);
    if ((eight & 0x8080808080808080U) != 0) return false;
  }
  for (; i < text.size(); ++i) {
    if (static_cast<uint8_t>(text[i]) >= 0x80) return false;
  }
  return true;
}

}  // namespace mmedge
