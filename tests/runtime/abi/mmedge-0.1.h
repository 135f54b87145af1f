/* mmedge: run a multimodal bundle on an edge device.                                   SPDX-License-Identifier:
 * Apache-2.0
 *
 * Overview
 *   A bundle is a directory NAME.mme holding a manifest and a graph. Open it once as a model, make one session per
 *   thread, hand each session the inputs of one moment, run it and read the result:
 *
 *     mme_model *model = NULL;
 *     mme_session *session = NULL;
 *     mme_image frame = {.struct_size = sizeof frame, .format = MME_IMAGE_RGB8, .width = w, .height = h,
 *                        .planes = {pixels}, .strides = {3 * w}, .sizes = {3 * w * h}};
 *     mme_audio clip = {.struct_size = sizeof clip, .format = MME_AUDIO_INT16, .samples = samples, .frames = n,
 *                       .channels = 1, .sample_rate = 16000};
 *     mme_result result = {.struct_size = sizeof result};
 *     if (mme_model_open("digits.mme", NULL, &model) || mme_session_create(model, NULL, &session) ||
 *         mme_session_set_image(session, "image", &frame) || mme_session_set_audio(session, "audio", &clip) ||
 *         mme_session_run(session, &result))
 *       fprintf(stderr, "%s\n", mme_last_error());
 *     else
 *       printf("%s %.3f\n", result.label, result.score);
 *     mme_session_destroy(session);
 *     mme_model_close(model);
 *
 * Order of calls
 *   model_open -> session_create -> (set every input or mark it absent -> run)* -> session_destroy -> model_close.
 *   A run uses its inputs up: each must be set, or marked absent, again before the next run. A model may be closed
 *   while its sessions live; they keep what they need.
 *
 * Ownership
 *   What the caller passes in is read during the call only. Every pointer the library returns is owned by the library;
 *   each function says how long it stays valid. Handles are released by their destroy or close call, exactly once.
 *
 * Threads
 *   A model may be used by any number of threads at once. A session or a preprocessor serves one call at a time: a
 *   second call while one is in progress is refused with MME_BUSY. mme_last_error() belongs to the calling thread.
 *   A preprocessor starts no thread and loads no engine, so it may be used after fork().
 *
 * Status
 *   Every call returns MME_OK or the kind of fault; mme_last_error() then says what was found, what was expected and
 *   what to do. A handle that is NULL, already released or of another kind gives MME_INVALID_HANDLE. On any fault the
 *   output arguments are left as they were, except where a function says otherwise.
 *
 * Versions
 *   Set struct_size of every struct to its sizeof: structs may grow at their end. While the major version is 0, use a
 *   library whose major and minor version equal the header's (compare mme_api_version() with MME_API_VERSION); from
 *   1.0 on, the same major and at least the header's minor.
 */
#ifndef MMEDGE_H_
#define MMEDGE_H_

#include <stddef.h>
#include <stdint.h>

#define MME_API_VERSION_MAJOR 0
#define MME_API_VERSION_MINOR 1
#define MME_API_VERSION ((MME_API_VERSION_MAJOR << 16) | MME_API_VERSION_MINOR)

#if defined(__GNUC__)
#define MME_API __attribute__((visibility("default")))
#else
#define MME_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* [binding] From here to the closing mark: plain declarations only, the Python binding is generated from them. */

/* ---- Status --------------------------------------------------------------------------------------------------- */

typedef enum mme_status {
  MME_OK = 0,
  MME_INVALID_ARGUMENT = 1,   /* a value cannot be used: NULL, a bad size, an unknown name */
  MME_INVALID_HANDLE = 2,     /* NULL, released already, or of another kind */
  MME_BUSY = 3,               /* the handle is in use by another call */
  MME_NOT_READY = 4,          /* called out of order, such as run before every input was set */
  MME_BUNDLE_INVALID = 5,     /* the bundle is missing, damaged, of a newer schema, or reaches outside itself */
  MME_ENGINE_UNAVAILABLE = 6, /* no usable inference engine was found, or it is too old */
  MME_ENGINE_FAILED = 7,      /* the engine refused the graph or failed to run it */
  MME_BAD_INPUT = 8,          /* the data itself is unusable: empty or too short audio, a NaN sample, a short buffer */
  MME_BAD_OUTPUT = 9,         /* the model produced NaN or infinity */
  MME_OUT_OF_MEMORY = 10,
  MME_INTERNAL = 11 /* a fault in mmedge itself */
} mme_status;

/* The name of a status, such as "MME_BUSY"; "unknown" for any other value. Static storage. Any thread. */
MME_API const char* mme_status_name(mme_status status);

/* The message of the last call on this thread that did not return MME_OK, or "" if none failed yet. Owned by the
 * library, valid until the next mmedge call on this thread. */
MME_API const char* mme_last_error(void);

/* The API version the library implements, (major << 16) | minor. Any thread. */
MME_API uint32_t mme_api_version(void);

/* The library's version, such as "0.1.0". Static storage. Any thread. */
MME_API const char* mme_version(void);

/* ---- Inputs and results --------------------------------------------------------------------------------------- */

typedef enum mme_image_format {
  MME_IMAGE_RGB8 = 0,  /* 3 bytes a pixel, red first */
  MME_IMAGE_BGR8 = 1,  /* 3 bytes a pixel, blue first */
  MME_IMAGE_GREY8 = 2, /* 1 byte a pixel */
} mme_image_format;

/* A frame in host memory. planes[0] holds `height` rows, strides[0] bytes apart; the formats of this version have one
 * plane. sizes[0] is the number of readable bytes at planes[0]. */
typedef struct mme_image {
  size_t struct_size;
  int32_t format;   /* mme_image_format */
  int32_t width;    /* pixels, as stored */
  int32_t height;   /* pixels, as stored */
  int32_t rotation; /* degrees clockwise that bring the frame upright: 0, 90, 180 or 270 */
  int32_t mirror;   /* not 0: then swap left and right, after the rotation */
  const void* planes[3];
  size_t strides[3]; /* bytes from one row to the next */
  size_t sizes[3];   /* bytes */
} mme_image;

typedef enum mme_audio_format {
  MME_AUDIO_INT16 = 0,  /* full scale 32768 */
  MME_AUDIO_FLOAT32 = 1 /* full scale 1.0; NaN and infinity are refused */
} mme_audio_format;

/* A whole clip. Several channels are interleaved and averaged to one. */
typedef struct mme_audio {
  size_t struct_size;
  int32_t format;      /* mme_audio_format */
  int32_t channels;    /* 1 to 8 */
  int32_t sample_rate; /* Hz, 1000 to 768000; resampled where the model wants another */
  const void* samples;
  size_t frames; /* samples per channel */
} mme_audio;

typedef enum mme_data_type { MME_FLOAT32 = 0 } mme_data_type;

/* A dense tensor in host memory, row-major. */
typedef struct mme_tensor {
  size_t struct_size;
  const char* name;
  int32_t data_type; /* mme_data_type */
  const void* data;
  size_t size; /* bytes */
  size_t rank;
  const int64_t* shape;
} mme_tensor;

/* One input of a model or a preprocessor. Shapes carry no batch dimension; -1 marks a dimension that varies. */
typedef struct mme_input_info {
  size_t struct_size;
  const char* name;     /* "" for a preprocessor */
  const char* modality; /* "image" or "audio" */
  int32_t data_type;    /* mme_data_type */
  size_t rank;
  const int64_t* shape;
  const char* preprocess; /* its parameters as JSON */
} mme_input_info;

/* What one run found. All pointers are owned by the session and valid until its next run or its end. */
typedef struct mme_result {
  size_t struct_size;
  const char* label;      /* the best class */
  int32_t class_index;    /* its index */
  float score;            /* its probability, 0 to 1 */
  size_t class_count;     /* length of scores and ranking */
  const float* scores;    /* probability per class index */
  const int32_t* ranking; /* class indices, best first; equal scores by index */
  size_t output_count;    /* for mme_session_output */
  size_t timing_count;    /* for mme_session_timing */
} mme_result;

/* The duration of one stage of the last run, on the monotonic clock. */
typedef struct mme_timing {
  size_t struct_size;
  const char* stage; /* "preprocess.NAME" per input, "engine", "postprocess", "total" */
  int64_t nanoseconds;
} mme_timing;

/* ---- Model ---------------------------------------------------------------------------------------------------- */

typedef struct mme_model mme_model;

typedef struct mme_model_options {
  size_t struct_size;
  const char* onnxruntime; /* path of libonnxruntime.so; NULL: MMEDGE_ONNXRUNTIME, then the Python package beside this
                              library, then the system's */
  int32_t threads;         /* threads inside one run; 0 means 1 */
} mme_model_options;

typedef struct mme_model_info {
  size_t struct_size;
  const char* name;
  const char* task;     /* "classification" */
  const char* engine;   /* engine, version and where it was found */
  const char* manifest; /* the whole manifest as JSON */
  size_t input_count;
  size_t label_count;
} mme_model_info;

/* Check the bundle directory at `path` (its manifest, every file's hash, that no path leaves it) without loading it.
 * MME_INVALID_ARGUMENT, MME_BUNDLE_INVALID, MME_OUT_OF_MEMORY. */
MME_API mme_status mme_bundle_check(const char* path);

/* Open the bundle directory at `path`: check its manifest and every file's hash, and load its graph.
 * options may be NULL. On MME_OK *model is a handle the caller must close.
 * MME_INVALID_ARGUMENT, MME_BUNDLE_INVALID, MME_ENGINE_UNAVAILABLE, MME_ENGINE_FAILED, MME_OUT_OF_MEMORY. */
MME_API mme_status mme_model_open(const char* path, const mme_model_options* options, mme_model** model);

/* Release a model; sessions made from it stay usable. MME_INVALID_HANDLE; MME_BUSY while another call uses it. */
MME_API mme_status mme_model_close(mme_model* model);

/* Describe a model. Pointers are valid until the model is closed. MME_INVALID_HANDLE, MME_INVALID_ARGUMENT. */
MME_API mme_status mme_model_get_info(const mme_model* model, mme_model_info* info);

/* Describe input `index`, 0 to input_count - 1. Pointers are valid until the model is closed.
 * MME_INVALID_HANDLE, MME_INVALID_ARGUMENT. */
MME_API mme_status mme_model_get_input(const mme_model* model, size_t index, mme_input_info* info);

/* The text of class `index`, 0 to label_count - 1, valid until the model is closed.
 * MME_INVALID_HANDLE, MME_INVALID_ARGUMENT. */
MME_API mme_status mme_model_get_label(const mme_model* model, size_t index, const char** label);

/* ---- Session -------------------------------------------------------------------------------------------------- */

typedef struct mme_session mme_session;

typedef struct mme_session_options {
  size_t struct_size;
} mme_session_options;

/* Make a session: a model ready to run, with all its buffers. options may be NULL. The caller must destroy *session.
 * MME_INVALID_HANDLE, MME_INVALID_ARGUMENT, MME_ENGINE_FAILED, MME_OUT_OF_MEMORY. */
MME_API mme_status mme_session_create(const mme_model* model, const mme_session_options* options,
                                      mme_session** session);

/* Release a session and everything read from it. MME_INVALID_HANDLE; MME_BUSY while another call uses it. */
MME_API mme_status mme_session_destroy(mme_session* session);

/* Preprocess a frame into input `input` for the next run.
 * MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT (unknown input, not an image), MME_BAD_INPUT. */
MME_API mme_status mme_session_set_image(mme_session* session, const char* input, const mme_image* image);

/* Preprocess a whole clip into input `input` for the next run.
 * MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT (unknown input, not audio), MME_BAD_INPUT. */
MME_API mme_status mme_session_set_audio(mme_session* session, const char* input, const mme_audio* audio);

/* Copy a ready tensor into input `input` for the next run; its shape must fit the input's.
 * MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT, MME_BAD_INPUT (NaN or infinity). */
MME_API mme_status mme_session_set_tensor(mme_session* session, const char* input, const mme_tensor* tensor);

/* Say that input `input` is missing from the next run. MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT. */
MME_API mme_status mme_session_set_absent(mme_session* session, const char* input);

/* Run on the inputs set since the last run, and use them up. At least one must be present.
 * MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT, MME_NOT_READY (an input was neither set nor marked absent; the
 * others stay set), MME_ENGINE_FAILED, MME_BAD_OUTPUT. */
MME_API mme_status mme_session_run(mme_session* session, mme_result* result);

/* Output `index` of the last run, 0 to output_count - 1, as the graph gave it, without the batch dimension. Pointers
 * are valid until the next run. MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT, MME_NOT_READY (no run yet). */
MME_API mme_status mme_session_output(mme_session* session, size_t index, mme_tensor* output);

/* Stage `index` of the last run, 0 to timing_count - 1. Pointers are valid until the next run.
 * MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT, MME_NOT_READY (no run yet). */
MME_API mme_status mme_session_timing(mme_session* session, size_t index, mme_timing* timing);

/* ---- Preprocessor --------------------------------------------------------------------------------------------- */

/* The preprocessing of one input alone, from its JSON: the same kernels a session uses, needing no bundle. */
typedef struct mme_preprocessor mme_preprocessor;

/* Make a preprocessor from an input's "preprocess" object. The caller must destroy *preprocessor.
 * MME_INVALID_ARGUMENT (names the key that is wrong), MME_OUT_OF_MEMORY. */
MME_API mme_status mme_preprocessor_create(const char* parameters, mme_preprocessor** preprocessor);

/* Release a preprocessor and its last tensor. MME_INVALID_HANDLE; MME_BUSY while another call uses it. */
MME_API mme_status mme_preprocessor_destroy(mme_preprocessor* preprocessor);

/* Describe what it makes. Pointers are valid until it is destroyed.
 * MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT. */
MME_API mme_status mme_preprocessor_get_info(mme_preprocessor* preprocessor, mme_input_info* info);

/* Turn a frame into a tensor, owned by the preprocessor and valid until its next call.
 * MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT, MME_BAD_INPUT. */
MME_API mme_status mme_preprocessor_image(mme_preprocessor* preprocessor, const mme_image* image, mme_tensor* tensor);

/* Turn a whole clip into a tensor, owned by the preprocessor and valid until its next call.
 * MME_INVALID_HANDLE, MME_BUSY, MME_INVALID_ARGUMENT, MME_BAD_INPUT. */
MME_API mme_status mme_preprocessor_audio(mme_preprocessor* preprocessor, const mme_audio* audio, mme_tensor* tensor);

/* [/binding] */

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MMEDGE_H_ */
