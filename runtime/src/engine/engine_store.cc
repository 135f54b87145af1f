#include "engine/engine_store.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "error.h"
#include "sha256.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 1;  // of a record

struct Record {
  fs::path engine;
  std::string version;
  std::vector<std::string> compute_capabilities;
  bool version_compatible, hardware_compatible, plugin;
  std::string sha256;
};

fs::path users_cache() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  const std::string cache = variable("XDG_CACHE_HOME");
  return (cache.empty() ? fs::path(variable("HOME")) / ".cache" : fs::path(cache)) / "mmedge" / "engines";
}

std::vector<uint8_t> read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
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
            read.at("version_compatible").get<bool>(),
            read.at("hardware_compatible").get<bool>(),
            read.at("plugin").get<bool>(),
            read.at("sha256").get<std::string>()};
  return true;
}

// The first three numbers of a version, as getInferLibVersion() would have them.
int version_number(const std::string& text) {
  int parts[3] = {};
  const char* from = text.data();
  const char* const end = from + text.size();
  for (int& part : parts) {
    from = std::from_chars(from, end, part).ptr;
    if (from != end) ++from;  // over the dot
  }
  return parts[0] * 10000 + parts[1] * 100 + parts[2];
}

// 0: it does not run here; 1: it was built to run elsewhere too; 2: it was built for this.
int fit(const Record& record, const EngineHost& host) {
  const int built = version_number(record.version);
  const bool same_version = built == host.version;
  if (!same_version && !(record.version_compatible && built / 10000 == host.version / 10000 && built < host.version)) {
    return 0;
  }
  const auto& built_for = record.compute_capabilities;
  const bool same_gpu = std::find(built_for.begin(), built_for.end(), host.compute_capability) != built_for.end();
  // Hardware-compatible engines run on Ampere and what came after it.
  if (!same_gpu && !(record.hardware_compatible && std::stoi(host.compute_capability) >= 8)) return 0;
  return same_version && same_gpu ? 2 : 1;
}

std::string describe(const Record& record) {
  std::string gpus;
  for (const std::string& gpu : record.compute_capabilities) gpus += concat(gpus.empty() ? "" : ", ", gpu);
  return concat(record.engine.string(), " was built for TensorRT ", record.version, " and compute capability ", gpus);
}

}  // namespace

std::string tensorrt_version_text(int version) {
  return concat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

StoredEngine find_engine(const std::string& where, const std::string& graph_sha256, const EngineHost& host,
                         const std::string& bundle) {
  const fs::path place = where.empty() ? users_cache() : fs::path(where);
  const std::string remedy = concat("; build one here: mmedge build ", bundle, " --target tensorrt");
  std::error_code error;
  const bool asked_for = !where.empty() && !fs::is_directory(place, error);
  std::vector<fs::path> paths;
  if (asked_for) {
    paths.push_back(fs::path(place).replace_extension(".json"));
  } else {
    for (const auto& entry : fs::directory_iterator(place, error)) {
      if (entry.path().extension() == ".json" &&
          entry.path().filename().string().starts_with(graph_sha256.substr(0, 16)))
        paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end(), [](const fs::path& one, const fs::path& other) {
      std::error_code gone;
      return fs::last_write_time(one, gone) > fs::last_write_time(other, gone);
    });
  }
  std::string others;
  Record best{};
  int best_fit = 0;
  for (const fs::path& path : paths) {
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
    fail(MME_ENGINE_FAILED, others, "; found TensorRT ", tensorrt_version_text(host.version),
         " and compute capability ", host.compute_capability, " (", host.gpu, ")", remedy);
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
