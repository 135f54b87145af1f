// What steady state is without. steady_events.cc replaces the process's allocation functions and pthread_mutex_lock,
// counts their calls on the testing thread while a test looks, and leaves out those with a frame of the engine below
// them.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

// What `steady` does that steady state should not, a line for each place and how often; "" if nothing.
std::string events_of(const std::function<void()>& steady);

// Counted by the last events_of(): all that it tells of, and what it left out as the engine's.
extern size_t happened, of_the_engine;
