#include "bundle.h"

#include <algorithm>
#include <set>

#include "error.h"
#include "files.h"
#include "json.h"
#include "preprocess/preprocess.h"
#include "sha256.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kSchemaVersion = 1;
constexpr uintmax_t kMaxManifestBytes = 64u << 20;
constexpr uint64_t kMaxDimension = uint64_t{1} << 31;
constexpr const char* kRemedy = "; export the bundle again or copy it anew";

std::vector<int64_t> read_shape(const json& value) {
  std::vector<int64_t> shape;
  for (const json& dimension : value) {
    // The parser holds whole numbers from 0 on as unsigned; others must not be converted before they are known to fit.
    const bool fixed = dimension.is_number_unsigned() && dimension.get<uint64_t>() - 1 < kMaxDimension;
    if (!fixed && (dimension.is_number_unsigned() || !dimension.is_number_integer() || dimension != -1)) {
      fail(MME_BUNDLE_INVALID, "a shape holds ", dimension.dump());
    }
    shape.push_back(dimension.get<int64_t>());
  }
  return shape;
}

const char* kind_name(OutputKind kind) {
  switch (kind) {
    case OutputKind::kLogits:
      return "logits";
    case OutputKind::kEmbedding:
      return "embedding";
    case OutputKind::kRelevance:
      return "relevance";
    case OutputKind::kModalityWeights:
      return "modality_weights";
  }
  return "";
}

OutputKind read_kind(const std::string& name) {
  for (const OutputKind kind :
       {OutputKind::kLogits, OutputKind::kEmbedding, OutputKind::kRelevance, OutputKind::kModalityWeights}) {
    if (name == kind_name(kind)) return kind;
  }
  fail(MME_BUNDLE_INVALID, "output kind \"", name, "\" is not known");
}

// Half, if the manifest is silent.
float read_probability(const json& manifest, const char* key) {
  const auto value = manifest.value(key, 0.5);
  if (!(value >= 0 && value <= 1)) fail(MME_BUNDLE_INVALID, key, " is ", value, "; expected 0 to 1");
  return static_cast<float>(value);
}

// The shape of the output of a kind that the task has exactly one of; -1 stands for any size.
void check_output(const Bundle& bundle, OutputKind kind, const std::vector<int64_t>& expected) {
  const auto index = bundle.output(kind);
  if (!index) fail(MME_BUNDLE_INVALID, "task \"", bundle.task, "\" needs an output of kind ", kind_name(kind));
  const BundleOutput& output = bundle.outputs[*index];
  const bool fits = std::equal(output.shape.begin(), output.shape.end(), expected.begin(), expected.end(),
                               [](int64_t found, int64_t wanted) { return wanted == -1 || found == wanted; });
  if (!fits) {
    fail(MME_BUNDLE_INVALID, "output \"", output.name, "\" of kind ", kind_name(kind), " has shape ",
         json(output.shape).dump(), "; expected ", json(expected).dump(), ", where -1 stands for any size");
  }
}

// The engine knows its tensors by their names.
void check_names(const Bundle& bundle) {
  std::set<std::string> inputs = {bundle.presence}, outputs;
  const auto add = [](std::set<std::string>& known, const std::string& name) {
    if (!known.insert(name).second) fail(MME_BUNDLE_INVALID, "two inputs or two outputs are named \"", name, "\"");
  };
  for (const BundleInput& input : bundle.inputs) add(inputs, input.name);
  for (const BundleOutput& output : bundle.outputs) add(outputs, output.name);
}

// What each task has: its outputs, and settings that say nothing to another.
void check_task(const Bundle& bundle) {
  if (bundle.inputs.empty() || bundle.outputs.empty()) fail(MME_BUNDLE_INVALID, "it has no inputs or no outputs");
  const auto count = [](size_t size) { return static_cast<int64_t>(size); };
  size_t expected = 1;
  if (bundle.task == "embedding") {
    check_output(bundle, OutputKind::kEmbedding, {-1});
    if (bundle.metric != "cosine" && bundle.metric != "euclidean") {
      fail(MME_BUNDLE_INVALID, "metric is \"", bundle.metric, R"("; expected "cosine" or "euclidean")");
    }
  } else if (bundle.task == "classification" || bundle.task == "vqa") {
    if (bundle.labels.empty()) fail(MME_BUNDLE_INVALID, "task \"", bundle.task, "\" needs labels");
    if (std::set(bundle.labels.begin(), bundle.labels.end()).size() != bundle.labels.size()) {
      fail(MME_BUNDLE_INVALID, "a label is there twice");
    }
    check_output(bundle, OutputKind::kLogits, {count(bundle.labels.size())});
    if (!bundle.metric.empty()) fail(MME_BUNDLE_INVALID, "a metric is given; only task \"embedding\" has one");
  } else {
    fail(MME_BUNDLE_INVALID, "task \"", bundle.task, "\" is not known");
  }
  if (bundle.task == "vqa") {
    check_output(bundle, OutputKind::kRelevance, {-1, -1});
    ++expected;
    const auto images = std::count_if(bundle.inputs.begin(), bundle.inputs.end(),
                                      [](const BundleInput& input) { return input.modality == "image"; });
    if (images != 1) fail(MME_BUNDLE_INVALID, "task \"vqa\" has ", images, " image inputs; expected one");
  }
  if (bundle.output(OutputKind::kModalityWeights)) {
    check_output(bundle, OutputKind::kModalityWeights, {count(bundle.inputs.size())});
    ++expected;
  }
  if (bundle.outputs.size() != expected) {
    fail(MME_BUNDLE_INVALID, "task \"", bundle.task, "\" has ", bundle.outputs.size(), " outputs; expected ", expected,
         ", one of each of its kinds");
  }
  if (bundle.multi_label && bundle.task != "classification") {
    fail(MME_BUNDLE_INVALID, "multi_label is set; only task \"classification\" has it");
  }
}

struct GraphFile {
  std::string path, target, precision;
};

// Floating point is the same everywhere. Integers are not: TensorRT takes unsigned ones for signed, without a word.
const GraphFile& choose_graph(const std::vector<GraphFile>& graphs, std::string_view provider) {
  const auto fits = [provider](const GraphFile& graph) {
    return graph.target.starts_with("tensorrt") == provider.starts_with("tensorrt");
  };
  const auto found = std::find_if(graphs.begin(), graphs.end(), fits);
  if (found != graphs.end()) return *found;
  if (graphs[0].precision == "int8") {
    fail(MME_BUNDLE_INVALID, "it has no INT8 graph for provider \"", provider, "\", only one for ", graphs[0].target,
         "; take the fp32 bundle it was made of");
  }
  return graphs[0];
}

// At least one.
std::vector<GraphFile> read_graphs(const json& manifest) {
  std::vector<GraphFile> graphs;
  for (const json& graph : manifest.at("graphs").get<std::vector<json>>()) {
    graphs.push_back({graph.at("path").get<std::string>(), graph.at("target").get<std::string>(),
                      graph.at("precision").get<std::string>()});
  }
  if (graphs.empty()) fail(MME_BUNDLE_INVALID, "it has no graph");
  return graphs;
}

// Every file, among which `graphs` must be. The bytes of `graph` are kept.
void check_files(const fs::path& directory, const json& files, const std::vector<GraphFile>& graphs,
                 const std::string& graph, Bundle& bundle) {
  for (const GraphFile& needed : graphs) {
    if (!files.contains(needed.path)) {
      fail(MME_BUNDLE_INVALID, "graph \"", needed.path, "\" is not among the files");
    }
  }
  for (const auto& [name, expected] : files.items()) {
    const json& size = expected.at("size");
    std::vector<uint8_t> bytes = read_inside(directory, name, SIZE_MAX / 2, MME_BUNDLE_INVALID);
    if (size != bytes.size()) {
      fail(MME_BUNDLE_INVALID, "file \"", name, "\" has ", bytes.size(), " bytes; the manifest says ", size.dump());
    }
    const std::string found = sha256(bytes);
    if (found != expected.at("sha256").get<std::string>()) {
      fail(MME_BUNDLE_INVALID, "file \"", name, "\" does not match its SHA-256 (found ", found.substr(0, 12), "...)");
    }
    for (const BundleInput& input : bundle.inputs) {
      if (names_file(input.preprocess, name)) bundle.files[name] = bytes;
    }
    if (name == graph) {
      bundle.graph = std::move(bytes);
      bundle.graph_sha256 = found;
    }
  }
}

void read_manifest(const json& manifest, Bundle& bundle) {
  bundle.name = manifest.at("name").get<std::string>();
  bundle.task = manifest.at("task").get<std::string>();
  bundle.presence = manifest.at("presence").get<std::string>();
  for (const json& input : manifest.at("inputs")) {
    bundle.inputs.push_back({input.at("name").get<std::string>(), input.at("modality").get<std::string>(),
                             input.value("dtype", "float32"), read_shape(input.at("shape")), input.at("preprocess")});
  }
  for (const json& output : manifest.at("outputs")) {
    bundle.outputs.push_back({output.at("name").get<std::string>(), read_kind(output.at("kind").get<std::string>()),
                              read_shape(output.at("shape"))});
  }
  bundle.labels = manifest.at("labels").get<std::vector<std::string>>();
  bundle.multi_label = manifest.value("multi_label", false);
  bundle.threshold = read_probability(manifest, "threshold");
  bundle.region_threshold = read_probability(manifest, "region_threshold");
  const json metric = manifest.value("metric", json());
  if (!metric.is_null()) bundle.metric = metric.get<std::string>();
  check_task(bundle);
  check_names(bundle);
}

// Its messages do not name the directory.
Bundle read_bundle(const fs::path& directory, std::optional<std::string_view> provider) {
  const std::vector<uint8_t> text = read_inside(directory, "manifest.json", kMaxManifestBytes, MME_BUNDLE_INVALID);
  const std::vector<uint8_t> digest = read_inside(directory, "manifest.sha256", 4096, MME_BUNDLE_INVALID);
  const std::string expected = sha256(text) + "  manifest.json\n";
  if (std::string(digest.begin(), digest.end()) != expected) {
    fail(MME_BUNDLE_INVALID, "manifest.json does not match manifest.sha256");
  }
  Bundle bundle;
  bundle.manifest.assign(text.begin(), text.end());
  const json manifest = parse_json(bundle.manifest, MME_BUNDLE_INVALID);
  const json& version = manifest.at("schema_version");
  if (!version.is_number_integer() || version.get<int64_t>() < 1 || version.get<int64_t>() > kSchemaVersion) {
    fail(MME_BUNDLE_INVALID, "found manifest schema version ", version.dump(), "; this library reads 1 to ",
         kSchemaVersion, ", so update mmedge");
  }
  read_manifest(manifest, bundle);
  std::vector<GraphFile> graphs = read_graphs(manifest);
  std::string graph;
  if (provider) {
    graphs = {choose_graph(graphs, *provider)};
    graph = graphs[0].path;
    bundle.precision = graphs[0].precision;
  }
  check_files(directory, manifest.at("files"), graphs, graph, bundle);
  return bundle;
}

}  // namespace

std::optional<size_t> Bundle::output(OutputKind kind) const {
  const auto found = std::find_if(outputs.begin(), outputs.end(), [kind](auto& output) { return output.kind == kind; });
  return found == outputs.end() ? std::nullopt : std::optional(static_cast<size_t>(found - outputs.begin()));
}

Bundle open_bundle(const fs::path& directory, std::optional<std::string_view> provider) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    fail(MME_BUNDLE_INVALID, directory.string(), ": no such bundle directory; expected one written by mmedge export");
  }
  try {
    return read_bundle(directory, provider);
  } catch (const json::exception& exception) {
    fail(MME_BUNDLE_INVALID, directory.string(), ": manifest.json is malformed: ", exception.what(), kRemedy);
  } catch (const Error& failure) {
    fail(failure.status(), directory.string(), ": ", failure.what(), kRemedy);
  }
}

}  // namespace mmedge
