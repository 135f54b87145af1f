// Loading a gallery: the input is a file but for the SHA-256 at its end, which fits, so that a changed header gets past
// it. What loads is searched, and saved as the same bytes.
#include <vector>

#include "bundle_directory.h"
#include "reader.h"

namespace {

std::string read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const BundleDirectory directory;
  const std::string path = directory.path() + "/gallery";
  std::string file(reinterpret_cast<const char*>(data), size);
  const std::string digest = BundleDirectory::digest(file);
  for (size_t i = 0; i < digest.size(); i += 2) {
    file.push_back(static_cast<char>(std::stoi(digest.substr(i, 2), nullptr, 16)));
  }
  directory.write("gallery", file);
  mme_gallery* gallery = nullptr;
  const mme_status status = mme_gallery_load(path.c_str(), &gallery);
  require(status == MME_OK || status == MME_BAD_INPUT, "a gallery loads or it does not");
  if (!succeeded(status)) return 0;
  mme_gallery_info info{};
  info.struct_size = sizeof info;
  require(succeeded(mme_gallery_get_info(gallery, &info)), "a loaded gallery has an info");
  const std::vector<float> query(info.dimension, 0.5F);
  std::vector<mme_match> matches(info.count + 1);
  matches[0].struct_size = sizeof(mme_match);
  size_t found = 0;
  require(succeeded(mme_gallery_search(gallery, query.data(), query.size(), matches.size(), matches.data(), &found)),
          "a loaded gallery is searched");
  for (size_t i = 1; i < found; ++i) {
    require(info.metric == MME_EUCLIDEAN ? matches[i - 1].score <= matches[i].score
                                         : matches[i - 1].score >= matches[i].score,
            "best first");
  }
  require(succeeded(mme_gallery_save(gallery, path.c_str())), "a loaded gallery is saved");
  require(read(path) == file, "it is saved as it was");
  if (found > 0) {
    const std::string name = matches[0].name;
    require(succeeded(mme_gallery_remove(gallery, name.c_str())), "what was found is removed");
    require(mme_gallery_remove(gallery, name.c_str()) == MME_INVALID_ARGUMENT, "and is gone");
  }
  require(succeeded(mme_gallery_destroy(gallery)), "a gallery is released");
  return 0;
}
