#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <cstddef>

namespace mmedge {

Vocabulary::Vocabulary(std::vector<std::pair<std::string, int32_t>> tokens) {
  std::sort(tokens.begin(), tokens.end());
  // The tokens that begin alike, and with how many bytes: a node still to be written. Level by level.
  struct Range {
    size_t first, last, length;
  };
  std::vector<Range> level{{0, tokens.size(), 0}}, next;
  labels_.push_back(0);
  while (!level.empty()) {
    next.clear();
    for (const Range& range : level) {
      size_t first = range.first;
      int32_t id = -1;
      for (; first < range.last && tokens[first].first.size() == range.length; ++first) id = tokens[first].second;
      if (id >= 0) ++size_;
      ids_.push_back(id);
      first_.push_back(static_cast<uint32_t>(labels_.size()));
      while (first < range.last) {
        const char byte = tokens[first].first[range.length];
        size_t end = first;
        while (end < range.last && tokens[end].first[range.length] == byte) ++end;
        labels_.push_back(static_cast<uint8_t>(byte));
        next.push_back({first, end, range.length + 1});
        first = end;
      }
    }
    level.swap(next);
  }
  first_.push_back(static_cast<uint32_t>(labels_.size()));
}

Vocabulary::Node Vocabulary::step(Node node, char byte) const {
  const auto begin = labels_.begin() + first_[node], end = labels_.begin() + first_[node + 1];
  const auto found = std::lower_bound(begin, end, static_cast<uint8_t>(byte));
  return found != end && *found == static_cast<uint8_t>(byte) ? static_cast<Node>(found - labels_.begin()) : kNone;
}

Vocabulary::Node Vocabulary::walk(Node node, std::string_view text) const {
  for (const char byte : text) {
    node = step(node, byte);
    if (node == kNone) break;
  }
  return node;
}

}  // namespace mmedge
