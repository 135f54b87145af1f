#include "engine/own_library.h"

#include <dlfcn.h>

#include "error.h"

namespace mmedge {

OwnLibrary open_own(const std::string& name) {
  void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle != nullptr) return {handle, ""};
  const std::string fault = dlerror();
  // Of one that it found the loader gives the path, or names what that lacks.
  if (fault.starts_with(name + ":")) return {nullptr, concat("this build of mmedge has no ", name)};
  return {nullptr, concat(name, " does not load: ", fault)};
}

}  // namespace mmedge
