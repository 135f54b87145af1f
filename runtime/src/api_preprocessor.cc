// The C ABI of preprocessors.
#include <memory>
#include <vector>

#include "api.h"
#include "preprocess/preprocess.h"

namespace mmedge {
namespace {

// A preprocessor's handle: the chain and the tensor it last made.
struct PreprocessorObject {
  std::unique_ptr<Preprocess> preprocess;
  std::string parameters;
  std::vector<int64_t> shape;
  Tensor tensor;
};

auto& preprocessors() {
  static auto& table = *new HandleTable<PreprocessorObject, mme_preprocessor, 0x50>("mme_preprocessor");
  return table;
}

}  // namespace
}  // namespace mmedge

using namespace mmedge;  // NOLINT(google-build-using-namespace): this file is nothing but the library's C face

extern "C" {

mme_status mme_preprocessor_create(const char* parameters, mme_preprocessor** preprocessor) {
  return guarded([&] {
    require(parameters, "parameters");
    require(preprocessor, "preprocessor");
    const auto json = nlohmann::json::parse(parameters, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) fail(MME_INVALID_ARGUMENT, "preprocess: the parameters are not valid JSON");
    auto object = std::make_shared<PreprocessorObject>();
    object->preprocess = make_preprocess(json);
    object->parameters = json.dump();
    object->shape = object->preprocess->shape();
    *preprocessor = preprocessors().insert(std::move(object));
  });
}

mme_status mme_preprocessor_destroy(mme_preprocessor* preprocessor) {
  return guarded([&] { preprocessors().erase(preprocessor); });
}

mme_status mme_preprocessor_get_info(mme_preprocessor* preprocessor, mme_input_info* info) {
  return guarded([&] {
    const auto lease = preprocessors().lease(preprocessor, Access::kExclusive);
    check_size(info, "info");
    write(info, {sizeof(mme_input_info), "", lease->preprocess->modality(), to_data_type(lease->preprocess->type()),
                 lease->shape.size(), lease->shape.data(), lease->parameters.c_str()});
  });
}

mme_status mme_preprocessor_image(mme_preprocessor* preprocessor, const mme_image* image, mme_tensor* tensor) {
  return guarded([&] {
    const auto lease = preprocessors().lease(preprocessor, Access::kExclusive);
    check_size(tensor, "tensor");
    lease->preprocess->image(read(image, "image"), lease->tensor);
    write(tensor, describe(lease->tensor, ""));
  });
}

mme_status mme_preprocessor_audio(mme_preprocessor* preprocessor, const mme_audio* audio, mme_tensor* tensor) {
  return guarded([&] {
    const auto lease = preprocessors().lease(preprocessor, Access::kExclusive);
    check_size(tensor, "tensor");
    lease->preprocess->audio(read(audio, "audio"), lease->tensor);
    write(tensor, describe(lease->tensor, ""));
  });
}

mme_status mme_preprocessor_push_audio(mme_preprocessor* preprocessor, const mme_audio* audio, mme_tensor* tensor) {
  return guarded([&] {
    const auto lease = preprocessors().lease(preprocessor, Access::kExclusive);
    check_size(tensor, "tensor");
    lease->preprocess->push_frames(read(audio, "audio"), lease->tensor);
    write(tensor, describe(lease->tensor, ""));
  });
}

mme_status mme_preprocessor_end_audio(mme_preprocessor* preprocessor, mme_tensor* tensor) {
  return guarded([&] {
    const auto lease = preprocessors().lease(preprocessor, Access::kExclusive);
    check_size(tensor, "tensor");
    lease->preprocess->end_frames(lease->tensor);
    write(tensor, describe(lease->tensor, ""));
  });
}

}  // extern "C"
