// Checking a bundle. The input is a manifest, a zero byte, and the bytes of model.onnx; "@SIZE" and "@SHA256" in the
// manifest stand for those of the graph, so that a changed graph gets past its digest.
#include "bundle_directory.h"
#include "reader.h"

namespace {

void replace(std::string& text, const std::string& what, const std::string& with) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const BundleDirectory directory;
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  std::string manifest = input.substr(0, end);
  const std::string graph = end == std::string::npos ? "" : input.substr(end + 1);
  replace(manifest, "@SIZE", std::to_string(graph.size()));
  replace(manifest, "@SHA256", BundleDirectory::digest(graph));
  directory.write("model.onnx", graph);
  directory.write_manifest(manifest);
  const mme_status status = mme_bundle_check(directory.path().c_str());
  require(status == MME_OK || status == MME_BUNDLE_INVALID, "a bundle is valid or it is not");
  succeeded(status);
  // Once more, its digest not fixed up.
  directory.write("manifest.sha256", graph);
  require(mme_bundle_check(directory.path().c_str()) == MME_BUNDLE_INVALID, "a wrong digest is refused");
  return 0;
}
