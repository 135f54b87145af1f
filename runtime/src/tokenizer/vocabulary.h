// A model's tokens, found byte by byte.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mmedge {

// A trie of byte strings, 9 bytes a node: the children of a node lie side by side, in the order of their bytes.
class Vocabulary {
 public:
  using Node = uint32_t;
  static constexpr Node kRoot = 0, kNone = UINT32_MAX;

  Vocabulary() = default;
  // Of tokens and their ids; of equal tokens the one with the highest id counts.
  explicit Vocabulary(std::vector<std::pair<std::string, int32_t>> tokens);

  // The node one byte further, or kNone.
  Node step(Node node, char byte) const;
  // The node of `text` below `node`, or kNone.
  Node walk(Node node, std::string_view text) const;
  // The id of the token that ends at `node`, or -1.
  int32_t id(Node node) const { return ids_[node]; }
  // The id of a token, or -1.
  int32_t find(std::string_view token) const {
    const Node node = walk(kRoot, token);
    return node == kNone ? -1 : id(node);
  }
  // Different tokens.
  size_t size() const { return size_; }

 private:
  std::vector<uint32_t> first_;  // child of each node, and one more: where the last one's children end
  std::vector<uint8_t> labels_;
  std::vector<int32_t> ids_;
  size_t size_ = 0;
};

}  // namespace mmedge
