// Every order of threads and blocks that the tests go through.
#pragma once

#include <functional>
#include <utility>

#include "emulator.h"

inline void in_every_order(const std::function<void()>& body) {
  using emulator::Order;
  for (const auto& [order, seed] : {std::pair{Order::kForward, 0U}, {Order::kBackward, 0U}, {Order::kShuffled, 1U}}) {
    emulator::set_order(order, seed);
    body();
  }
  emulator::set_order(Order::kForward);
}
