// The C ABI of preprocessors.
#include <pthread.h>

#include <memory>
#include <vector>

#include "api.h"
#include "files.h"
#include "json.h"
#include "preprocess/preprocess.h"

namespace mmedge {
namespace {

constexpr uintmax_t kMaxNamedFile = 256U << 20;

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

// A forked child has one thread, so no other may be at the table when it is forked: its lock would stay held. At load,
// so that no fork comes before.
__attribute__((constructor)) void keep_whole_in_forks() {
  const auto unlock = [] { preprocessors().unlock(); };
  preprocessors();
  pthread_atfork([] { preprocessors().lock(); }, unlock, unlock);
}

nlohmann::json read_parameters(const char* text) {
  try {
    return parse_json(text, MME_INVALID_ARGUMENT);
  } catch (const nlohmann::json::exception& error) {
    fail(MME_INVALID_ARGUMENT, "preprocess: the parameters are not valid JSON: ", error.what());
  }
}

void create_preprocessor(const char* parameters, mme_preprocessor** preprocessor, PreprocessFiles::Read read_file) {
  require(parameters, "parameters");
  require(preprocessor, "preprocessor");
  const auto json = read_parameters(parameters);
  auto object = std::make_shared<PreprocessorObject>();
  PreprocessFiles files(std::move(read_file));
  object->preprocess = make_preprocess(json, files);
  object->parameters = json.dump();
  object->shape = object->preprocess->shape();
  *preprocessor = preprocessors().insert(std::move(object));
}

}  // namespace
}  // namespace mmedge

using namespace mmedge;  // NOLINT(google-build-using-namespace): this file is nothing but the library's C face

extern "C" {

mme_status mme_preprocessor_create(const char* parameters, mme_preprocessor** preprocessor) {
  return guarded([&] {
    create_preprocessor(parameters, preprocessor, [](const std::string& name) -> std::vector<uint8_t> {
      fail(MME_INVALID_ARGUMENT, "preprocess: it names the file \"", name,
           "\"; use mme_preprocessor_create_in() and say where it lies");
    });
  });
}

mme_status mme_preprocessor_create_in(const char* parameters, const char* directory, mme_preprocessor** preprocessor) {
  return guarded([&] {
    require(directory, "directory");
    create_preprocessor(parameters, preprocessor, [&](const std::string& name) {
      try {
        return read_inside(directory, name, kMaxNamedFile, MME_INVALID_ARGUMENT);
      } catch (const Error& error) {
        fail(error.status(), directory, ": ", error.what());
      }
    });
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

mme_status mme_preprocessor_text(mme_preprocessor* preprocessor, const char* text, size_t size, mme_tensor* tensor) {
  return guarded([&] {
    const auto lease = preprocessors().lease(preprocessor, Access::kExclusive);
    check_size(tensor, "tensor");
    lease->preprocess->text(given_text(text, size), lease->tensor);
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
