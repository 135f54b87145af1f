// A bundle directory, checked before use: the manifest's own digest, its schema, every file's size and hash, and that
// no path leaves the directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace mmedge {

struct BundleInput {
  std::string name;
  std::string modality;
  std::string type;            // of its elements, such as "float32"
  std::vector<int64_t> shape;  // no batch dimension; -1 varies
  nlohmann::json preprocess;
};

struct BundleOutput {
  std::string name;
  std::vector<int64_t> shape;  // no batch dimension
};

struct Bundle {
  std::string name;
  std::string task;
  std::string presence;  // name of the presence input; its order is that of `inputs`
  std::vector<BundleInput> inputs;
  std::vector<BundleOutput> outputs;
  std::vector<std::string> labels;
  std::string precision;  // of the graph, such as "fp32"
  std::string graph_sha256;
  std::vector<uint8_t> graph;  // the verified bytes themselves, so nothing can change between check and use
  std::string manifest;
};

// Throws MME_BUNDLE_INVALID.
Bundle open_bundle(const std::filesystem::path& directory);

}  // namespace mmedge
