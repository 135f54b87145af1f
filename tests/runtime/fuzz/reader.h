// Takes a fuzzer's bytes apart from the front, so that a script can write them; past the end it reads zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "mmedge.h"

class Reader {
 public:
  Reader(const uint8_t* bytes, size_t size) : bytes_(bytes), left_(size) {}

  bool empty() const { return left_ == 0; }

  template <class Number>
  Number number() {
    Number value{};
    const size_t take = left_ < sizeof value ? left_ : sizeof value;
    std::memcpy(&value, bytes_, take);
    skip(take);
    return value;
  }

  // Between `least` and `most`, from two bytes.
  size_t within(size_t least, size_t most) { return least + number<uint16_t>() % (most - least + 1); }

  // An allocation of exactly `size` bytes, so that a read past its end is seen. Filled with what is left, again and
  // again.
  std::unique_ptr<uint8_t[]> buffer(size_t size) {
    std::unique_ptr<uint8_t[]> filled(new uint8_t[size]);
    for (size_t done = 0; done < size && left_ > 0;) {
      const size_t take = left_ < size - done ? left_ : size - done;
      std::memcpy(filled.get() + done, bytes_, take);
      done += take;
    }
    if (left_ == 0) std::memset(filled.get(), 0, size);
    return filled;
  }

 private:
  void skip(size_t count) {
    bytes_ += count;
    left_ -= count;
  }

  const uint8_t* bytes_;
  size_t left_;
};

// A property that must hold whatever the input: the fuzzer keeps an input for which it does not.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s (%s)\n", what, mme_last_error());
  std::abort();
}

// A status other than MME_OK has a message, and is never a fault of the library.
inline bool succeeded(mme_status status) {
  require(status != MME_INTERNAL, "no input makes the library fail");
  require(status == MME_OK || *mme_last_error() != '\0', "a failure has a message");
  return status == MME_OK;
}

inline std::string test_bundle() {
  const char* folder = std::getenv("MMEDGE_TEST_BUNDLES");
  require(folder != nullptr, "MMEDGE_TEST_BUNDLES is set");
  return std::string(folder) + "/digits.mme";
}
