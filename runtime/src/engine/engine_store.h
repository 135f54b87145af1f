// Engines that mmedge build compiled: which of them runs here.
//
// An engine lies in NAME.engine and is described by NAME.json beside it: the graph it was made of, the TensorRT and the
// GPUs it was made for, its hash. All of that is looked at before TensorRT sees a byte of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace mmedge {

// What runs here.
struct EngineHost {
  std::string version;             // of TensorRT, all four numbers, such as "10.3.0.30"
  std::string compute_capability;  // such as "8.7"
  std::string gpu;                 // its model, such as "Orin (8 multiprocessors)"
};

struct StoredEngine {
  std::filesystem::path path;
  std::vector<uint8_t> bytes;  // checked
  bool version_compatible;
  bool plugin;  // it needs mmedge's
};

// `where`: an engine's file, a directory of them, or empty: mmedge/engines in the user's cache. Of several that fit
// equally the newest is taken. `bundle`: for messages. Throws MME_ENGINE_UNAVAILABLE where there is no engine of this
// graph, MME_ENGINE_FAILED where none of them was built for this host or the one that was is damaged.
StoredEngine find_engine(const std::string& where, const std::string& graph_sha256, const EngineHost& host,
                         const std::string& bundle);

}  // namespace mmedge
