#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace mmedge {

// In lower-case hexadecimal.
std::string sha256(std::span<const uint8_t> bytes);

}  // namespace mmedge
