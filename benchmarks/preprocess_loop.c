/* Preprocesses one input again and again, for neon_cost.py to count.
 *
 *     preprocess_loop image|audio PARAMETERS COUNT     a 1280x720 NV12 frame, or 1 s of audio at 16 kHz, of noise
 */
#include <mmedge.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kWidth = 1280, kHeight = 720, kSamples = 16000 };

static uint8_t pixels[kWidth * kHeight * 3 / 2];
static float samples[kSamples];

static unsigned next_byte(void) {
  static uint32_t state = 1;
  state = state * 1664525U + 1013904223U;
  return state >> 24;
}

int main(int argc, char **argv) {
  mme_preprocessor *preprocessor = NULL;
  mme_tensor tensor = {.struct_size = sizeof tensor};
  const size_t luma = (size_t)kWidth * kHeight;
  const mme_image frame = {.struct_size = sizeof frame,
                           .format = MME_IMAGE_NV12,
                           .width = kWidth,
                           .height = kHeight,
                           .planes = {pixels, pixels + luma},
                           .strides = {kWidth, kWidth},
                           .sizes = {luma, luma / 2}};
  const mme_audio clip = {.struct_size = sizeof clip,
                          .format = MME_AUDIO_FLOAT32,
                          .channels = 1,
                          .sample_rate = kSamples,
                          .samples = samples,
                          .frames = kSamples};

  if (argc != 4) return fprintf(stderr, "usage: preprocess_loop image|audio PARAMETERS COUNT\n"), 2;
  for (size_t i = 0; i < sizeof pixels; ++i) pixels[i] = (uint8_t)next_byte();
  for (size_t i = 0; i < kSamples; ++i) samples[i] = (float)next_byte() / 256 - 0.5F;

  mme_status status = mme_preprocessor_create(argv[2], &preprocessor);
  for (long count = atol(argv[3]); count > 0 && status == MME_OK; --count) {
    status = strcmp(argv[1], "image") == 0 ? mme_preprocessor_image(preprocessor, &frame, &tensor)
                                           : mme_preprocessor_audio(preprocessor, &clip, &tensor);
  }
  if (status != MME_OK) return fprintf(stderr, "%s\n", mme_last_error()), 1;
  return mme_preprocessor_destroy(preprocessor) == MME_OK ? 0 : 1;
}
