#include "engine/engine_store.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "error.h"
#include "files.h"
#include "sha256.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 2;  // of a record

struct Record {
  fs::path engine;
  std::string version;
  std::vector<std::string> compute_capabilities;
  std::string gpu;
  bool version_compatible, hardware_compatible, plugin;
  std::string sha256;
};

fs::path users_cache() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && fs::path(cache).is_absolute()) return fs::path(cache) / "mmedge" / "engines";
  const char* home = std::getenv("HOME");
  std::array<char, 16384> fields{};  // of the user's entry
  if (home == nullptr || *home == '\0') {
    passwd entry{};
    passwd* user = nullptr;
    getpwuid_r(getuid(), &entry, fields.data(), fields.size(), &user);
    home = user == nullptr ? nullptr : user->pw_dir;
  }
  // Engines are native code: never from wherever the process happens to be.
  if (home == nullptr || !fs::path(home).is_absolute()) {
    fail(MME_ENGINE_UNAVAILABLE, "this user has no home directory to look for engines in; name the folder");
  }
  return fs::path(home) / ".cache" / "mmedge" / "engines";
}

// Whether the record `path` is of a TensorRT engine of the graph. Throws json::exception.
bool read_record(const fs::path& path, const std::string& graph_sha256, Record& record) {
  const json read = json::parse(read_file(path));
  if (read.at("format") != kFormat || read.at("builder") != "tensorrt" || read.at("graph_sha256") != graph_sha256) {
    return false;
  }
  record = {fs::path(path).replace_extension(".engine"),
            read.at("version").get<std::string>(),
            read.at("compute_capabilities").get<std::vector<std::string>>(),
            read.at("gpu").get<std::string>(),
            read.at("version_compatible").get<bool>(),
            read.at("hardware_compatible").get<bool>(),
            read.at("plugin").get<bool>(),
            read.at("sha256").get<std::string>()};
  return true;
}

// The numbers of a version, 0 where it ends.
std::array<int, 4> version_numbers(const std::string& text) {
  std::array<int, 4> numbers{};
  const char* from = text.data();
  const char* const end = from + text.size();
  for (int& number : numbers) {
    from = std::from_chars(from, end, number).ptr;
    if (from != end) ++from;  // over the dot
  }
  return numbers;
}

// 0: it does not run here; 1: it was built to run elsewhere too; 2: it was built for this.
int fit(const Record& record, const EngineHost& host) {
  const auto built = version_numbers(record.version), here = version_numbers(host.version);
  const bool same_version = built == here;
  if (!same_version && !(record.version_compatible && built[0] == here[0] && built < here)) return 0;
  const auto& built_for = record.compute_capabilities;
  // Of one compute capability are GPUs of other sizes, on which TensorRT does not support the engine.
  const bool same_gpu = record.gpu == host.gpu &&
                        std::find(built_for.begin(), built_for.end(), host.compute_capability) != built_for.end();
  // Hardware-compatible engines run on Ampere and what came after it.
  if (!same_gpu && !(record.hardware_compatible && std::stoi(host.compute_capability) >= 8)) return 0;
  return same_version && same_gpu ? 2 : 1;
}

std::string describe(const Record& record) {
  std::string gpus;
  for (const std::string& gpu : record.compute_capabilities) gpus += concat(gpus.empty() ? "" : ", ", gpu);
  return concat(record.engine.string(), " was built for TensorRT ", record.version, " and ", record.gpu,
                ", compute capability ", gpus);
}

}  // namespace

StoredEngine find_engine(const std::string& where, const std::string& graph_sha256, const EngineHost& host,
                         const std::string& bundle) {
  const fs::path place = where.empty() ? users_cache() : fs::path(where);
  const std::string remedy = concat("; build one here: mmedge build ", bundle, " --target tensorrt");
  std::error_code error;
  const bool asked_for = place.extension() == ".engine" && !fs::is_directory(place, error);
  std::vector<std::pair<fs::file_time_type, fs::path>> paths;
  if (asked_for) {
    const fs::path record = fs::path(place).replace_extension(".json");
    if (fs::exists(record, error)) paths.emplace_back(fs::file_time_type{}, record);
  } else {
    for (const auto& entry : fs::directory_iterator(place, error)) {
      if (entry.path().extension() == ".json" &&
          entry.path().filename().string().starts_with(graph_sha256.substr(0, 16)))
        paths.emplace_back(fs::last_write_time(entry.path(), error), entry.path());
    }
    std::sort(paths.rbegin(), paths.rend());  // the newest first
  }
  std::string others;
  Record best{};
  int best_fit = 0;
  for (const auto& [_, path] : paths) {
    Record record{};
    try {
      if (!read_record(path, graph_sha256, record)) continue;
    } catch (const json::exception& fault) {
      if (asked_for) fail(MME_ENGINE_FAILED, path.string(), " is no record of an engine: ", fault.what(), remedy);
      continue;
    }
    const int found = fit(record, host);
    if (found > best_fit) {
      best = record;
      best_fit = found;
    } else if (found == 0) {
      others += concat(others.empty() ? "" : "; ", describe(record));
    }
  }
  if (best_fit == 0 && !others.empty()) {
    fail(MME_ENGINE_FAILED, others, "; found TensorRT ", host.version, " and ", host.gpu, ", compute capability ",
         host.compute_capability, remedy);
  }
  if (best_fit == 0) {
    fail(MME_ENGINE_UNAVAILABLE, "found no TensorRT engine of this bundle's graph (", graph_sha256.substr(0, 16),
         ") in ", place.string(), remedy);
  }
  StoredEngine engine{best.engine, read_file(best.engine), best.version_compatible, best.plugin};
  if (sha256(engine.bytes) != best.sha256) {
    fail(MME_ENGINE_FAILED, best.engine.string(), " is missing or damaged: its SHA-256 is not that of its record",
         remedy);
  }
  return engine;
}

}  // namespace mmedge
