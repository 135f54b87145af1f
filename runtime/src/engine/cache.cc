#include "engine/cache.h"

#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
#include <atomic>
#include <cstdio>

#include "error.h"
#include "files.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;

// Against damage, not against attackers: whoever can write here could as well change the program. SHA-256 would take
// longer than the cache saves.
std::string checksum(const std::vector<uint8_t>& bytes) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx",
                static_cast<unsigned long long>(XXH3_64bits(bytes.data(), bytes.size())));
  return text.data();
}

}  // namespace

GraphCache::GraphCache(const std::string& directory, std::string key) : directory_(directory), key_(std::move(key)) {
  std::error_code error;
  if (!fs::is_directory(directory_, error)) {
    fail(MME_INVALID_ARGUMENT, "options->cache: \"", directory, "\" is not a directory; make it first");
  }
  static std::atomic<unsigned> number{0};
  scratch_ = directory_ / concat(key_, ".", getpid(), ".", number.fetch_add(1), ".tmp");
}

std::vector<fs::path> GraphCache::entries() const {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(key_ + "-") && name.ends_with(".onnx")) found.push_back(entry.path());
  }
  return found;
}

std::optional<std::vector<uint8_t>> GraphCache::load() const {
  for (const fs::path& entry : entries()) {
    std::vector<uint8_t> bytes = read_file(entry);
    if (entry.filename().string() == concat(key_, "-", checksum(bytes), ".onnx")) return bytes;
  }
  return std::nullopt;
}

void GraphCache::keep() const {
  std::error_code error;
  if (!fs::exists(scratch_, error)) return;
  const fs::path kept = directory_ / concat(key_, "-", checksum(read_file(scratch_)), ".onnx");
  for (const fs::path& entry : entries()) {
    if (entry != kept) fs::remove(entry, error);
  }
  fs::rename(scratch_, kept, error);
  if (error) drop();
}

void GraphCache::drop() const {
  std::error_code error;
  fs::remove(scratch_, error);
}

}  // namespace mmedge
