#pragma once

#include <cstddef>
#include <string_view>

namespace mmedge {

// The first byte that is not part of well-formed UTF-8 (Unicode 15.0, table 3-7: no surrogates, nothing overlong,
// nothing past U+10FFFF), or text.size(). Of a sequence that is cut short, its first byte.
size_t first_invalid_utf8(std::string_view text);

}  // namespace mmedge
