// The end of a process: engines' own statics go before the objects made of them may.
#pragma once

namespace mmedge {

// Whether the process's exit handlers have begun, since watch_exit() was called. From then on an engine's objects are
// left to the operating system.
bool exiting();

// Once an engine's library is open, so that its own exit handlers run after ours.
void watch_exit();

}  // namespace mmedge
