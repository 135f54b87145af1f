// Reads one object of a tokenizer file key by key: a key nobody asked for is an error, so nothing is passed over.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "error.h"

namespace mmedge {

// From 0 on, and an int32.
inline bool is_whole_number(const nlohmann::json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() <= INT32_MAX;
}

class Fields {
 public:
  // `path` names the object in messages, such as "normalizer".
  Fields(const nlohmann::json& object, std::string path) : object_(object), path_(std::move(path)) {
    if (!object.is_object())
      fail(MME_INVALID_ARGUMENT, "tokenizer: ", path_, " is ", object.type_name(), "; expected an object");
  }

  const std::string& path() const { return path_; }
  const nlohmann::json& object() const { return object_; }
  // Whether the key is there and not null.
  bool has(const char* key) {
    known_.insert(key);
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }
  const nlohmann::json& at(const char* key) {
    if (!has(key)) fail(MME_INVALID_ARGUMENT, "tokenizer: ", path_, " has no \"", key, "\"");
    return object_.at(key);
  }
  const nlohmann::json& array(const char* key) {
    if (!at(key).is_array()) wrong(key, "an array");
    return object_.at(key);
  }
  std::string string(const char* key) {
    if (!at(key).is_string()) wrong(key, "a string");
    return object_.at(key).get<std::string>();
  }
  bool boolean(const char* key) {
    if (!at(key).is_boolean()) wrong(key, "true or false");
    return object_.at(key).get<bool>();
  }
  int32_t number(const char* key) {
    const auto& value = at(key);
    if (!is_whole_number(value)) wrong(key, "a whole number from 0 on");
    return value.get<int32_t>();
  }
  // The object's "type".
  std::string type() { return string("type"); }
  Fields child(const char* key) { return {at(key), path_ + "." + key}; }
  // A key that is allowed to be there and makes no difference to the tokens.
  void ignore(const char* key) { known_.insert(key); }

  [[noreturn]] void wrong(const char* key, const std::string& expected) const {
    // A value may be a whole vocabulary.
    std::string found = object_.at(key).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (found.size() > 60) found = found.substr(0, 60) + "...";
    fail(MME_INVALID_ARGUMENT, "tokenizer: ", path_, ".", key, " is ", found, "; expected ", expected);
  }

  // To be called when every key was read.
  void finish() const {
    for (const auto& [key, value] : object_.items()) {
      if (!known_.contains(key)) {
        fail(MME_INVALID_ARGUMENT, "tokenizer: ", path_, " has \"", key, "\", which this library does not know");
      }
    }
  }

 private:
  const nlohmann::json& object_;
  std::string path_;
  std::set<std::string> known_;
};

}  // namespace mmedge
