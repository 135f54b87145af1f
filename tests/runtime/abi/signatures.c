/* The signatures as released, declared again: an incompatible declaration in mmedge.h does not compile. A line here
 * never changes; a new function adds one. */
#include "mmedge.h"

const char *mme_status_name(mme_status status);
const char *mme_last_error(void);
uint32_t mme_api_version(void);
const char *mme_version(void);
mme_status mme_bundle_check(const char *path);
mme_status mme_model_open(const char *path, const mme_model_options *options, mme_model **model);
mme_status mme_model_close(mme_model *model);
mme_status mme_model_get_info(const mme_model *model, mme_model_info *info);
mme_status mme_model_get_input(const mme_model *model, size_t index, mme_input_info *info);
mme_status mme_model_get_label(const mme_model *model, size_t index, const char **label);
mme_status mme_session_create(const mme_model *model, const mme_session_options *options, mme_session **session);
mme_status mme_session_destroy(mme_session *session);
mme_status mme_session_set_image(mme_session *session, const char *input, const mme_image *image);
mme_status mme_session_set_audio(mme_session *session, const char *input, const mme_audio *audio);
mme_status mme_session_push_audio(mme_session *session, const char *input, const mme_audio *audio);
mme_status mme_session_reset_audio(mme_session *session, const char *input);
mme_status mme_session_set_tensor(mme_session *session, const char *input, const mme_tensor *tensor);
mme_status mme_session_set_absent(mme_session *session, const char *input);
mme_status mme_session_run(mme_session *session, mme_result *result);
mme_status mme_session_output(mme_session *session, size_t index, mme_tensor *output);
mme_status mme_session_wait_stream(mme_session *session, void *stream);
mme_status mme_session_device_output(mme_session *session, size_t index, mme_tensor *output);
mme_status mme_session_timing(mme_session *session, size_t index, mme_timing *timing);
mme_status mme_preprocessor_create(const char *parameters, mme_preprocessor **preprocessor);
mme_status mme_preprocessor_destroy(mme_preprocessor *preprocessor);
mme_status mme_preprocessor_get_info(mme_preprocessor *preprocessor, mme_input_info *info);
mme_status mme_preprocessor_image(mme_preprocessor *preprocessor, const mme_image *image, mme_tensor *tensor);
mme_status mme_preprocessor_audio(mme_preprocessor *preprocessor, const mme_audio *audio, mme_tensor *tensor);
mme_status mme_preprocessor_push_audio(mme_preprocessor *preprocessor, const mme_audio *audio, mme_tensor *tensor);
mme_status mme_preprocessor_end_audio(mme_preprocessor *preprocessor, mme_tensor *tensor);
mme_status mme_similarity_top_k(const mme_search *search, const float *query, size_t k, int64_t *indices, float *scores,
                                size_t *found);
mme_status mme_session_set_text(mme_session *session, const char *input, const char *text, size_t size);
mme_status mme_session_region(mme_session *session, mme_region *region);
mme_status mme_preprocessor_create_in(const char *parameters, const char *directory, mme_preprocessor **preprocessor);
mme_status mme_preprocessor_text(mme_preprocessor *preprocessor, const char *text, size_t size, mme_tensor *tensor);
mme_status mme_gallery_create(size_t dimension, int32_t metric, const char *model, mme_gallery **gallery);
mme_status mme_gallery_load(const char *path, mme_gallery **gallery);
mme_status mme_gallery_save(mme_gallery *gallery, const char *path);
mme_status mme_gallery_destroy(mme_gallery *gallery);
mme_status mme_gallery_get_info(mme_gallery *gallery, mme_gallery_info *info);
mme_status mme_gallery_enroll(mme_gallery *gallery, const char *name, const float *embedding, size_t size);
mme_status mme_gallery_remove(mme_gallery *gallery, const char *name);
mme_status mme_gallery_search(mme_gallery *gallery, const float *embedding, size_t size, size_t k, mme_match *matches,
                              size_t *found);
