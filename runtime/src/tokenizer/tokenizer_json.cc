#include "tokenizer/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <string>
#include <vector>

#include "error.h"

namespace mmedge {
namespace {

using nlohmann::json;

constexpr size_t kMostDepth = 64;
constexpr int kMostPower = 308;

double power_of_ten(int exponent) {
  static const auto powers = [] {
    std::array<double, kMostPower + 1> table{};
    for (int i = 0; i <= kMostPower; ++i) {
      const std::string text = "1e" + std::to_string(i);
      std::from_chars(text.data(), text.data() + text.size(), table[static_cast<size_t>(i)]);
    }
    return table;
  }();
  return powers[static_cast<size_t>(exponent)];
}

// A valid JSON number as serde_json reads it: the digits as one whole number, rounded, and then scaled by a power of
// ten.
double read_number(const std::string& text) {
  constexpr uint64_t most = std::numeric_limits<uint64_t>::max();
  uint64_t digits = 0;
  int64_t exponent = 0;
  size_t at = text[0] == '-' ? 1 : 0;
  bool fraction = false, full = false;
  for (; at < text.size() && text[at] != 'e' && text[at] != 'E'; ++at) {
    if (text[at] == '.') {
      fraction = true;
      full = full && digits > most / 10;
      continue;
    }
    const auto digit = static_cast<uint64_t>(text[at] - '0');
    full = full || digits > most / 10 || (digits == most / 10 && digit > most % 10);
    if (!full) {
      digits = digits * 10 + digit;
      if (fraction) --exponent;
    } else if (!fraction) {
      ++exponent;
    }
  }
  if (at < text.size()) {
    const bool signed_plus = text[at + 1] == '+';
    int64_t written = 0;
    const auto* begin = text.data() + at + (signed_plus ? 2 : 1);
    const auto parsed = std::from_chars(begin, text.data() + text.size(), written);
    constexpr int64_t huge = 1 << 20;
    if (parsed.ec != std::errc()) written = *begin == '-' ? -huge : huge;
    exponent += std::clamp(written, -huge, huge);
  }
  auto value = static_cast<double>(digits);
  while (exponent < -kMostPower && value != 0.0) {
    value /= power_of_ten(kMostPower);
    exponent += kMostPower;
  }
  if (value != 0.0 && exponent > 0) value *= power_of_ten(static_cast<int>(std::min<int64_t>(exponent, kMostPower)));
  if (value != 0.0 && exponent < 0) value /= power_of_ten(static_cast<int>(-exponent));
  return text[0] == '-' ? -value : value;
}

class Builder : public json::json_sax_t {
 public:
  json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t /*value*/, const string_t& text) override { return add(read_number(text)); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t& /*value*/) override { return false; }
  bool start_object(size_t /*size*/) override { return open(json::object()); }
  bool start_array(size_t /*size*/) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string& /*token*/, const nlohmann::detail::exception& error) override {
    fail(MME_INVALID_ARGUMENT, "tokenizer: not JSON at byte ", position, ": ", error.what());
  }

 private:
  json* put(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool add(json value) {
    put(std::move(value));
    return true;
  }
  bool open(json value) {
    if (open_.size() == kMostDepth) {
      fail(MME_INVALID_ARGUMENT, "tokenizer: nested deeper than ", kMostDepth, " levels");
    }
    open_.push_back(put(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  json root_;
  std::vector<json*> open_;  // an array grows only while none of its elements is open
  std::string key_;
};

}  // namespace

json parse_tokenizer_json(std::span<const uint8_t> bytes) {
  Builder builder;
  json::sax_parse(bytes.begin(), bytes.end(), &builder);
  return builder.take();
}

}  // namespace mmedge
