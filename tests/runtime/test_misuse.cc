// Every public function, misused in every way its arguments allow: a status and a message each time, and nothing
// written.
#include <fstream>
#include <set>

#include "misuse.h"

namespace {

// Every function that takes a handle, given `handle` for it.
struct HandleCall {
  const char* function;
  char kind;  // of the handle: 'm'odel, 's'ession, 'p'reprocessor, 'g'allery
  std::function<mme_status(World&, void* handle)> call;
};

mme_model* as_model(void* handle) { return static_cast<mme_model*>(handle); }
mme_session* as_session(void* handle) { return static_cast<mme_session*>(handle); }
mme_preprocessor* as_preprocessor(void* handle) { return static_cast<mme_preprocessor*>(handle); }
mme_gallery* as_gallery(void* handle) { return static_cast<mme_gallery*>(handle); }

mme_status search(World& w, mme_gallery* gallery) {
  return mme_gallery_search(gallery, w.query.data(), w.query.size(), w.matches.size(), w.matches.data(), &w.found);
}

const std::vector<HandleCall>& handle_calls() {
  static const std::vector<HandleCall> calls{
      {"mme_model_close", 'm', [](World&, void* h) { return mme_model_close(as_model(h)); }},
      {"mme_model_get_info", 'm', [](World& w, void* h) { return mme_model_get_info(as_model(h), &w.model_info); }},
      {"mme_model_get_input", 'm',
       [](World& w, void* h) { return mme_model_get_input(as_model(h), 0, &w.input_info); }},
      {"mme_model_get_label", 'm',
       [](World&, void* h) {
         const char* label = nullptr;
         return mme_model_get_label(as_model(h), 0, &label);
       }},
      {"mme_session_create", 'm',
       [](World&, void* h) {
         mme_session* made = nullptr;
         const mme_status status = mme_session_create(as_model(h), nullptr, &made);
         EXPECT_EQ(made, nullptr);
         return status;
       }},
      {"mme_session_destroy", 's', [](World&, void* h) { return mme_session_destroy(as_session(h)); }},
      {"mme_session_set_image", 's',
       [](World& w, void* h) { return mme_session_set_image(as_session(h), "image", &w.image); }},
      {"mme_session_set_audio", 's',
       [](World& w, void* h) { return mme_session_set_audio(as_session(h), "audio", &w.audio); }},
      {"mme_session_push_audio", 's',
       [](World& w, void* h) { return mme_session_push_audio(as_session(h), "audio", &w.audio); }},
      {"mme_session_reset_audio", 's', [](World&, void* h) { return mme_session_reset_audio(as_session(h), "audio"); }},
      {"mme_session_set_text", 's',
       [](World&, void* h) { return mme_session_set_text(as_session(h), "text", "a", 1); }},
      {"mme_session_set_tensor", 's',
       [](World& w, void* h) { return mme_session_set_tensor(as_session(h), "image", &w.tensor); }},
      {"mme_session_set_absent", 's', [](World&, void* h) { return mme_session_set_absent(as_session(h), "image"); }},
      {"mme_session_run", 's', [](World& w, void* h) { return mme_session_run(as_session(h), &w.result); }},
      {"mme_session_output", 's', [](World& w, void* h) { return mme_session_output(as_session(h), 0, &w.tensor); }},
      {"mme_session_wait_stream", 's', [](World&, void* h) { return mme_session_wait_stream(as_session(h), nullptr); }},
      {"mme_session_device_output", 's',
       [](World& w, void* h) { return mme_session_device_output(as_session(h), 0, &w.tensor); }},
      {"mme_session_region", 's', [](World& w, void* h) { return mme_session_region(as_session(h), &w.region); }},
      {"mme_session_timing", 's', [](World& w, void* h) { return mme_session_timing(as_session(h), 0, &w.timing); }},
      {"mme_preprocessor_destroy", 'p', [](World&, void* h) { return mme_preprocessor_destroy(as_preprocessor(h)); }},
      {"mme_preprocessor_get_info", 'p',
       [](World& w, void* h) { return mme_preprocessor_get_info(as_preprocessor(h), &w.input_info); }},
      {"mme_preprocessor_image", 'p',
       [](World& w, void* h) { return mme_preprocessor_image(as_preprocessor(h), &w.image, &w.tensor); }},
      {"mme_preprocessor_audio", 'p',
       [](World& w, void* h) { return mme_preprocessor_audio(as_preprocessor(h), &w.audio, &w.tensor); }},
      {"mme_preprocessor_text", 'p',
       [](World& w, void* h) { return mme_preprocessor_text(as_preprocessor(h), "a", 1, &w.tensor); }},
      {"mme_preprocessor_push_audio", 'p',
       [](World& w, void* h) { return mme_preprocessor_push_audio(as_preprocessor(h), &w.audio, &w.tensor); }},
      {"mme_preprocessor_end_audio", 'p',
       [](World& w, void* h) { return mme_preprocessor_end_audio(as_preprocessor(h), &w.tensor); }},
      {"mme_gallery_save", 'g', [](World& w, void* h) { return mme_gallery_save(as_gallery(h), w.path.c_str()); }},
      {"mme_gallery_destroy", 'g', [](World&, void* h) { return mme_gallery_destroy(as_gallery(h)); }},
      {"mme_gallery_get_info", 'g',
       [](World& w, void* h) { return mme_gallery_get_info(as_gallery(h), &w.gallery_info); }},
      {"mme_gallery_enroll", 'g',
       [](World& w, void* h) { return mme_gallery_enroll(as_gallery(h), "x", w.query.data(), w.query.size()); }},
      {"mme_gallery_remove", 'g', [](World&, void* h) { return mme_gallery_remove(as_gallery(h), "one"); }},
      {"mme_gallery_search", 'g', [](World& w, void* h) { return search(w, as_gallery(h)); }},
  };
  return calls;
}

void expect_refused(const std::vector<BadCall>& calls) {
  for (const BadCall& bad : calls) {
    World world;
    const Answer answer = ask([&] { return bad.call(world); });
    EXPECT_STREQ(mme_status_name(answer.status), mme_status_name(bad.expected)) << bad.what << ": " << answer.message;
    EXPECT_NE(answer.message, "") << bad.what;
    // Nothing was written to what the call would have answered in.
    EXPECT_EQ(world.model_info.name, nullptr) << bad.what;
    EXPECT_EQ(world.input_info.name, nullptr) << bad.what;
    EXPECT_EQ(world.result.label, nullptr) << bad.what;
    EXPECT_EQ(world.timing.stage, nullptr) << bad.what;
    EXPECT_EQ(world.indices[0], 0) << bad.what;
    EXPECT_EQ(world.found, 0U) << bad.what;
    EXPECT_EQ(world.matches[0].name, nullptr) << bad.what;
    EXPECT_EQ(world.region.input, nullptr) << bad.what;
    EXPECT_EQ(world.gallery_info.model, nullptr) << bad.what;
  }
}

TEST(Misuse, AHandleThatIsNotALiveOneOfItsKindIsRefused) {
  World world;
  mme_model* closed = nullptr;
  mme_session* destroyed = nullptr;
  mme_preprocessor* gone = nullptr;
  mme_gallery* emptied = nullptr;
  ASSERT_EQ(mme_gallery_create(8, MME_COSINE, nullptr, &emptied), MME_OK);
  ASSERT_EQ(mme_gallery_destroy(emptied), MME_OK);
  ASSERT_EQ(mme_model_open(world.path.c_str(), nullptr, &closed), MME_OK);
  ASSERT_EQ(mme_session_create(closed, nullptr, &destroyed), MME_OK);
  ASSERT_EQ(mme_preprocessor_create(kImage, &gone), MME_OK);
  ASSERT_EQ(mme_preprocessor_destroy(gone), MME_OK);
  ASSERT_EQ(mme_session_destroy(destroyed), MME_OK);
  ASSERT_EQ(mme_model_close(closed), MME_OK);

  const auto made_up = [](uintptr_t bits) { return reinterpret_cast<void*>(bits); };
  for (const HandleCall& one : handle_calls()) {
    std::vector<void*> bad{nullptr,
                           closed,
                           destroyed,
                           gone,
                           emptied,
                           &world,
                           world.pixels.data(),
                           made_up(1),
                           made_up(UINTPTR_MAX),
                           made_up(0x4d00000000000000),
                           made_up(0x53ffffffffffffff),
                           made_up(0x5000000000200000),
                           made_up(0x4700000000200000)};
    void* const live_model = world.model;
    void* const live_session = world.session;
    void* const live_preprocessor = world.image_preprocessor;
    void* const live_gallery = world.named;
    if (one.kind != 'm') bad.push_back(live_model);
    if (one.kind != 's') bad.push_back(live_session);
    if (one.kind != 'p') bad.push_back(live_preprocessor);
    if (one.kind != 'g') bad.push_back(live_gallery);
    const void* live = one.kind == 'm'   ? live_model
                       : one.kind == 's' ? live_session
                       : one.kind == 'p' ? live_preprocessor
                                         : live_gallery;
    for (int bit = 0; bit < 64; ++bit) {  // a live handle with one bit turned
      void* turned = made_up(reinterpret_cast<uintptr_t>(live) ^ uintptr_t{1} << bit);
      if (turned != world.audio_preprocessor && turned != world.vqa && turned != world.vqa_model) bad.push_back(turned);
    }
    for (void* handle : bad) {
      const Answer answer = ask([&] { return one.call(world, handle); });
      EXPECT_STREQ(mme_status_name(answer.status), "MME_INVALID_HANDLE") << one.function << "(" << handle << ")";
      const char* kind = one.kind == 'm'   ? "mme_model"
                         : one.kind == 's' ? "mme_session"
                         : one.kind == 'p' ? "mme_preprocessor"
                                           : "mme_gallery";
      EXPECT_NE(answer.message.find(kind), std::string::npos) << one.function << ": " << answer.message;
    }
  }
  // The live ones were not hurt.
  EXPECT_EQ(world.run(), MME_OK) << mme_last_error();
}

TEST(Misuse, AnArgumentThatCannotBeUsedIsRefused) { expect_refused(bad_calls()); }

TEST(Misuse, AGalleryThatCannotBeUsedIsRefused) { expect_refused(bad_galleries()); }

TEST(Misuse, ASearchThatCannotBeUsedIsRefused) { expect_refused(bad_searches()); }

TEST(Misuse, AReleasedHandleIsNotRevivedByTheNextOfItsKind) {
  World world;
  std::set<mme_preprocessor*> seen;
  for (int i = 0; i < 1000; ++i) {
    mme_preprocessor* made = nullptr;
    ASSERT_EQ(mme_preprocessor_create(kImage, &made), MME_OK);
    EXPECT_TRUE(seen.insert(made).second);
    ASSERT_EQ(mme_preprocessor_destroy(made), MME_OK);
    EXPECT_EQ(mme_preprocessor_destroy(made), MME_INVALID_HANDLE);
    EXPECT_EQ(mme_preprocessor_image(made, &world.image, &world.tensor), MME_INVALID_HANDLE);
  }
}

TEST(Misuse, EveryFunctionOfTheLibraryIsMisusedHere) {
  std::set<std::string> tried{"mme_status_name", "mme_last_error", "mme_api_version", "mme_version"};  // cannot fail
  for (const HandleCall& one : handle_calls()) tried.insert(one.function);
  for (const auto* table : {&bad_calls(), &bad_searches(), &bad_galleries()}) {
    for (const BadCall& bad : *table) tried.insert(bad.what.substr(0, bad.what.find(' ')));
  }
  std::ifstream listed(MMEDGE_SYMBOLS);
  std::set<std::string> symbols;
  for (std::string line; std::getline(listed, line);) symbols.insert(line);
  EXPECT_EQ(tried, symbols);
}

}  // namespace
