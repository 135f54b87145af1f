#include "sha256.h"

#include <mbedtls/md.h>

#include <array>

#include "error.h"

namespace mmedge {

std::string sha256(std::span<const uint8_t> bytes) {
  std::array<unsigned char, 32> digest{};
  if (mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), bytes.data(), bytes.size(), digest.data()) != 0) {
    fail(MME_INTERNAL, "SHA-256 is not available");
  }
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace mmedge
