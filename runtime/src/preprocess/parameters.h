// Reads one JSON object key by key: types and ranges are checked, and a key nobody asked for is an error.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace mmedge {

class Parameters {
 public:
  explicit Parameters(const nlohmann::json& object) : object_(object) {
    if (!object.is_object())
      fail(MME_INVALID_ARGUMENT, "preprocess: expected a JSON object, found ", object.type_name());
  }

  int integer(const char* key, int least, int most) {
    const auto& value = at(key);
    if (!value.is_number_integer() || value < least || value > most) {
      wrong(key, concat("a whole number from ", least, " to ", most));
    }
    return value.get<int>();
  }

  double number(const char* key, double least, double most) {
    const auto& value = at(key);
    if (!value.is_number() || value < least || value > most) {
      wrong(key, concat("a number from ", least, " to ", most));
    }
    return value.get<double>();
  }

  bool boolean(const char* key) {
    const auto& value = at(key);
    if (!value.is_boolean()) wrong(key, "true or false");
    return value.get<bool>();
  }

  std::string string(const char* key) {
    const auto& value = at(key);
    if (!value.is_string()) wrong(key, "a string");
    return value.get<std::string>();
  }

  // One of the named values.
  template <class Value>
  Value choice(const char* key, std::initializer_list<std::pair<const char*, Value>> choices) {
    const auto& value = at(key);
    std::string names;
    for (const auto& [name, result] : choices) {
      if (value.is_string() && value == name) return result;
      names += concat(names.empty() ? "" : " or ", '"', name, '"');
    }
    wrong(key, names);
  }

  std::vector<float> numbers(const char* key, size_t count, double least, double most) {
    const auto& value = at(key);
    std::vector<float> result;
    if (value.is_array()) {
      for (const auto& item : value) {
        if (item.is_number() && item >= least && item <= most) result.push_back(item.get<float>());
      }
    }
    if (!value.is_array() || value.size() != count || result.size() != count) {
      wrong(key, concat(count, " number(s), each from ", least, " to ", most));
    }
    return result;
  }

  // Whether an optional key is there; ask before reading it.
  bool has(const char* key) const { return object_.contains(key); }

  // Refuses a key that means nothing without `what`.
  void only_with(const char* key, bool given, const char* what) const {
    if (!given) fail(MME_INVALID_ARGUMENT, "preprocess: \"", key, "\" is only for ", what, "; leave it out");
  }

  [[noreturn]] void wrong(const char* key, const std::string& expected) const {
    fail(MME_INVALID_ARGUMENT, "preprocess: \"", key, "\" is ", object_.at(key).dump(), "; expected ", expected);
  }

  // To be called when every key was read.
  void finish() const {
    for (const auto& [key, value] : object_.items()) {
      if (!known_.contains(key)) fail(MME_INVALID_ARGUMENT, "preprocess: unknown key \"", key, "\"");
    }
  }

 private:
  const nlohmann::json& at(const char* key) {
    known_.insert(key);
    const auto found = object_.find(key);
    if (found == object_.end()) fail(MME_INVALID_ARGUMENT, "preprocess: key \"", key, "\" is missing");
    return *found;
  }

  const nlohmann::json& object_;
  std::set<std::string> known_;
};

}  // namespace mmedge
