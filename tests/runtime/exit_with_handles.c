/* Ends the process with handles in the state its argument names; the exit code must be 0 all the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mmedge.h"

static mme_model *model;
static mme_session *session;

static void release(void) {
  if (mme_session_destroy(session) != MME_OK || mme_model_close(model) != MME_OK) _Exit(3);
}

static void release_twice(void) {
  release();
  if (mme_model_close(model) != MME_INVALID_HANDLE || strlen(mme_last_error()) < 20) _Exit(4);
}

int main(int argc, char **argv) {
  const char *way = argc > 1 ? argv[1] : "";
  const char *folder = getenv("MMEDGE_TEST_BUNDLES");
  char path[4096];
  uint8_t pixels[12] = {0};
  mme_image image = {0};
  mme_result result = {0};

  if (strcmp(way, "atexit") == 0) { /* runs after the engine's own exit handlers */
    if (mme_model_close(NULL) == MME_OK && mme_model_close((mme_model *)path) == MME_OK) return 5; /* has a message */
    atexit(release_twice);
  }
  snprintf(path, sizeof path, "%s/digits.mme", folder ? folder : ".");
  image.struct_size = sizeof image;
  image.width = image.height = 2;
  image.planes[0] = pixels;
  image.strides[0] = 6;
  image.sizes[0] = sizeof pixels;
  result.struct_size = sizeof result;
  if (mme_model_open(path, NULL, &model) || mme_session_create(model, NULL, &session) ||
      mme_session_set_image(session, "image", &image) || mme_session_set_absent(session, "audio") ||
      mme_session_run(session, &result)) {
    fprintf(stderr, "%s\n", mme_last_error());
    return 1;
  }
  if (strcmp(way, "freed") == 0 || strcmp(way, "twice") == 0) release();
  if (strcmp(way, "twice") == 0) {
    if (mme_session_destroy(session) != MME_INVALID_HANDLE || mme_model_close(model) != MME_INVALID_HANDLE) return 2;
  }
  if (strcmp(way, "leaked") == 0) session = NULL, model = NULL;
  return 0; /* "global": both handles stay in globals */
}
