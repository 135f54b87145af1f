/* A program of the time of an older version: it sees that version's header alone, MMEDGE_OLD_HEADER, and runs with
 * today's library. After each of its structs lie bytes that the library must leave as they are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include MMEDGE_OLD_HEADER

enum { kGuard = 256, kGuardByte = 0xA5 };

#define CHECK(condition)                                                                     \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, mme_last_error()); \
      exit(1);                                                                               \
    }                                                                                        \
  } while (0)

/* A struct of the old size, zeroed, its struct_size set, between guarded bytes. */
#define GUARDED(type, name)                  \
  struct {                                   \
    unsigned char before[kGuard];            \
    type value;                              \
    unsigned char after[kGuard];             \
  } name;                                    \
  memset(&name, kGuardByte, sizeof name);    \
  memset(&name.value, 0, sizeof name.value); \
  name.value.struct_size = sizeof name.value

#define CHECK_GUARDS(name)                              \
  do {                                                  \
    CHECK(intact(name.before));                         \
    CHECK(intact(name.after));                          \
    CHECK(name.value.struct_size == sizeof name.value); \
  } while (0)

static int intact(const unsigned char *guard) {
  for (int i = 0; i < kGuard; ++i) {
    if (guard[i] != kGuardByte) return 0;
  }
  return 1;
}

int main(void) {
  const char *folder = getenv("MMEDGE_TEST_BUNDLES");
  char path[4096];
  snprintf(path, sizeof path, "%s/digits.mme", folder ? folder : ".");

  /* The rule of versions: the same major, and a minor that is not older than the client's. */
  CHECK(mme_api_version() >> 16 == MME_API_VERSION_MAJOR);
  CHECK((mme_api_version() & 0xffff) >= MME_API_VERSION_MINOR);
  CHECK(mme_bundle_check(path) == MME_OK);

  GUARDED(mme_model_options, options);
  GUARDED(mme_session_options, session_options);
  options.value.threads = 1;
  mme_model *model = NULL;
  mme_session *session = NULL;
  CHECK(mme_model_open(path, &options.value, &model) == MME_OK);
  CHECK(mme_session_create(model, &session_options.value, &session) == MME_OK);

  GUARDED(mme_model_info, model_info);
  CHECK(mme_model_get_info(model, &model_info.value) == MME_OK);
  CHECK(strcmp(model_info.value.task, "classification") == 0);
  CHECK(model_info.value.input_count == 2 && model_info.value.label_count == 10);
  CHECK_GUARDS(model_info);

  GUARDED(mme_input_info, input_info);
  CHECK(mme_model_get_input(model, 0, &input_info.value) == MME_OK);
  CHECK(strcmp(input_info.value.modality, "image") == 0 && input_info.value.rank == 3);
  CHECK_GUARDS(input_info);

  static uint8_t pixels[64 * 48 * 3];
  static int16_t samples[16000];
  for (size_t i = 0; i < sizeof pixels; ++i) pixels[i] = (uint8_t)(i * 7);
  for (size_t i = 0; i < 16000; ++i) samples[i] = (int16_t)(i * 37 % 20000 - 10000);
  GUARDED(mme_image, image);
  image.value.format = MME_IMAGE_BGR8;
  image.value.width = 64;
  image.value.height = 48;
  image.value.rotation = 90;
  image.value.planes[0] = pixels;
  image.value.strides[0] = 64 * 3;
  image.value.sizes[0] = sizeof pixels;
  GUARDED(mme_audio, audio);
  audio.value.format = MME_AUDIO_INT16;
  audio.value.channels = 1;
  audio.value.sample_rate = 16000;
  audio.value.samples = samples;
  audio.value.frames = 16000;
  CHECK(mme_session_set_image(session, "image", &image.value) == MME_OK);
  CHECK(mme_session_set_audio(session, "audio", &audio.value) == MME_OK);

  GUARDED(mme_result, result);
  CHECK(mme_session_run(session, &result.value) == MME_OK);
  CHECK_GUARDS(result);
  CHECK(result.value.class_count == 10 && result.value.output_count == 2 && result.value.timing_count == 5);
  float sum = 0;
  for (size_t i = 0; i < 10; ++i) sum += result.value.scores[result.value.ranking[i]];
  CHECK(sum > 0.999F && sum < 1.001F);
  CHECK(result.value.score == result.value.scores[result.value.class_index]);
  const char *label = NULL;
  CHECK(mme_model_get_label(model, (size_t)result.value.class_index, &label) == MME_OK);
  CHECK(strcmp(label, result.value.label) == 0);

  GUARDED(mme_tensor, output);
  CHECK(mme_session_output(session, 0, &output.value) == MME_OK);
  CHECK(output.value.data_type == MME_FLOAT32 && output.value.size == 10 * sizeof(float));
  CHECK_GUARDS(output);
  for (size_t i = 0; i < result.value.timing_count; ++i) {
    GUARDED(mme_timing, timing);
    CHECK(mme_session_timing(session, i, &timing.value) == MME_OK);
    CHECK(timing.value.stage != NULL && timing.value.nanoseconds > 0);
    CHECK_GUARDS(timing);
  }

  mme_preprocessor *preprocessor = NULL;
  GUARDED(mme_tensor, tensor);
  GUARDED(mme_input_info, made);
  CHECK(mme_preprocessor_create(input_info.value.preprocess, &preprocessor) == MME_OK);
  CHECK(mme_preprocessor_get_info(preprocessor, &made.value) == MME_OK);
  CHECK_GUARDS(made);
  CHECK(mme_preprocessor_image(preprocessor, &image.value, &tensor.value) == MME_OK);
  CHECK(tensor.value.rank == 3 && tensor.value.size == 32 * 32 * sizeof(float));
  CHECK_GUARDS(tensor);

  /* The tensor just made, given back in place of the frame, leads to the same result. */
  const float score = result.value.score;
  CHECK(mme_session_set_tensor(session, "image", &tensor.value) == MME_OK);
  CHECK(mme_session_set_audio(session, "audio", &audio.value) == MME_OK);
  CHECK(mme_session_run(session, &result.value) == MME_OK);
  CHECK(result.value.score == score);
  CHECK(mme_session_set_absent(session, "audio") == MME_OK);
  CHECK(mme_session_set_image(session, "image", &image.value) == MME_OK);
  CHECK(mme_session_run(session, &result.value) == MME_OK);
  CHECK_GUARDS(result);
  CHECK_GUARDS(image);
  CHECK_GUARDS(audio);
  CHECK_GUARDS(options);
  CHECK_GUARDS(session_options);

  CHECK(mme_preprocessor_destroy(preprocessor) == MME_OK);
#if MME_API_VERSION_MINOR >= 2
  CHECK(result.value.ranking_count == 10);
  CHECK(mme_session_push_audio(session, "audio", &audio.value) == MME_OK);
  CHECK(mme_session_set_absent(session, "image") == MME_OK);
  CHECK(mme_session_run(session, &result.value) == MME_OK);
  CHECK_GUARDS(result);
  const float gallery[] = {0, 1, 1, 0}, query[] = {2, 0};
  int64_t index = -1;
  size_t found = 0;
  float similarity = 0;
  GUARDED(mme_search, search);
  search.value.gallery = gallery;
  search.value.rows = 2;
  search.value.dimension = 2;
  CHECK(mme_similarity_top_k(&search.value, query, 1, &index, &similarity, &found) == MME_OK);
  CHECK(found == 1 && index == 1 && similarity == 1);
  CHECK_GUARDS(search);
#endif
  CHECK(mme_session_destroy(session) == MME_OK);
  CHECK(mme_model_close(model) == MME_OK);
  CHECK(mme_model_close(model) == MME_INVALID_HANDLE);
  return 0;
}
