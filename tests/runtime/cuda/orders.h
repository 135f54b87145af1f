// Every order of threads and blocks that the tests go through. A GPU has its own: there once is all.
#pragma once

#include <functional>
#include <utility>

#ifdef MMEDGE_EMULATED
#include "emulator.h"

inline void in_every_order(const std::function<void()>& body) {
  using emulator::Order;
  for (const auto& [order, seed] : {std::pair{Order::kForward, 0U}, {Order::kBackward, 0U}, {Order::kShuffled, 1U}}) {
    emulator::set_order(order, seed);
    body();
  }
  emulator::set_order(Order::kForward);
}
#else
inline void in_every_order(const std::function<void()>& body) { body(); }
#endif
