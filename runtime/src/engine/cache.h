// What an engine made of a graph, kept in a directory for the next start.
//
// One file per key, KEY-CHECKSUM.onnx, written beside its place and renamed; CHECKSUM is the XXH3 of what it holds, so
// a file cut short or damaged is not taken. A key names everything that decides whether the file fits: see
// onnxruntime.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace mmedge {

class GraphCache {
 public:
  // Throws MME_INVALID_ARGUMENT where `directory` is not one.
  GraphCache(const std::string& directory, std::string key);

  // The bytes kept under the key; none where there are none, or they are damaged.
  std::optional<std::vector<uint8_t>> load() const;
  // Where the engine is to write; this process's own.
  const std::filesystem::path& scratch() const { return scratch_; }
  // Keeps what the engine wrote at scratch(), in place of what was kept before; nothing where it wrote nothing. A full
  // or read-only disk costs the next start its head start, so it is no error.
  void keep() const;
  // Removes what the engine wrote at scratch(), if anything.
  void drop() const;

 private:
  std::vector<std::filesystem::path> entries() const;

  std::filesystem::path directory_;
  std::string key_;
  std::filesystem::path scratch_;
};

}  // namespace mmedge
