#include "engine/exiting.h"

#include <atomic>
#include <cstdlib>

namespace mmedge {
namespace {

std::atomic<bool> exit_began{false};

}  // namespace

bool exiting() { return exit_began.load(); }

void watch_exit() {
  std::atexit([] { exit_began.store(true); });
}

}  // namespace mmedge
