// Structs of the size another version of the library has for them.
#include <cstdint>
#include <cstring>

#include "misuse.h"

namespace {

// A struct's size as a caller of another version would set it.
struct SizedCall {
  const char* what;
  size_t size;
  bool reads;  // the library reads it; else it writes it
  std::function<mme_status(World&, void* given)> call;
  const void* (*valid)(World&);  // what to begin from
};

template <class Struct, auto kMember>
SizedCall sized(const char* what, bool reads, mme_status (*call)(World&, Struct*)) {
  return {what, sizeof(Struct), reads,
          [call](World& world, void* given) { return call(world, static_cast<Struct*>(given)); },
          [](World& world) -> const void* { return &(world.*kMember); }};
}

const std::vector<SizedCall>& sized_calls() {
  static const std::vector<SizedCall> calls{
      sized<mme_model_options, &World::model_options>("mme_model_open", true,
                                                      [](World& w, mme_model_options* given) {
                                                        mme_model* made = nullptr;
                                                        const mme_status status =
                                                            mme_model_open(w.path.c_str(), given, &made);
                                                        if (status == MME_OK) mme_model_close(made);
                                                        return status;
                                                      }),
      sized<mme_session_options, &World::session_options>("mme_session_create", true,
                                                          [](World& w, mme_session_options* given) {
                                                            mme_session* made = nullptr;
                                                            const mme_status status =
                                                                mme_session_create(w.model, given, &made);
                                                            if (status == MME_OK) mme_session_destroy(made);
                                                            return status;
                                                          }),
      sized<mme_image, &World::image>(
          "mme_session_set_image", true,
          [](World& w, mme_image* given) { return mme_session_set_image(w.session, "image", given); }),
      sized<mme_audio, &World::audio>(
          "mme_session_set_audio", true,
          [](World& w, mme_audio* given) { return mme_session_set_audio(w.session, "audio", given); }),
      sized<mme_audio, &World::audio>(
          "mme_session_push_audio", true,
          [](World& w, mme_audio* given) { return mme_session_push_audio(w.session, "audio", given); }),
      sized<mme_tensor, &World::tensor>(
          "mme_session_set_tensor", true,
          [](World& w, mme_tensor* given) { return mme_session_set_tensor(w.session, "image", given); }),
      sized<mme_image, &World::image>(
          "mme_preprocessor_image", true,
          [](World& w, mme_image* given) { return mme_preprocessor_image(w.image_preprocessor, given, &w.tensor); }),
      sized<mme_audio, &World::audio>(
          "mme_preprocessor_audio", true,
          [](World& w, mme_audio* given) { return mme_preprocessor_audio(w.audio_preprocessor, given, &w.tensor); }),
      sized<mme_audio, &World::audio>("mme_preprocessor_push_audio", true,
                                      [](World& w, mme_audio* given) {
                                        return mme_preprocessor_push_audio(w.audio_preprocessor, given, &w.tensor);
                                      }),
      sized<mme_search, &World::search>("mme_similarity_top_k", true,
                                        [](World& w, mme_search* given) {
                                          return mme_similarity_top_k(given, w.query.data(), 2, w.indices.data(),
                                                                      w.scores.data(), &w.found);
                                        }),
      sized<mme_model_info, &World::model_info>(
          "mme_model_get_info", false, [](World& w, mme_model_info* out) { return mme_model_get_info(w.model, out); }),
      sized<mme_input_info, &World::input_info>(
          "mme_model_get_input", false,
          [](World& w, mme_input_info* out) { return mme_model_get_input(w.model, 0, out); }),
      sized<mme_input_info, &World::input_info>(
          "mme_preprocessor_get_info", false,
          [](World& w, mme_input_info* out) { return mme_preprocessor_get_info(w.image_preprocessor, out); }),
      sized<mme_result, &World::result>("mme_session_run", false,
                                        [](World& w, mme_result* out) {
                                          mme_session_set_image(w.session, "image", &w.image);
                                          mme_session_set_absent(w.session, "audio");
                                          return mme_session_run(w.session, out);
                                        }),
      sized<mme_tensor, &World::tensor>("mme_session_output", false,
                                        [](World& w, mme_tensor* out) {
                                          EXPECT_EQ(w.run(), MME_OK);
                                          return mme_session_output(w.session, 0, out);
                                        }),
      sized<mme_timing, &World::timing>("mme_session_timing", false,
                                        [](World& w, mme_timing* out) {
                                          EXPECT_EQ(w.run(), MME_OK);
                                          return mme_session_timing(w.session, 0, out);
                                        }),
      sized<mme_region, &World::region>("mme_session_region", false,
                                        [](World& w, mme_region* out) {
                                          EXPECT_EQ(w.run(w.vqa), MME_OK);
                                          return mme_session_region(w.vqa, out);
                                        }),
      sized<mme_gallery_info, &World::gallery_info>(
          "mme_gallery_get_info", false,
          [](World& w, mme_gallery_info* out) { return mme_gallery_get_info(w.named, out); }),
      {"mme_gallery_search", sizeof(mme_match), false,
       [](World& w, void* out) {
         return mme_gallery_search(w.named, w.query.data(), 8, 1, static_cast<mme_match*>(out), &w.found);
       },
       [](World& w) -> const void* { return w.matches.data(); }},
      sized<mme_tensor, &World::tensor>(
          "mme_preprocessor_image", false,
          [](World& w, mme_tensor* out) { return mme_preprocessor_image(w.image_preprocessor, &w.image, out); }),
      sized<mme_tensor, &World::tensor>(
          "mme_preprocessor_audio", false,
          [](World& w, mme_tensor* out) { return mme_preprocessor_audio(w.audio_preprocessor, &w.audio, out); }),
      sized<mme_tensor, &World::tensor>(
          "mme_preprocessor_push_audio", false,
          [](World& w, mme_tensor* out) { return mme_preprocessor_push_audio(w.audio_preprocessor, &w.audio, out); }),
      sized<mme_tensor, &World::tensor>("mme_preprocessor_end_audio", false,
                                        [](World& w, mme_tensor* out) {
                                          mme_tensor ignored{sizeof(mme_tensor)};
                                          EXPECT_EQ(
                                              mme_preprocessor_push_audio(w.audio_preprocessor, &w.audio, &ignored),
                                              MME_OK)
                                              << mme_last_error();
                                          return mme_preprocessor_end_audio(w.audio_preprocessor, out);
                                        }),
  };
  return calls;
}

TEST(Versions, AStructSizeNoVersionHadIsRefused) {
  for (const SizedCall& one : sized_calls()) {
    for (const size_t size : {size_t{0}, size_t{1}, sizeof(size_t) - 1, one.size + 4097, SIZE_MAX}) {
      World world;
      std::vector<size_t> given(one.size / sizeof(size_t) + 1);
      std::memcpy(given.data(), one.valid(world), one.size);
      given[0] = size;
      const Answer answer = ask([&] { return one.call(world, given.data()); });
      EXPECT_STREQ(mme_status_name(answer.status), "MME_INVALID_ARGUMENT") << one.what << " of " << size;
      EXPECT_NE(answer.message.find("struct_size"), std::string::npos) << one.what << ": " << answer.message;
    }
  }
}

TEST(Versions, ANewerClientIsServedAsLongAsItAsksNothingUnknown) {
  constexpr size_t kNewer = 48;
  for (const SizedCall& one : sized_calls()) {
    World world;
    std::vector<size_t> given((one.size + kNewer) / sizeof(size_t));
    std::memcpy(given.data(), one.valid(world), one.size);
    given[0] = one.size + kNewer;
    auto* tail = reinterpret_cast<unsigned char*>(given.data()) + one.size;
    if (!one.reads) std::memset(tail, 0xa5, kNewer);
    EXPECT_EQ(one.call(world, given.data()), MME_OK) << one.what << ": " << mme_last_error();
    EXPECT_EQ(given[0], one.size + kNewer) << one.what;
    if (one.reads) {
      for (const size_t at : {size_t{0}, size_t{17}, kNewer - 1}) {
        std::memset(tail, 0, kNewer);
        tail[at] = 1;
        const Answer answer = ask([&] { return one.call(world, given.data()); });
        EXPECT_STREQ(mme_status_name(answer.status), "MME_INVALID_ARGUMENT") << one.what;
        EXPECT_NE(answer.message.find("update mmedge"), std::string::npos) << one.what << ": " << answer.message;
      }
    } else {
      EXPECT_EQ(std::vector<unsigned char>(tail, tail + kNewer), std::vector<unsigned char>(kNewer, 0xa5)) << one.what;
    }
  }
}

}  // namespace
