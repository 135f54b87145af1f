#include "tokenizer/charsmap.h"

#include <bit>
#include <cstring>

#include "error.h"
#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

std::string decode_base64(std::string_view text) {
  static constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  bytes.reserve(text.size() * 3 / 4);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t digit = digits.find(c);
    if (digit == std::string_view::npos) fail(MME_INVALID_ARGUMENT, "tokenizer: precompiled_charsmap is not base64");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes.push_back(static_cast<char>(bits >> count));
    }
  }
  return bytes;
}

// A unit of the double array, as darts-clone lays it out.
constexpr uint32_t kLeaf = 1U << 31;  // of a leaf's unit, which holds where its contents begin
uint32_t label(uint32_t unit) { return unit & (kLeaf | 0xff); }
uint32_t offset(uint32_t unit) { return unit >> 10 << ((unit & 1U << 9) >> 6); }
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }

}  // namespace

static_assert(std::endian::native == std::endian::little, "the map is read as it lies in the file");

Charsmap::Charsmap(std::string_view base64) {
  const std::string bytes = decode_base64(base64);
  uint32_t size = 0;
  if (bytes.size() >= sizeof size) std::memcpy(&size, bytes.data(), sizeof size);
  if (bytes.size() < sizeof size || size < sizeof(uint32_t) || size % sizeof(uint32_t) != 0 ||
      size > bytes.size() - sizeof size) {
    fail(MME_INVALID_ARGUMENT, "tokenizer: precompiled_charsmap of ", bytes.size(), " bytes is cut off or damaged");
  }
  units_.resize(size / sizeof(uint32_t));
  std::memcpy(units_.data(), bytes.data() + sizeof size, size);
  contents_ = bytes.substr(sizeof size + size);
  if (first_invalid_utf8(contents_) != contents_.size()) {
    fail(MME_INVALID_ARGUMENT, "tokenizer: precompiled_charsmap does not make UTF-8");
  }
  for (const uint32_t unit : units_) {
    if ((unit & kLeaf) != 0) {
      const size_t begin = unit & ~kLeaf;
      if (begin < contents_.size() && (contents_[begin] & 0xc0) == 0x80) {
        fail(MME_INVALID_ARGUMENT, "tokenizer: precompiled_charsmap has an entry inside a character");
      }
    }
  }
}

std::optional<std::string_view> Charsmap::find(std::string_view chunk) const {
  size_t position = offset(units_[0]);
  for (const char c : chunk) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte == 0) return {};
    position ^= byte;
    if (position >= units_.size()) return {};
    const uint32_t unit = units_[position];
    if (label(unit) != byte) return {};
    position ^= offset(unit);
    if (!has_leaf(unit)) continue;
    if (position >= units_.size() || (units_[position] & kLeaf) == 0) return {};
    const size_t begin = units_[position] & ~kLeaf;
    if (begin >= contents_.size()) return std::string_view();
    // Ends at a NUL, or with the contents.
    const auto rest = std::string_view(contents_).substr(begin);
    return rest.substr(0, rest.find('\0'));
  }
  return {};
}

}  // namespace mmedge
