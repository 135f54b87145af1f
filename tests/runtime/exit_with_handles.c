/* Ends the process with handles in the state its argument names; the exit code must be 0 all the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mmedge.h"

static mme_model *model;
static mme_session *session;
static mme_preprocessor *preprocessor;
static int32_t tokens[8];

static void release(void) {
  if (mme_session_destroy(session) != MME_OK || mme_model_close(model) != MME_OK) _Exit(3);
}

static void release_twice(void) {
  release();
  if (mme_model_close(model) != MME_INVALID_HANDLE || strlen(mme_last_error()) < 20) _Exit(4);
}

/* Tokenizes a text that is not ASCII. */
static const int32_t *tokenize(void) {
  static const char text[] = "Is th\xc3\x89 circl\xc3\xa9?";
  mme_tensor tensor = {0};
  tensor.struct_size = sizeof tensor;
  if (mme_preprocessor_text(preprocessor, text, sizeof text - 1, &tensor) != MME_OK) _Exit(6);
  return tensor.data;
}

static void tokenize_again(void) {
  if (memcmp(tokenize(), tokens, sizeof tokens) != 0) _Exit(7);
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
  if (strcmp(way, "text") == 0) { /* the handler comes before what the first text makes, and so runs after its end */
    atexit(tokenize_again);
    snprintf(path, sizeof path, "%s/words.mme", folder ? folder : ".");
    if (mme_preprocessor_create_in("{\"type\": \"text\", \"tokenizer\": \"tokenizer.json\", \"max_length\": 8}", path,
                                   &preprocessor)) {
      fprintf(stderr, "%s\n", mme_last_error());
      return 1;
    }
    memcpy(tokens, tokenize(), sizeof tokens);
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
