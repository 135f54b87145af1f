// Parses a tokenizer file.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>

namespace mmedge {

// As nlohmann::json::parse, but with numbers as the reference reads them: its parser rounds twice, which decides
// between two ways to split a text whose scores are otherwise equal. Throws MME_INVALID_ARGUMENT.
nlohmann::json parse_tokenizer_json(std::span<const uint8_t> bytes);

}  // namespace mmedge
