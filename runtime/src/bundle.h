// A bundle directory, checked before use: the manifest's own digest, its schema, every file's size and hash, and that
// no path leaves the directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mmedge {

struct BundleInput {
  std::string name;
  std::string modality;
  std::string type;            // of its elements, such as "float32"
  std::vector<int64_t> shape;  // no batch dimension; -1 varies
  nlohmann::json preprocess;
};

enum class OutputKind : uint8_t { kLogits, kEmbedding, kRelevance, kModalityWeights };

struct BundleOutput {
  std::string name;
  OutputKind kind;
  std::vector<int64_t> shape;  // no batch dimension
};

struct Bundle {
  std::string name;
  std::string task;          // "classification", "embedding" or "vqa"
  bool multi_label = false;  // of a classification: its classes do not exclude each other
  float threshold = 0.5F;    // of a multi-label class's probability
  float region_threshold = 0.5F;
  std::string metric;    // "cosine" or "euclidean" of an embedding; else ""
  std::string presence;  // name of the presence input; its order is that of `inputs`
  std::vector<BundleInput> inputs;
  std::vector<BundleOutput> outputs;  // no two of a kind
  std::vector<std::string> labels;
  std::string precision;  // of the graph, such as "fp32"
  std::string graph_sha256;
  std::vector<uint8_t> graph;  // the verified bytes themselves, so nothing can change between check and use
  std::map<std::string, std::vector<uint8_t>> files;  // those that preprocessing names, verified too
  std::string manifest;

  // Which output is of this kind.
  std::optional<size_t> output(OutputKind kind) const;
};

// With the graph that is written for `provider`, as mme_model_options has it; without one every graph must be there,
// and none is taken. Throws MME_BUNDLE_INVALID.
Bundle open_bundle(const std::filesystem::path& directory, std::optional<std::string_view> provider);

}  // namespace mmedge
