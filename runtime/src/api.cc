// The C ABI of statuses, versions, bundles and models; the other parts are in api_*.cc.
#include "api.h"

#include "bundle.h"
#include "engine/engine.h"

namespace mmedge {
namespace {

size_t embedding_size(const Bundle& bundle) {
  const auto index = bundle.output(OutputKind::kEmbedding);
  return index ? static_cast<size_t>(std::max(bundle.outputs[*index].shape[0], int64_t{0})) : 0;
}

std::string text(const char* value) { return value ? value : ""; }

OnnxRuntimeOptions onnxruntime_options(const mme_model_options& given) {
  const std::string engine = text(given.engine);
  if (!engine.empty() && engine != "onnxruntime") {
    fail(MME_INVALID_ARGUMENT, "options->engine is \"", engine, "\"; expected onnxruntime or tensorrt");
  }
  if (given.tensorrt != nullptr || given.engines != nullptr) {
    fail(MME_INVALID_ARGUMENT, "options->tensorrt and engines are of engine \"tensorrt\"; ask for that too");
  }
  if (given.threads < 0 || given.threads > 1024) {
    fail(MME_INVALID_ARGUMENT, "options->threads is ", given.threads, "; expected 0 to 1024");
  }
  return {.library = text(given.onnxruntime),
          .provider = given.provider ? given.provider : "cpu",
          .device = given.device,
          .threads = std::max(given.threads, 1),
          .affinities = text(given.affinities),
          .arena = given.disable_arena == 0,
          .spinning = given.allow_spinning != 0,
          .flush_denormals = given.keep_denormals == 0,
          .cache = text(given.cache),
          .sha256 = {},
          .precision = {}};
}

TensorrtOptions tensorrt_options(const char* path, const mme_model_options& given, const Bundle& bundle) {
  for (const char* other : {given.onnxruntime, given.provider, given.affinities, given.cache}) {
    if (other != nullptr) {
      fail(MME_INVALID_ARGUMENT,
           "options->onnxruntime, provider, affinities and cache are of engine \"onnxruntime\"; "
           "leave them NULL for engine \"tensorrt\"");
    }
  }
  if (given.threads < 0 || given.threads > 1 || given.disable_arena != 0 || given.allow_spinning != 0 ||
      given.keep_denormals != 0) {
    fail(MME_INVALID_ARGUMENT,
         "options->threads, disable_arena, allow_spinning and keep_denormals are of engine \"onnxruntime\"; "
         "leave them 0 for engine \"tensorrt\"");
  }
  return {text(given.tensorrt), given.device, text(given.engines), bundle.graph_sha256, path};
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

const char* mme_last_error(void) { return last_error().data(); }

uint32_t mme_api_version(void) { return MME_API_VERSION; }

const char* mme_version(void) { return MMEDGE_VERSION; }

mme_status mme_bundle_check(const char* path) {
  return guarded([&] {
    require(path, "path");
    open_bundle(path, std::nullopt);
  });
}

mme_status mme_model_open(const char* path, const mme_model_options* options, mme_model** model) {
  return guarded([&] {
    require(path, "path");
    require(model, "model");
    const auto given = options ? read(options, "options") : mme_model_options{};
    Bundle bundle;
    std::unique_ptr<Graph> graph;
    if (text(given.engine) == "tensorrt") {
      bundle = open_bundle(path, "tensorrt");
      graph = load_tensorrt(tensorrt_options(path, given, bundle));
    } else {
      OnnxRuntimeOptions chosen = onnxruntime_options(given);
      bundle = open_bundle(path, chosen.provider);
      chosen.sha256 = bundle.graph_sha256;
      chosen.precision = bundle.precision;
      graph = load_onnxruntime(bundle.graph, chosen);
    }
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
                 bundle.manifest.c_str(), bundle.inputs.size(), bundle.labels.size(),
                 bundle.metric.empty() ? nullptr : bundle.metric.c_str(), embedding_size(bundle),
                 bundle.graph_sha256.c_str()});
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

}  // extern "C"
