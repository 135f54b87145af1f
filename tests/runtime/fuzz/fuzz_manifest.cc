// Opening a model: the input is the manifest, the graph is that of a good bundle.
#include "bundle_directory.h"
#include "reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const BundleDirectory directory;
  static const bool prepared = [] {
    std::ifstream graph(test_bundle() + "/model.onnx", std::ios::binary);
    directory.write("model.onnx", {std::istreambuf_iterator<char>(graph), {}});
    return true;
  }();
  require(prepared, "the graph is copied");
  directory.write_manifest({reinterpret_cast<const char*>(data), size});
  mme_model* model = nullptr;
  const mme_status status = mme_model_open(directory.path().c_str(), nullptr, &model);
  require(status == MME_OK || status == MME_BUNDLE_INVALID, "a bundle opens or is invalid");
  if (!succeeded(status)) return 0;
  mme_model_info info{};
  info.struct_size = sizeof info;
  require(succeeded(mme_model_get_info(model, &info)), "an open model has an info");
  for (size_t i = 0; i < info.input_count; ++i) {
    mme_input_info input{};
    input.struct_size = sizeof input;
    require(succeeded(mme_model_get_input(model, i, &input)), "every input has an info");
  }
  mme_session* session = nullptr;
  if (succeeded(mme_session_create(model, nullptr, &session))) {
    mme_result result{};
    result.struct_size = sizeof result;
    require(mme_session_run(session, &result) == MME_NOT_READY, "nothing was set");
    require(succeeded(mme_session_destroy(session)), "a session is released");
  }
  require(succeeded(mme_model_close(model)), "a model is closed");
  return 0;
}
