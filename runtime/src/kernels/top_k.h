// The k best of a stream of items, in memory the caller lends: nothing is allocated.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

namespace mmedge {

// `before(a, b)`: a ranks before b; a strict order in which no two items offered are equal. `room` holds k items, at
// least 1. One comparison for an item that is not among the best, log k for one that is.
template <class Item, class Before>
class TopK {
 public:
  TopK(std::span<Item> room, Before before) : room_(room), before_(before) {}

  void offer(const Item& item) {
    if (count_ < room_.size()) {
      room_[count_++] = item;
      std::push_heap(room_.begin(), end(), before_);
    } else if (before_(item, room_.front())) {  // the heap's front ranks last
      std::pop_heap(room_.begin(), end(), before_);
      room_.back() = item;
      std::push_heap(room_.begin(), end(), before_);
    }
  }

  // What was kept, best first.
  std::span<Item> sort() {
    std::sort_heap(room_.begin(), end(), before_);
    return room_.first(count_);
  }

 private:
  auto end() { return room_.begin() + static_cast<std::ptrdiff_t>(count_); }

  std::span<Item> room_;
  Before before_;
  std::size_t count_ = 0;
};

}  // namespace mmedge
