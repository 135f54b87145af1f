// The C ABI of sessions.
#include "api.h"

namespace mmedge {
namespace {

auto& sessions() {
  static auto& table = *new HandleTable<Session, mme_session, 0x53>("mme_session");
  return table;
}

}  // namespace
}  // namespace mmedge

using namespace mmedge;  // NOLINT(google-build-using-namespace): this file is nothing but the library's C face

extern "C" {

mme_status mme_session_create(const mme_model* model, const mme_session_options* options, mme_session** session) {
  return guarded([&] {
    require(session, "session");
    const auto given = options ? read(options, "options") : mme_session_options{};
    const auto lease = models().lease(model, Access::kShared);
    *session = sessions().insert(std::make_shared<Session>(
        lease.object(), given.top_k,
        ExecutionOptions{static_cast<CUstream_st*>(given.stream), given.profile_layers != 0}));
  });
}

mme_status mme_session_destroy(mme_session* session) {
  return guarded([&] { sessions().erase(session); });
}

mme_status mme_session_set_image(mme_session* session, const char* input, const mme_image* image) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    lease->unset(input);
    lease->set_image(input, read(image, "image"));
  });
}

mme_status mme_session_set_audio(mme_session* session, const char* input, const mme_audio* audio) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    lease->unset(input);
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

mme_status mme_session_set_text(mme_session* session, const char* input, const char* text, size_t size) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    lease->unset(input);
    lease->set_text(input, given_text(text, size));
  });
}

mme_status mme_session_set_tensor(mme_session* session, const char* input, const mme_tensor* tensor) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    lease->unset(input);
    lease->set_tensor(input, read(tensor, "tensor"));
  });
}

mme_status mme_session_set_absent(mme_session* session, const char* input) {
  return guarded([&] { sessions().lease(session, Access::kExclusive)->set_absent(input); });
}

mme_status mme_session_wait_stream(mme_session* session, void* stream) {
  return guarded([&] { sessions().lease(session, Access::kExclusive)->wait_for(static_cast<CUstream_st*>(stream)); });
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

mme_status mme_session_device_output(mme_session* session, size_t index, mme_tensor* output) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    check_size(output, "output");
    write(output, lease->device_output(index));
  });
}

mme_status mme_session_region(mme_session* session, mme_region* region) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    check_size(region, "region");
    write(region, lease->region());
  });
}

mme_status mme_session_timing(mme_session* session, size_t index, mme_timing* timing) {
  return guarded([&] {
    const auto lease = sessions().lease(session, Access::kExclusive);
    check_size(timing, "timing");
    write(timing, lease->timing(index));
  });
}

}  // extern "C"
