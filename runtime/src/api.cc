// The C ABI. The only place where exceptions become a status and a message.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <new>

#include "bundle.h"
#include "engine/engine.h"
#include "handle.h"
#include "kernels/instruction_set.h"
#include "kernels/similarity_top_k/similarity_top_k.h"
#include "preprocess/preprocess.h"
#include "session.h"

namespace mmedge {
namespace {

thread_local std::string last_error;

// A preprocessor's handle: the chain and the tensor it last made.
struct PreprocessorObject {
  std::unique_ptr<Preprocess> preprocess;
  std::string parameters;
  std::vector<int64_t> shape;
  Tensor tensor;
};

// Never destroyed: exit handlers may still call in.
auto& models() {
  static auto& table = *new HandleTable<const Model, mme_model, 0x4d>("mme_model");
  return table;
}
auto& sessions() {
  static auto& table = *new HandleTable<Session, mme_session, 0x53>("mme_session");
  return table;
}
auto& preprocessors() {
  static auto& table = *new HandleTable<PreprocessorObject, mme_preprocessor, 0x50>("mme_preprocessor");
  return table;
}

template <class Body>
mme_status guarded(Body&& body) noexcept {
  try {
    try {
      body();
      return MME_OK;
    } catch (const Error& error) {
      last_error = error.what();
      return error.status();
    } catch (const std::bad_alloc&) {
      last_error = "out of memory";
      return MME_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
      last_error = concat("internal error: ", error.what());
      return MME_INTERNAL;
    }
  } catch (...) {  // storing the message failed
    return MME_OUT_OF_MEMORY;
  }
}

template <class Value>
void require(const Value* pointer, const char* name) {
  if (pointer == nullptr) fail(MME_INVALID_ARGUMENT, name, " is NULL");
}

// Structs grow at their end only. The size each had when it was first published: no caller has less.
template <class Struct>
constexpr size_t kFirstSize = sizeof(Struct);
template <>
constexpr size_t kFirstSize<mme_image> = offsetof(mme_image, color_matrix);
template <>
constexpr size_t kFirstSize<mme_result> = offsetof(mme_result, ranking_count);
template <>
constexpr size_t kFirstSize<mme_timing> = offsetof(mme_timing, begin);
template <>
constexpr size_t kFirstSize<mme_model_options> = offsetof(mme_model_options, provider);
template <>
constexpr size_t kFirstSize<mme_session_options> = offsetof(mme_session_options, top_k);

template <class Struct>
void check_size(const Struct* given, const char* name) {
  require(given, name);
  if (given->struct_size < kFirstSize<Struct> || given->struct_size > sizeof(Struct) + 4096) {
    fail(MME_INVALID_ARGUMENT, name, "->struct_size is ", given->struct_size, "; expected ", sizeof(Struct));
  }
}

// An older caller's struct is a prefix of ours; of a newer caller's, the part unknown here must be zero, or something
// it asks for would be ignored.
template <class Struct>
Struct read(const Struct* given, const char* name) {
  check_size(given, name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (std::any_of(bytes + std::min(sizeof(Struct), given->struct_size), bytes + given->struct_size,
                  [](unsigned char byte) { return byte != 0; })) {
    fail(MME_INVALID_ARGUMENT, name, " sets fields this version of the library does not know; update mmedge");
  }
  Struct value{};
  std::memcpy(&value, given, std::min(sizeof value, given->struct_size));
  return value;
}

// Writes as much as the caller's version has room for, and keeps its struct_size.
template <class Struct>
void write(Struct* out, Struct value) {
  value.struct_size = out->struct_size;
  std::memcpy(out, &value, std::min(sizeof value, out->struct_size));
}

// The gallery a search describes, once it is known to be usable.
Gallery gallery_of(const mme_search& search) {
  if (search.metric < MME_COSINE || search.metric > MME_EUCLIDEAN) {
    fail(MME_INVALID_ARGUMENT, "search->metric is ", search.metric, "; expected a mme_metric");
  }
  Gallery gallery{static_cast<const std::byte*>(search.gallery), search.rows, 0, ElementType::kFloat32, 1.0F};
  switch (search.data_type) {
    case MME_FLOAT32:
      break;
    case MME_FLOAT16:
      gallery.type = ElementType::kFloat16;
      break;
    case MME_INT8:
      gallery.type = ElementType::kInt8;
      if (search.scale != 0) gallery.scale = search.scale;
      break;
    default:
      fail(MME_INVALID_ARGUMENT, "search->data_type is ", search.data_type,
           "; expected MME_FLOAT32, MME_FLOAT16 or MME_INT8");
  }
  if (!std::isfinite(gallery.scale)) {
    fail(MME_INVALID_ARGUMENT, "search->scale is ", gallery.scale, "; expected a finite number");
  }
  if (search.dimension == 0 || search.dimension > PTRDIFF_MAX / sizeof(float)) {
    fail(MME_INVALID_ARGUMENT, "search->dimension is ", search.dimension, "; expected at least 1");
  }
  const size_t packed = search.dimension * element_size(gallery.type);
  gallery.stride = search.row_stride == 0 ? packed : search.row_stride;
  if (gallery.stride < packed) {
    fail(MME_INVALID_ARGUMENT, "search->row_stride is ", search.row_stride, " bytes; a row of ", search.dimension,
         " needs ", packed);
  }
  if (search.rows > PTRDIFF_MAX / gallery.stride) {
    fail(MME_INVALID_ARGUMENT, "search->rows is ", search.rows, "; rows of ", gallery.stride,
         " bytes are more than memory can hold");
  }
  if (search.rows > 0) require(gallery.rows, "search->gallery");
  return gallery;
}

}  // namespace
}  // namespace mmedge

using namespace mmedge;  // NOLINT(google-build-using-namespace): this file is nothing but the library's C face

extern "C" {

const char* mme_status_name(mme_status status) {
  switch (status) {
#define MME_NAME(value) \
  case value:           \
    return #value;
    MME_NAME(MME_OK)
    MME_NAME(MME_INVALID_ARGUMENT)
    MME_NAME(MME_INVALID_HANDLE)
    MME_NAME(MME_BUSY)
    MME_NAME(MME_NOT_READY)
    MME_NAME(MME_BUNDLE_INVALID)
    MME_NAME(MME_ENGINE_UNAVAILABLE)
    MME_NAME(MME_ENGINE_FAILED)
    MME_NAME(MME_BAD_INPUT)
    MME_NAME(MME_BAD_OUTPUT)
    MME_NAME(MME_OUT_OF_MEMORY)
    MME_NAME(MME_INTERNAL)
#undef MME_NAME
  }
  return "unknown";
}

const char* mme_last_error(void) { return last_error.c_str(); }

uint32_t mme_api_version(void) { return MME_API_VERSION; }

const char* mme_version(void) { return MMEDGE_VERSION; }

mme_status mme_bundle_check(const char* path) {
  return guarded([&] {
    require(path, "path");
    open_bundle(path);
  });
}

mme_status mme_model_open(const char* path, const mme_model_options* options, mme_model** model) {
  return guarded([&] {
    require(path, "path");
    require(model, "model");
    const auto given = options ? read(options, "options") : mme_model_options{};
    if (given.threads < 0 || given.threads > 1024) {
      fail(MME_INVALID_ARGUMENT, "options->threads is ", given.threads, "; expected 0 to 1024");
    }
    const auto text = [](const char* value) { return std::string(value ? value : ""); };
    Bundle bundle = open_bundle(path);
    auto graph = load_onnxruntime(bundle.graph, {.library = text(given.onnxruntime),
                                                 .provider = given.provider ? given.provider : "cpu",
                                                 .device = given.device,
                                                 .threads = std::max(given.threads, 1),
                                                 .affinities = text(given.affinities),
                                                 .arena = given.disable_arena == 0,
                                                 .spinning = given.allow_spinning != 0,
                                                 .flush_denormals = given.keep_denormals == 0,
                                                 .cache = text(given.cache),
                                                 .sha256 = bundle.graph_sha256,
                                                 .precision = bundle.precision});
    bundle.graph = {};
    try {
      *model = models().insert(std::make_shared<const Model>(std::move(bundle), std::move(graph)));
    } catch (const Error& error) {
      // What the manifest asks of its own preprocessing is the bundle's fault, not the caller's.
      const mme_status status = error.status() == MME_INVALID_ARGUMENT ? MME_BUNDLE_INVALID : error.status();
      fail(status, path, ": ", error.what());
    }
  });
}

mme_status mme_model_close(mme_model* model) {
  return guarded([&] { models().erase(model); });
}

mme_status mme_model_get_info(const mme_model* model, mme_model_info* info) {
  return guarded([&] {
    const auto lease = models().lease(model, Access::kShared);
    check_size(info, "info");
    const Bundle& bundle = lease->bundle();
    write(info, {sizeof(mme_model_info), bundle.name.c_str(), bundle.task.c_str(), lease->graph().description().c_str(),
                 bundle.manifest.c_str(), bundle.inputs.size(), bundle.labels.size()});
  });
}

mme_status mme_model_get_input(const mme_model* model, size_t index, mme_input_info* info) {
  return guarded([&] {
    const auto lease = models().lease(model, Access::kShared);
    check_size(info, "info");
    const auto& inputs = lease->bundle().inputs;
    if (index >= inputs.size()) {
      fail(MME_INVALID_ARGUMENT, "there is no input ", index, "; the model has ", inputs.size());
    }
    const BundleInput& input = inputs[index];
    write(info, {sizeof(mme_input_info), input.name.c_str(), input.modality.c_str(),
                 to_data_type(lease->input_types()[index]), input.shape.size(), input.shape.data(),
                 lease->preprocess_json()[index].c_str()});
  });
}

mme_status mme_model_get_label(const mme_model* model, size_t index, const char** label) {
  return guarded([&] {
    const auto lease = models().lease(model, Access::kShared);
    require(label, "label");
    const auto& labels = lease->bundle().labels;
    if (index >= labels.size()) {
      fail(MME_INVALID_ARGUMENT, "there is no label ", index, "; the model has ", labels.size());
    }
    *label = labels[index].c_str();
  });
}

mme_status mme_session_create(const mme_model* model, const mme_session_options* options, mme_session** session) {
  return guarded([&] {
    require(session, "session");
    const auto given = options ? read(options, "options") : mme_session_options{};
    const auto lease = models().lease(model, Access::kShared);
    *session = sessions().insert(std::make_shared<Session>(lease.object(), given.top_k));
  });
}

mme_status mme_session_destroy(mme_session* session) {
  return guarded([&] { sessions().erase(session); });
}

mme_status mme_session_set_image(mme_session* session, const char* input, const mme_image* image) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    lease->set_image(input, read(image, "image"));
  });
}

mme_status mme_session_set_audio(mme_session* session, const char* input, const mme_audio* audio) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    lease->set_audio(input, read(audio, "audio"));
  });
}

mme_status mme_session_push_audio(mme_session* session, const char* input, const mme_audio* audio) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    lease->push_audio(input, read(audio, "audio"));
  });
}

mme_status mme_session_reset_audio(mme_session* session, const char* input) {
  return guarded([&] { sessions().lease(session, Access::kExclusive)->reset_audio(input); });
}

mme_status mme_session_set_tensor(mme_session* session, const char* input, const mme_tensor* tensor) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    lease->set_tensor(input, read(tensor, "tensor"));
  });
}

mme_status mme_session_set_absent(mme_session* session, const char* input) {
  return guarded([&] { sessions().lease(session, Access::kExclusive)->set_absent(input); });
}

mme_status mme_session_run(mme_session* session, mme_result* result) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    check_size(result, "result");
    lease->run();
    write(result, lease->result());
  });
}

mme_status mme_session_output(mme_session* session, size_t index, mme_tensor* output) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    check_size(output, "output");
    write(output, lease->output(index));
  });
}

mme_status mme_session_timing(mme_session* session, size_t index, mme_timing* timing) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    check_size(timing, "timing");
    write(timing, lease->timing(index));
  });
}

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

mme_status mme_similarity_top_k(const mme_search* search, const float* query, size_t k, int64_t* indices, float* scores,
                                size_t* found) {
  return guarded([&] {
    const mme_search given = read(search, "search");
    const Gallery gallery = gallery_of(given);
    require(query, "query");
    require(indices, "indices");
    require(scores, "scores");
    require(found, "found");
    if (k == 0) fail(MME_INVALID_ARGUMENT, "k is 0; expected at least 1");
    const std::span<const float> values(query, given.dimension);
    const auto wrong = std::find_if_not(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
    if (wrong != values.end()) {
      fail(MME_BAD_INPUT, "element ", wrong - values.begin(), " of the query is ", *wrong, "; expected finite numbers");
    }
    choose_instruction_set();
    *found = similarity_top_k(gallery, static_cast<mme_metric>(given.metric), values, k, indices, scores);
  });
}

}  // extern "C"
