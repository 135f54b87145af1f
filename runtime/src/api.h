// What the parts of the C ABI share: handles, and structs of any version. Only functions whose body is in guarded() may
// be called from C: there exceptions become a status and a message.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "handle.h"
#include "session.h"

namespace mmedge {

// This thread's. Nothing destroys it: exit handlers may still call in.
inline auto& last_error() {
  thread_local std::array<char, 4096> message{};
  return message;
}

// What does not fit is cut off, at the end of a character.
inline void keep_error(const char* kind, const char* message) noexcept {
  auto& kept = last_error();
  const int size = std::snprintf(kept.data(), kept.size(), "%s%s", kind, message);
  if (std::cmp_less(size, kept.size())) return;
  size_t end = kept.size() - 1;
  while (end > 0 && (kept[end - 1] & 0xc0) == 0x80) --end;
  kept[end - 1] = '\0';
}

// Never destroyed: exit handlers may still call in.
inline auto& models() {
  static auto& table = *new HandleTable<const Model, mme_model, 0x4d>("mme_model");
  return table;
}

template <class Body>
mme_status guarded(Body&& body) noexcept {
  try {
    body();
    return MME_OK;
  } catch (const Error& error) {
    keep_error("", error.what());
    return error.status();
  } catch (const std::bad_alloc&) {
    keep_error("", "out of memory");
    return MME_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    keep_error("internal error: ", error.what());
    return MME_INTERNAL;
  }
}

template <class Value>
void require(const Value* pointer, const char* name) {
  if (pointer == nullptr) fail(MME_INVALID_ARGUMENT, name, " is NULL");
}

// UTF-8 that a caller hands in; no bytes may be at NULL.
inline std::string_view given_text(const char* text, size_t size) {
  if (size > 0) require(text, "text");
  return size > 0 ? std::string_view(text, size) : std::string_view();
}

// Structs grow at their end only. The size each had when it was first published: no caller has less.
template <class Struct>
inline constexpr size_t kFirstSize = sizeof(Struct);
template <>
inline constexpr size_t kFirstSize<mme_image> = offsetof(mme_image, color_matrix);
template <>
inline constexpr size_t kFirstSize<mme_result> = offsetof(mme_result, ranking_count);
template <>
inline constexpr size_t kFirstSize<mme_tensor> = offsetof(mme_tensor, memory);
template <>
inline constexpr size_t kFirstSize<mme_timing> = offsetof(mme_timing, begin);
template <>
inline constexpr size_t kFirstSize<mme_model_info> = offsetof(mme_model_info, metric);
template <>
inline constexpr size_t kFirstSize<mme_model_options> = offsetof(mme_model_options, provider);
template <>
inline constexpr size_t kFirstSize<mme_session_options> = offsetof(mme_session_options, top_k);

template <class Struct>
void check_size(const Struct* given, const char* name) {
  require(given, name);
  if (given->struct_size < kFirstSize<Struct> || given->struct_size > sizeof(Struct) + 4096) {
    fail(MME_INVALID_ARGUMENT, name, "->struct_size is ", given->struct_size, "; expected ", sizeof(Struct));
  }
}

// An older caller's struct is a prefix of ours; of a newer caller's, the part unknown here must be zero, or something
// it asks for would be ignored.
template <class Struct>
Struct read(const Struct* given, const char* name) {
  check_size(given, name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (std::any_of(bytes + std::min(sizeof(Struct), given->struct_size), bytes + given->struct_size,
                  [](unsigned char byte) { return byte != 0; })) {
    fail(MME_INVALID_ARGUMENT, name, " sets fields this version of the library does not know; update mmedge");
  }
  Struct value{};
  std::memcpy(&value, given, std::min(sizeof value, given->struct_size));
  return value;
}

// Writes as much as the caller's version has room for, and keeps its struct_size.
template <class Struct>
void write(Struct* out, Struct value) {
  value.struct_size = out->struct_size;
  std::memcpy(out, &value, std::min(sizeof value, out->struct_size));
}

}  // namespace mmedge
