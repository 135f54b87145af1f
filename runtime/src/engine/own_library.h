// The libraries of ours that libmmedge opens where they are.
#pragma once

#include <string>

namespace mmedge {

struct OwnLibrary {
  void* handle;       // never closed; null where it does not open:
  std::string fault;  // why, such as "this build of mmedge has no libmmedge_cuda.so"
};

// By its file's name: it lies beside this library, where its run path leads.
OwnLibrary open_own(const std::string& name);

}  // namespace mmedge
