/* Four threads open a bundle at the same moment, as the first thing their process does. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "mmedge.h"

#define THREADS 4

static pthread_barrier_t begin;
static char path[4096];

static void *open_bundle(void *failed) {
  mme_model *model = NULL;
  pthread_barrier_wait(&begin);
  if (mme_model_open(path, NULL, &model) != MME_OK || mme_model_close(model) != MME_OK) {
    fprintf(stderr, "%s\n", mme_last_error());
    return failed;
  }
  return NULL;
}

int main(void) {
  const char *folder = getenv("MMEDGE_TEST_BUNDLES");
  pthread_t threads[THREADS];
  void *failed = NULL;
  if (getenv("ORT_DISABLE_TELEMETRY") == NULL) { /* set later, it would race with any thread's getenv() */
    fprintf(stderr, "loading libmmedge did not set ORT_DISABLE_TELEMETRY\n");
    return 1;
  }
  snprintf(path, sizeof path, "%s/digits.mme", folder ? folder : ".");
  pthread_barrier_init(&begin, NULL, THREADS);
  for (int i = 0; i < THREADS; ++i) pthread_create(&threads[i], NULL, open_bundle, path);
  for (int i = 0; i < THREADS; ++i) {
    void *result = NULL;
    pthread_join(threads[i], &result);
    if (result != NULL) failed = result;
  }
  return failed != NULL;
}
