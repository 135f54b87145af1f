#include "utf8.h"

#include <cstdint>

namespace mmedge {
namespace {

// The length of the well-formed sequence `text` begins with; 0: there is none.
size_t sequence_length(std::string_view text) {
  const auto byte = [text](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto within = [&](size_t i, uint8_t least, uint8_t most) { return byte(i) >= least && byte(i) <= most; };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  if (first < 0xe0) return within(1, 0x80, 0xbf) ? 2 : 0;
  const uint8_t least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const uint8_t most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (!within(1, least, most) || !within(2, 0x80, 0xbf)) return 0;
  if (first < 0xf0) return 3;
  return within(3, 0x80, 0xbf) ? 4 : 0;
}

}  // namespace

size_t first_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t length = sequence_length(text.substr(at));
    if (length == 0) break;
    at += length;
  }
  return at;
}

}  // namespace mmedge
