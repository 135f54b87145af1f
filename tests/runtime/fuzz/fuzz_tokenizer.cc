// A tokenizer file and a text: the input is the length of the tensor, the file up to a NUL, and then the text.
#include <algorithm>
#include <vector>

#include "bundle_directory.h"
#include "reader.h"

namespace {

std::vector<int32_t> ids_of(mme_preprocessor* preprocessor, const uint8_t* text, size_t size) {
  mme_tensor tensor{};
  tensor.struct_size = sizeof tensor;
  const mme_status status = mme_preprocessor_text(preprocessor, reinterpret_cast<const char*>(text), size, &tensor);
  require(status == MME_OK || status == MME_BAD_INPUT, "a text is UTF-8 or not");
  const bool ascii = std::all_of(text, text + size, [](uint8_t byte) { return byte < 0x80; });
  require(succeeded(status) || !ascii, "ASCII is UTF-8");
  if (status != MME_OK) return {};
  const auto* values = static_cast<const int32_t*>(tensor.data);
  return {values, values + tensor.size / sizeof(int32_t)};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const BundleDirectory directory;
  if (size < 1) return 0;
  const size_t max_length = data[0] + size_t{1};
  const uint8_t* end = std::find(data + 1, data + size, uint8_t{0});
  directory.write("tokenizer.json", std::string(data + 1, end));
  const std::string parameters =
      R"({"type": "text", "tokenizer": "tokenizer.json", "max_length": )" + std::to_string(max_length) + "}";
  mme_preprocessor* preprocessor = nullptr;
  const mme_status created = mme_preprocessor_create_in(parameters.c_str(), directory.path().c_str(), &preprocessor);
  require(created == MME_OK || created == MME_INVALID_ARGUMENT, "a tokenizer file is usable or not");
  if (!succeeded(created)) return 0;
  // In an allocation of exactly its size, so that a read past its end is seen.
  const std::vector<uint8_t> text(std::min<const uint8_t*>(end + 1, data + size), data + size);
  const std::vector<int32_t> ids = ids_of(preprocessor, text.data(), text.size());
  require(ids.empty() || ids.size() == max_length, "a tensor has the declared length");
  require(std::all_of(ids.begin(), ids.end(), [](int32_t id) { return id >= 0; }), "every token has an id");
  require(ids == ids_of(preprocessor, text.data(), text.size()), "a text gives the same tokens again");
  require(succeeded(mme_preprocessor_destroy(preprocessor)), "a preprocessor is released");
  return 0;
}
