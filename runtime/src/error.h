// The one exception of the library: a status and its message. api.cc turns it into the C ABI's return value.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "mmedge.h"

namespace mmedge {

class Error : public std::runtime_error {
 public:
  Error(mme_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  mme_status status() const { return status_; }

 private:
  mme_status status_;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

template <class... Parts>
[[noreturn]] void fail(mme_status status, const Parts&... parts) {
  throw Error(status, concat(parts...));
}

}  // namespace mmedge
