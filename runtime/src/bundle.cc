#include "bundle.h"

#include <fstream>

#include "error.h"
#include "sha256.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kSchemaVersion = 1;
constexpr uintmax_t kMaxManifestBytes = 64u << 20;
constexpr uint64_t kMaxDimension = uint64_t{1} << 31;
constexpr const char* kRemedy = "; export the bundle again or copy it anew";

// Reads a file of the bundle, which may be neither absolute nor outside it, by name or through a link.
std::vector<uint8_t> read_inside(const fs::path& directory, const std::string& name, uintmax_t most) {
  const fs::path relative(name);
  bool inside = !name.empty() && relative.is_relative() && name.find('\0') == std::string::npos;
  for (const fs::path& part : relative) inside = inside && part != "..";
  std::error_code error;
  const fs::path root = fs::canonical(directory, error);
  const fs::path file = inside && !error ? fs::canonical(root / relative, error) : fs::path();
  if (inside && error) {
    fail(MME_BUNDLE_INVALID, directory.string(), ": file \"", name, "\" is missing (", error.message(), ")", kRemedy);
  }
  const auto [end, unused] = std::mismatch(root.begin(), root.end(), file.begin(), file.end());
  if (!inside || end != root.end()) {
    fail(MME_BUNDLE_INVALID, directory.string(), ": path \"", name, "\" leads outside the bundle; refused");
  }
  if (!fs::is_regular_file(file, error)) {
    fail(MME_BUNDLE_INVALID, directory.string(), ": \"", name, "\" is not a regular file", kRemedy);
  }
  const uintmax_t size = fs::file_size(file, error);
  if (error || size > most) {
    fail(MME_BUNDLE_INVALID, directory.string(), ": file \"", name, "\" has ", size, " bytes; expected at most ", most,
         kRemedy);
  }
  std::vector<uint8_t> bytes(size);
  std::ifstream stream(file, std::ios::binary);
  stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!stream) {  // set too where the file got shorter in between
    fail(MME_BUNDLE_INVALID, directory.string(), ": file \"", name, "\" cannot be read", kRemedy);
  }
  return bytes;
}

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

void check_files(const fs::path& directory, const json& manifest, Bundle& bundle) {
  const auto graph = manifest.at("graphs").at(0).at("path").get<std::string>();
  bundle.precision = manifest.at("graphs").at(0).at("precision").get<std::string>();
  const json& files = manifest.at("files");
  if (!files.contains(graph)) fail(MME_BUNDLE_INVALID, "graph \"", graph, "\" is not among the files");
  for (const auto& [name, expected] : files.items()) {
    const json& size = expected.at("size");
    std::vector<uint8_t> bytes = read_inside(directory, name, SIZE_MAX / 2);
    if (size != bytes.size()) {
      fail(MME_BUNDLE_INVALID, "file \"", name, "\" has ", bytes.size(), " bytes; the manifest says ", size.dump());
    }
    const std::string found = sha256(bytes);
    if (found != expected.at("sha256").get<std::string>()) {
      fail(MME_BUNDLE_INVALID, "file \"", name, "\" does not match its SHA-256 (found ", found.substr(0, 12), "...)");
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
    bundle.outputs.push_back({output.at("name").get<std::string>(), read_shape(output.at("shape"))});
  }
  bundle.labels = manifest.at("labels").get<std::vector<std::string>>();
  if (bundle.task != "classification") fail(MME_BUNDLE_INVALID, "task \"", bundle.task, "\" is not known");
  if (bundle.inputs.empty() || bundle.outputs.empty()) fail(MME_BUNDLE_INVALID, "it has no inputs or no outputs");
  if (bundle.outputs[0].shape != std::vector<int64_t>{static_cast<int64_t>(bundle.labels.size())}) {
    fail(MME_BUNDLE_INVALID, "output \"", bundle.outputs[0].name, "\" does not have one value per label");
  }
}

}  // namespace

Bundle open_bundle(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    fail(MME_BUNDLE_INVALID, directory.string(), ": no such bundle directory; expected one written by mmedge export");
  }
  const std::vector<uint8_t> text = read_inside(directory, "manifest.json", kMaxManifestBytes);
  const std::vector<uint8_t> digest = read_inside(directory, "manifest.sha256", 4096);
  Bundle bundle;
  bundle.manifest.assign(text.begin(), text.end());
  try {
    const std::string expected = sha256(text) + "  manifest.json\n";
    if (std::string(digest.begin(), digest.end()) != expected) {
      fail(MME_BUNDLE_INVALID, "manifest.json does not match manifest.sha256");
    }
    const json manifest = json::parse(text.begin(), text.end());
    const json& version = manifest.at("schema_version");
    if (!version.is_number_integer() || version.get<int64_t>() < 1 || version.get<int64_t>() > kSchemaVersion) {
      fail(MME_BUNDLE_INVALID, "found manifest schema version ", version.dump(), "; this library reads 1 to ",
           kSchemaVersion, ", so update mmedge");
    }
    read_manifest(manifest, bundle);
    check_files(directory, manifest, bundle);
  } catch (const json::exception& exception) {
    fail(MME_BUNDLE_INVALID, directory.string(), ": manifest.json is malformed: ", exception.what(), kRemedy);
  } catch (const Error& failure) {
    if (std::string(failure.what()).starts_with(directory.string())) throw;
    fail(failure.status(), directory.string(), ": ", failure.what(), kRemedy);
  }
  return bundle;
}

}  // namespace mmedge
