/* A kiosk in C11: one frame and one clip in, a label and its scores out.
 *
 *   kiosk digits.mme frame.ppm clip.wav     ("-" in place of a file: that modality is absent)
 *
 * Decoding files is not the library's work: a camera and a microphone give frames and samples. So this reads only the
 * two plainest formats, binary PGM/PPM and 16-bit PCM WAV.
 */
#include <mmedge.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what) {
  fprintf(stderr, "kiosk: %s\n", what);
  return 1;
}

/* Fills `frame` with the picture in `path`; the caller frees the pixels it returns. NULL if it is not PGM or PPM. */
static uint8_t *read_pnm(const char *path, mme_image *frame) {
  FILE *file = fopen(path, "rb");
  uint8_t *pixels = NULL;
  char kind = 0;
  int width = 0, height = 0, most = 0;
  if (file != NULL && fscanf(file, "P%c %d %d %d", &kind, &width, &height, &most) == 4 && fgetc(file) != EOF &&
      (kind == '5' || kind == '6') && most == 255 && width > 0 && height > 0 && width <= 8192 && height <= 8192) {
    const size_t row = (size_t)width * (kind == '6' ? 3 : 1), size = row * (size_t)height;
    pixels = malloc(size);
    if (pixels != NULL && fread(pixels, 1, size, file) != size) {
      free(pixels);
      pixels = NULL;
    }
    *frame = (mme_image){.struct_size = sizeof *frame,
                         .format = kind == '6' ? MME_IMAGE_RGB8 : MME_IMAGE_GREY8,
                         .width = width,
                         .height = height,
                         .planes = {pixels},
                         .strides = {row},
                         .sizes = {size}};
  }
  if (file != NULL) fclose(file);
  return pixels;
}

/* Fills `clip` with the samples in `path`; the caller frees the samples it returns. NULL if it is not 16-bit WAV with
 * the plain 44-byte header. Little-endian machines only, as every Jetson is. */
static int16_t *read_wav(const char *path, mme_audio *clip) {
  FILE *file = fopen(path, "rb");
  int16_t *samples = NULL;
  uint8_t header[44];
  if (file != NULL && fread(header, 1, sizeof header, file) == sizeof header && memcmp(header, "RIFF", 4) == 0 &&
      memcmp(header + 36, "data", 4) == 0 && header[20] == 1 && header[34] == 16) {
    uint32_t size, rate;
    memcpy(&size, header + 40, sizeof size);
    memcpy(&rate, header + 24, sizeof rate);
    if (size <= 1u << 28) samples = malloc(size + 1);
    const size_t got = samples == NULL ? 0 : fread(samples, 1, size, file);
    *clip = (mme_audio){.struct_size = sizeof *clip,
                        .format = MME_AUDIO_INT16,
                        .channels = header[22],
                        .sample_rate = (int32_t)rate,
                        .samples = samples,
                        .frames = header[22] ? got / (2u * header[22]) : 0};
  }
  if (file != NULL) fclose(file);
  return samples;
}

int main(int argc, char **argv) {
  mme_model *model = NULL;
  mme_session *session = NULL;
  mme_image frame = {0};
  mme_audio clip = {0};
  uint8_t *pixels = NULL;
  int16_t *samples = NULL;
  mme_result result = {.struct_size = sizeof result};
  int exit_code = 1;

  if (argc != 4) return fail("usage: kiosk BUNDLE FRAME.ppm|- CLIP.wav|-");
  if (mme_api_version() >> 16 != MME_API_VERSION_MAJOR || mme_api_version() < MME_API_VERSION) {
    return fail("libmmedge is older than the header, or of another major version");
  }
  if (strcmp(argv[2], "-") != 0 && (pixels = read_pnm(argv[2], &frame)) == NULL) {
    return fail("the frame is not a readable PGM or PPM file");
  }
  if (strcmp(argv[3], "-") != 0 && (samples = read_wav(argv[3], &clip)) == NULL) {
    free(pixels);
    return fail("the clip is not a readable 16-bit WAV file");
  }

  /* || stops at the first call that does not return MME_OK. */
  if (mme_model_open(argv[1], NULL, &model) || mme_session_create(model, NULL, &session) ||
      (pixels ? mme_session_set_image(session, "image", &frame) : mme_session_set_absent(session, "image")) ||
      (samples ? mme_session_set_audio(session, "audio", &clip) : mme_session_set_absent(session, "audio")) ||
      mme_session_run(session, &result)) {
    fail(mme_last_error());
  } else {
    printf("%s\n", result.label);
    for (size_t rank = 0; rank < result.class_count; ++rank) {
      const char *label = NULL;
      const size_t class_index = (size_t)result.ranking[rank];
      mme_model_get_label(model, class_index, &label);
      printf("%-12s %.6f\n", label, result.scores[class_index]);
    }
    for (size_t stage = 0; stage < result.timing_count; ++stage) {
      mme_timing timing = {.struct_size = sizeof timing};
      if (mme_session_timing(session, stage, &timing) == MME_OK) {
        fprintf(stderr, "%-20s %8.1f us\n", timing.stage, (double)timing.nanoseconds / 1000.0);
      }
    }
    exit_code = 0;
  }
  if (session != NULL) mme_session_destroy(session);
  if (model != NULL) mme_model_close(model);
  free(pixels);
  free(samples);
  return exit_code;
}
