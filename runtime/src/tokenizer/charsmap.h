// SentencePiece's compiled character map: a double array trie of byte sequences and what they become.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mmedge {

class Charsmap {
 public:
  // Of its base64 text; throws MME_INVALID_ARGUMENT on what cannot be one.
  explicit Charsmap(std::string_view base64);

  // What `chunk` becomes, or nothing where no entry is a beginning of it. As the reference does, the shortest entry
  // decides for the whole chunk.
  std::optional<std::string_view> find(std::string_view chunk) const;

 private:
  std::vector<uint32_t> units_;
  std::string contents_;
};

}  // namespace mmedge
