// A bundle directory whose manifest a fuzzer writes; the manifest's own digest always matches it.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include "sha256.h"

class BundleDirectory {
 public:
  BundleDirectory() { std::filesystem::create_directories(path_); }
  BundleDirectory(const BundleDirectory&) = delete;
  BundleDirectory& operator=(const BundleDirectory&) = delete;
  ~BundleDirectory() { std::filesystem::remove_all(path_); }

  std::string path() const { return path_.string(); }

  void write(const char* name, const std::string& text) const { std::ofstream(path_ / name, std::ios::binary) << text; }

  void write_manifest(const std::string& text) const {
    write("manifest.json", text);
    write("manifest.sha256", digest(text) + "  manifest.json\n");
  }

  static std::string digest(const std::string& text) {
    return mmedge::sha256({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

 private:
  // In memory where the system has it: an input is written every time.
  std::filesystem::path path_ = std::filesystem::path(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp") /
                                ("mmedge-fuzz-" + std::to_string(getpid()) + ".mme");
};
