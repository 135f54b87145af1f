// JSON that someone else wrote.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "error.h"

namespace mmedge {

constexpr int kMostJsonDepth = 64;  // copying and printing JSON recurse

// Throws json::parse_error where it is none, Error of this status where it is nested too deep.
inline nlohmann::json parse_json(std::string_view text, mme_status status) {
  return nlohmann::json::parse(text, [status](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    if (depth > kMostJsonDepth) fail(status, "JSON nested deeper than ", kMostJsonDepth, " levels");
    return true;
  });
}

}  // namespace mmedge
