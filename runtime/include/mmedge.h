/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 * @brief mmedge: run a multimodal bundle on an edge device.
 *
 * @par Overview
 * A bundle is a directory NAME.mme holding a manifest and a graph. Open it once as a model, make one session per
 * thread, hand each session the inputs of one moment, run it and read the result:
 *
 * @code{.c}
 * mme_model *model = NULL;
 * mme_session *session = NULL;
 * mme_image frame = {.struct_size = sizeof frame, .format = MME_IMAGE_RGB8, .width = w, .height = h,
 *                    .planes = {pixels}, .strides = {3 * w}, .sizes = {3 * w * h}};
 * mme_audio clip = {.struct_size = sizeof clip, .format = MME_AUDIO_INT16, .samples = samples, .frames = n,
 *                   .channels = 1, .sample_rate = 16000};
 * mme_result result = {.struct_size = sizeof result};
 * if (mme_model_open("digits.mme", NULL, &model) || mme_session_create(model, NULL, &session) ||
 *     mme_session_set_image(session, "image", &frame) || mme_session_set_audio(session, "audio", &clip) ||
 *     mme_session_run(session, &result))
 *   fprintf(stderr, "%s\n", mme_last_error());
 * else
 *   printf("%s %.3f\n", result.label, result.score);
 * mme_session_destroy(session);
 * mme_model_close(model);
 * @endcode
 *
 * @par Order of calls
 * 1. mme_model_open(), then what describes the model: mme_model_get_info(), mme_model_get_input(),
 * mme_model_get_label().
 * 2. mme_session_create(), once for each thread that runs.
 * 3. For each moment: give every input (mme_session_set_image(), mme_session_set_audio(), mme_session_push_audio(),
 *    mme_session_set_text() or mme_session_set_tensor()) or say that it is missing (mme_session_set_absent()); then
 *    mme_session_run(); then read (the result, mme_session_region(), mme_session_output(), mme_session_timing()). A run
 *    uses its inputs up.
 * 4. mme_session_destroy(), mme_model_close(), in either order: sessions keep what they need of their model.
 *
 * @par Ownership
 * What the caller passes in is read during the call only. Every pointer the library returns is owned by the library;
 * each function says how long it stays valid. Handles are released by their destroy or close call, exactly once; at the
 * end of the process they need not be.
 *
 * @par Threads
 * A model may be used by any number of threads at once. A session or a preprocessor serves one call at a time, from any
 * thread: a second call while one is in progress is refused with #MME_BUSY, and nothing is broken. mme_last_error()
 * belongs to the calling thread. A preprocessor starts no thread and loads no engine, so a child made by fork() may
 * make its own, and use one made before the fork that no other thread was using at that moment; a model or session may
 * not be used there.
 *
 * @par Environment
 * When the library is loaded it sets ORT_DISABLE_TELEMETRY to 1, so that ONNX Runtime does not report to its makers,
 * and keeps an existing setting. Nothing changes the environment later. A program that loads the library with dlopen()
 * must not use the environment in another thread meanwhile.
 *
 * @par Statuses
 * Every call returns #MME_OK or the kind of fault; mme_last_error() then says what was found, what was expected and
 * what to do. On a fault the output arguments are left as they were. Three faults are possible in every call that
 * returns a status, and are not repeated below: #MME_OUT_OF_MEMORY; #MME_INTERNAL; and, for a struct whose struct_size
 * is less than its first version's or more than 4096 above this one's, or that sets fields this library does not know,
 * #MME_INVALID_ARGUMENT. A handle is never followed before it is checked: one that is NULL, already released, of
 * another kind or made up gives #MME_INVALID_HANDLE.
 *
 * @par Versions
 * Set struct_size of every struct to its sizeof, and zero what you do not set. While the major version is 0, from 0.1
 * on, a library serves the clients of its own major version and of its own or an older minor version: structs only grow
 * at their end, functions and values are only added, and what is new behaves as before where it is zero or left out. So
 * ask of mme_api_version() the same major as #MME_API_VERSION_MAJOR and at least #MME_API_VERSION_MINOR. A newer client
 * may run with an older library too as long as the fields that the library does not know are zero; else the call is
 * refused, never half understood. "Since 0.2" marks what 0.1 did not have.
 *
 * @par Tasks
 * What a result holds depends on the model's task, mme_model_info.task:
 *
 * | task | label, scores, ranking | embedding | mme_session_region() |
 * |---|---|---|---|
 * | "classification" | softmax of the classes; of a multi-label model the sigmoid of each, and above_threshold | | |
 * | "embedding" | none: label is NULL, class_index -1 | the vector, of length 1 where the metric is cosine | |
 * | "vqa" | softmax of the answers | | the part of the image that the answer rests on |
 *
 * Any of them may tell how much it listened to each input: mme_result.input_weights. Embeddings are compared with
 * mme_similarity_top_k(), or kept under names in a gallery, mme_gallery_create().
 *
 * @par Streams
 * A live microphone has no end to wait for. mme_session_push_audio() takes samples as they come, in pieces of any
 * length, and computes each hop once; a run sees the last window. Push, set the frame, run: as often as results are
 * wanted, not as often as samples come. mme_preprocessor_push_audio() gives the frames themselves, all of them in
 * order, and mme_preprocessor_end_audio() those that needed the end.
 *
 * @par Steady state
 * Memory is taken when a handle is made, when a call brings a larger size than every call before it, and when a frame
 * has another geometry (format, colours, size, rotation, mirror, region) than the one before. After that, with sizes as
 * before, these allocate nothing and take no lock:
 *
 * | call | allocates |
 * |---|---|
 * | set_image, preprocessor_image | nothing; a frame of another geometry than the one before is planned anew |
 * | set_text, set_tensor, set_absent, output, region, timing, preprocessor_text | nothing |
 * | set_audio, preprocessor_audio | nothing; a clip at another rate than the model's makes its resampler anew |
 * | push_audio, preprocessor_push_audio | nothing, at any rate |
 * | run | nothing of its own, but for profile_layers and #MME_MEMORY_CUDA at a new address; the inference engine may |
 * | mme_similarity_top_k(), mme_gallery_search() | nothing for k up to 1024 |
 * | any call that fails | its message |
 *
 * @par Units
 * Images are measured in pixels, buffers in bytes, rotations in degrees clockwise, sample rates in Hz, audio lengths in
 * samples per channel, times in nanoseconds of CLOCK_MONOTONIC, probabilities from 0 to 1. Rows count from the top.
 *
 * @par Image formats
 * For w by h pixels; w/2 and h/2 are rounded up, so odd sizes are allowed.
 *
 * | format | planes | bytes in a row | rows | chroma |
 * |---|---|---|---|---|
 * | #MME_IMAGE_RGB8, #MME_IMAGE_BGR8 | 1 | 3 w | h | |
 * | #MME_IMAGE_GREY8 | 1 | w | h | |
 * | #MME_IMAGE_RGBA8, #MME_IMAGE_BGRA8 | 1 | 4 w | h | |
 * | #MME_IMAGE_NV12 | Y; UV | w; 2 (w/2) | h; h/2 | U V, one pair for 2 x 2 pixels |
 * | #MME_IMAGE_I420 | Y; U; V | w; w/2; w/2 | h; h/2; h/2 | one U and one V for 2 x 2 pixels |
 * | #MME_IMAGE_YUYV | 1 | 4 (w/2) | h | Y U Y V, one pair for 2 x 1 pixels |
 * | #MME_IMAGE_UYVY | 1 | 4 (w/2) | h | U Y V Y, one pair for 2 x 1 pixels |
 *
 * And as others name them:
 *
 * | format | V4L2 | GStreamer | OpenCV |
 * |---|---|---|---|
 * | #MME_IMAGE_RGB8 | V4L2_PIX_FMT_RGB24 | RGB | CV_8UC3 after COLOR_BGR2RGB |
 * | #MME_IMAGE_BGR8 | V4L2_PIX_FMT_BGR24 | BGR | CV_8UC3: imread, VideoCapture |
 * | #MME_IMAGE_GREY8 | V4L2_PIX_FMT_GREY | GRAY8 | CV_8UC1 |
 * | #MME_IMAGE_RGBA8 | V4L2_PIX_FMT_RGBA32 | RGBA, RGBx | CV_8UC4 after COLOR_BGRA2RGBA |
 * | #MME_IMAGE_BGRA8 | V4L2_PIX_FMT_ABGR32 | BGRA, BGRx | CV_8UC4 |
 * | #MME_IMAGE_NV12 | V4L2_PIX_FMT_NV12 | NV12 | as COLOR_YUV2BGR_NV12 reads |
 * | #MME_IMAGE_I420 | V4L2_PIX_FMT_YUV420 | I420 | as COLOR_YUV2BGR_I420 reads |
 * | #MME_IMAGE_YUYV | V4L2_PIX_FMT_YUYV | YUY2 | as COLOR_YUV2BGR_YUY2 reads |
 * | #MME_IMAGE_UYVY | V4L2_PIX_FMT_UYVY | UYVY | as COLOR_YUV2BGR_UYVY reads |
 */
#ifndef MMEDGE_H_
#define MMEDGE_H_

#include <stddef.h>
#include <stdint.h>

#define MME_API_VERSION_MAJOR 0 /**< Changes when a client must change. */
#define MME_API_VERSION_MINOR 4 /**< Grows when something is added. */
/** The version this header is of, as mme_api_version() gives the library's. */
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

/** @defgroup status Status
 * @{ */

/** The outcome of a call. */
typedef enum mme_status {
  MME_OK = 0,                 /**< done */
  MME_INVALID_ARGUMENT = 1,   /**< a value cannot be used: NULL, a bad size, an unknown name */
  MME_INVALID_HANDLE = 2,     /**< NULL, released already, or of another kind */
  MME_BUSY = 3,               /**< the handle is in use by another call */
  MME_NOT_READY = 4,          /**< called out of order, such as run before every input was set */
  MME_BUNDLE_INVALID = 5,     /**< the bundle is missing, damaged, of a newer schema, or reaches outside itself */
  MME_ENGINE_UNAVAILABLE = 6, /**< no usable inference engine was found, or it is too old */
  MME_ENGINE_FAILED = 7,      /**< the engine refused the graph or failed to run it */
  MME_BAD_INPUT = 8,          /**< the data itself is unusable: empty or too short audio, a NaN, a short buffer */
  MME_BAD_OUTPUT = 9,         /**< the model produced NaN or infinity */
  MME_OUT_OF_MEMORY = 10,     /**< memory, or all 65536 handles of a kind, are used up */
  MME_INTERNAL = 11           /**< a fault in mmedge itself */
} mme_status;

/** The name of a status.
 * @return Such as "MME_BUSY"; "unknown" for a value that is none. Static storage. Any thread. */
MME_API const char* mme_status_name(mme_status status);

/** What the last call on this thread that did not return #MME_OK had to say.
 * @return The message, or "" if none failed yet. Valid until the next mmedge call on this thread. */
MME_API const char* mme_last_error(void);

/** The API version the library implements; see Versions.
 * @return (major << 16) | minor. Any thread. */
MME_API uint32_t mme_api_version(void);

/** The library's own version.
 * @return Such as "0.1.0". Static storage. Any thread. */
MME_API const char* mme_version(void);

/** @} */
/** @defgroup data Inputs and results
 * @{ */

/** How a frame's pixels lie in memory; see Image formats. */
typedef enum mme_image_format {
  MME_IMAGE_RGB8 = 0,  /**< R G B */
  MME_IMAGE_BGR8 = 1,  /**< B G R */
  MME_IMAGE_GREY8 = 2, /**< one value */
  MME_IMAGE_RGBA8 = 3, /**< R G B A; alpha is ignored, here and in BGRA8; since 0.2, like all that follows */
  MME_IMAGE_BGRA8 = 4, /**< B G R A */
  MME_IMAGE_NV12 = 5,  /**< Y, then U and V interleaved at half size */
  MME_IMAGE_I420 = 6,  /**< Y, U, V, the last two at half size */
  MME_IMAGE_YUYV = 7,  /**< Y U Y V for two pixels */
  MME_IMAGE_UYVY = 8   /**< U Y V Y for two pixels */
} mme_image_format;

/** What a YUV frame's numbers mean; RGB and grey formats ignore it. Since 0.2. */
typedef enum mme_color_matrix {
  MME_COLOR_BT601 = 0, /**< ITU-R BT.601: webcams, standard definition */
  MME_COLOR_BT709 = 1  /**< ITU-R BT.709: high definition */
} mme_color_matrix;

/** The range of a YUV frame's numbers; RGB and grey formats ignore it. Since 0.2. */
typedef enum mme_color_range {
  MME_COLOR_LIMITED = 0, /**< Y 16 to 235, U and V 16 to 240 */
  MME_COLOR_FULL = 1     /**< 0 to 255, as in JPEG */
} mme_color_range;

/** Where bytes lie. Since 0.4. */
typedef enum mme_memory {
  MME_MEMORY_HOST = 0, /**< the processor's */
  MME_MEMORY_CUDA = 1 /**< of the GPU that the model runs on, as cuMemAlloc or cudaMalloc gives it; of an integrated one
                         also pinned memory of the host */
} mme_memory;

/** A frame. Row y of plane p starts at planes[p] + y * strides[p]; nothing outside the sizes[p] bytes at
 * planes[p] is read. The last row may end where its pixels end. */
typedef struct mme_image {
  size_t struct_size;    /**< sizeof(mme_image) */
  int32_t format;        /**< ::mme_image_format */
  int32_t width;         /**< pixels, as stored, 1 to 32768 */
  int32_t height;        /**< pixels, as stored, 1 to 32768 */
  int32_t rotation;      /**< degrees clockwise that bring the frame upright: 0, 90, 180 or 270 */
  int32_t mirror;        /**< not 0: then swap left and right, after the rotation */
  const void* planes[3]; /**< the first byte of each plane; those the format does not have are not looked at */
  size_t strides[3];     /**< bytes from one row to the next */
  size_t sizes[3];       /**< readable bytes at planes */
  int32_t color_matrix;  /**< ::mme_color_matrix; since 0.2, like all that follows */
  int32_t color_range;   /**< ::mme_color_range */
  int32_t region_x;      /**< left edge of the part to use, in pixels of the upright frame */
  int32_t region_y;      /**< its upper edge */
  int32_t region_width;  /**< its width; all four 0: the whole frame */
  int32_t region_height; /**< its height */
  int32_t memory;        /**< ::mme_memory that the planes are in; since 0.4. MME_MEMORY_CUDA is for sessions of engine
                            "tensorrt" in a build with CUDA: the planes must then stay as they are until the run has ended, and
                            be complete, or come first by mme_session_wait_stream() */
} mme_image;

/** The type of a sample. */
typedef enum mme_audio_format {
  MME_AUDIO_INT16 = 0,  /**< full scale 32768 */
  MME_AUDIO_FLOAT32 = 1 /**< full scale 1.0; NaN, infinity and what is beyond +-1e9 are refused */
} mme_audio_format;

/** Samples in host memory: a whole clip, or a piece of a stream. Several channels are interleaved and averaged to one.
 */
typedef struct mme_audio {
  size_t struct_size;  /**< sizeof(mme_audio) */
  int32_t format;      /**< ::mme_audio_format */
  int32_t channels;    /**< 1 to 8 */
  int32_t sample_rate; /**< Hz, 1000 to 768000; resampled where the model wants another */
  const void* samples; /**< frames * channels of them */
  size_t frames;       /**< samples per channel, up to 2^30 */
} mme_audio;

/** The type of a tensor's elements. */
typedef enum mme_data_type {
  MME_FLOAT32 = 0, /**< IEEE 754 binary32 */
  MME_FLOAT16 = 1, /**< IEEE 754 binary16; since 0.2, like all that follows */
  MME_UINT8 = 2,   /**< 0 to 255 */
  MME_INT8 = 3,    /**< -128 to 127 */
  MME_INT32 = 4    /**< two's complement, 32 bits; since 0.3 */
} mme_data_type;

/** A dense tensor, row-major, without a batch dimension. */
typedef struct mme_tensor {
  size_t struct_size;   /**< sizeof(mme_tensor) */
  const char* name;     /**< of the output; "" from a preprocessor; not looked at in a tensor that is set */
  int32_t data_type;    /**< ::mme_data_type */
  const void* data;     /**< the elements */
  size_t size;          /**< bytes at data */
  size_t rank;          /**< length of shape */
  const int64_t* shape; /**< elements along each dimension; always in host memory */
  int32_t memory;       /**< ::mme_memory that data is in; since 0.4 */
} mme_tensor;

/** One input of a model or a preprocessor. Shapes carry no batch dimension; -1 marks a dimension that varies. */
typedef struct mme_input_info {
  size_t struct_size;     /**< sizeof(mme_input_info) */
  const char* name;       /**< what the session's calls take; "" for a preprocessor */
  const char* modality;   /**< "image", "audio" or "text" */
  int32_t data_type;      /**< ::mme_data_type */
  size_t rank;            /**< length of shape */
  const int64_t* shape;   /**< [channels, height, width] of an image, [rows, frames] or [samples] of audio, [tokens] of
                             text */
  const char* preprocess; /**< its parameters as JSON, for mme_preprocessor_create() */
} mme_input_info;

/** What one run found; see Tasks. All pointers are owned by the session and valid until its next run or its end. */
typedef struct mme_result {
  size_t struct_size;     /**< sizeof(mme_result) */
  const char* label;      /**< the best class, or answer; NULL where the task has none */
  int32_t class_index;    /**< its index; -1 where the task has none */
  float score;            /**< its probability, 0 to 1; 0 where the task has none */
  size_t class_count;     /**< length of scores; 0 where the task has none */
  const float* scores;    /**< probability per class index */
  const int32_t* ranking; /**< class indices, best first; equal scores by index */
  size_t output_count;    /**< for mme_session_output() */
  size_t timing_count;    /**< for mme_session_timing() */
  size_t ranking_count;   /**< length of ranking: class_count, or the session's top_k; since 0.2 */
  size_t above_threshold; /**< how many of the first in ranking reach the model's threshold: the labels that apply in a
                             multi-label model; 0 in others; since 0.3, like all that follows */
  const float* embedding; /**< embedding_size of them; NULL where the task has none */
  size_t embedding_size;  /**< length of embedding */
  const float* input_weights; /**< how much the fusion listened to each input, in the order of the model's, summing to
                                 1, 0 for an absent one; NULL where the model does not tell */
  size_t input_weight_count;  /**< length of input_weights */
} mme_result;

/** The part of an image that an answer rests on. Pointers are owned by the session and valid until its next run or its
 * end. Since 0.3. */
typedef struct mme_region {
  size_t struct_size; /**< sizeof(mme_region) */
  const char* input;  /**< the image input it is of */
  size_t rows;        /**< of the map */
  size_t columns;     /**< of the map */
  const float* map;   /**< relevance of each cell, 0 to 1, row-major, over what preprocessing took of the frame */
  float map_x;        /**< left edge of the map in pixels of the upright frame; it may lie outside where a frame was
                         padded */
  float map_y;        /**< its upper edge */
  float map_width;    /**< its width */
  float map_height;   /**< its height */
  float threshold;    /**< relevance from which a cell belongs to the box */
  float score;        /**< the largest relevance */
  float x;            /**< the box around the 8-connected component of cells at or above the threshold that contains the
                         largest, ending where relevance crosses the threshold on the line between two cells' centres; in
                         pixels of the upright frame and inside what of it was used: left edge */
  float y;            /**< its upper edge */
  float width;        /**< its width; 0 where no cell reaches the threshold */
  float height;       /**< its height; 0 likewise */
} mme_region;

/** One stage of the last run. */
typedef struct mme_timing {
  size_t struct_size; /**< sizeof(mme_timing) */
  const char* stage;  /**< "preprocess.NAME" per input, "engine", "postprocess", "total"; then "layer.NAME" per layer of
                         the engine, where the session was made to profile them */
  int64_t nanoseconds; /**< what it took; the pushes since the last run count together */
  int64_t begin;       /**< when it began, on CLOCK_MONOTONIC; 0 for an absent input; since 0.2 */
} mme_timing;

/** @} */
/** @defgroup model Model
 * @{ */

/** A checked bundle and its loaded graph, for any number of threads. */
typedef struct mme_model mme_model;

/** How to load a model; zero is the default of every field. */
typedef struct mme_model_options {
  size_t struct_size;      /**< sizeof(mme_model_options) */
  const char* onnxruntime; /**< path of libonnxruntime.so; NULL: MMEDGE_ONNXRUNTIME, then the Python package beside this
                              library, then the system's */
  int32_t threads;         /**< threads inside one run, up to 1024; 0 means 1 */
  const char* provider;    /**< "cpu", "cuda", "tensorrt" or, since 0.4, "tensorrt-rtx"; NULL: "cpu". Another is never
                              taken in its place: a graph that it cannot run whole is refused. Since 0.2, like all that
                              follows */
  int32_t device;          /**< number of the GPU */
  int32_t disable_arena;   /**< not 0: give memory back after each run, slower, smaller */
  int32_t allow_spinning;  /**< not 0: idle threads spin for a while instead of sleeping, faster by microseconds, for a
                              core's power */
  int32_t keep_denormals;  /**< not 0: compute with denormals as they are, many times slower where they appear */
  const char* affinities;  /**< processors for the threads after the caller's own, "1;2" or "1-2;3", as many as
                              threads - 1; NULL: any */
  const char* cache;       /**< an existing directory for what the engine makes of the graph, for a faster next start;
                              NULL: none. Files there are trusted as this program is: keep it private */
  const char* engine;      /**< "onnxruntime"; or "tensorrt", TensorRT itself with an engine that mmedge build compiled,
                              which takes device and what follows here of these options, and no others. NULL:
                              "onnxruntime". Since 0.4, like all that follows */
  const char* tensorrt;    /**< path of libnvinfer.so; NULL: MMEDGE_TENSORRT, then the system's newest */
  const char* engines;     /**< an engine's file, or the directory where mmedge build put it; NULL: mmedge/engines in
                              $XDG_CACHE_HOME or ~/.cache. An engine is native code, trusted as this program is. One that
                              was built for another GPU or TensorRT is refused before it is loaded */
} mme_model_options;

/** What a model is. Pointers are valid until the model is closed. */
typedef struct mme_model_info {
  size_t struct_size;   /**< sizeof(mme_model_info) */
  const char* name;     /**< of the bundle */
  const char* task;     /**< "classification", "embedding" or "vqa" */
  const char* engine;   /**< engine, version and where it was found */
  const char* manifest; /**< the whole manifest as JSON */
  size_t input_count;   /**< for mme_model_get_input() */
  size_t label_count;   /**< for mme_model_get_label() */
  const char* metric;   /**< "cosine" or "euclidean", which compares the embeddings; NULL where the task has none; since
                           0.3, like all that follows */
  size_t embedding_size;    /**< floats in an embedding; 0 where the task has none */
  const char* graph_sha256; /**< of the graph, in hexadecimal: embeddings of two models cannot be compared */
} mme_model_info;

/** Check the bundle directory at `path` without loading it: its manifest, that every graph is there, every file's hash,
 * that no path leaves it.
 * @retval MME_INVALID_ARGUMENT path is NULL
 * @retval MME_BUNDLE_INVALID it is missing, damaged, of a newer schema, or reaches outside itself */
MME_API mme_status mme_bundle_check(const char* path);

/** Open the bundle directory at `path`: check it as mme_bundle_check() does, but for the graphs of other
 * providers, find the engine, and load the graph. On #MME_OK the caller must close *model. options may be NULL.
 * @retval MME_INVALID_ARGUMENT path or model is NULL, or an option is none of its values or is of the other engine
 * @retval MME_BUNDLE_INVALID as in mme_bundle_check(), there is no graph for the provider, or manifest and graph do not
 *         fit each other
 * @retval MME_ENGINE_UNAVAILABLE no ONNX Runtime of 1.23 or newer, none with this provider, or the process runs
 * another; for TensorRT: no TensorRT of 10.3 or newer, none that this build is for, no driver, no GPU, or no engine of
 *         this graph
 * @retval MME_ENGINE_FAILED the engine refused the graph or an option, or was built for another GPU or TensorRT */
MME_API mme_status mme_model_open(const char* path, const mme_model_options* options, mme_model** model);

/** Release a model; sessions made from it stay usable.
 * @retval MME_INVALID_HANDLE it is not a live model
 * @retval MME_BUSY another call uses it; it stays open */
MME_API mme_status mme_model_close(mme_model* model);

/** Describe a model. Pointers are valid until it is closed.
 * @retval MME_INVALID_HANDLE it is not a live model
 * @retval MME_BUSY it is being closed
 * @retval MME_INVALID_ARGUMENT info is NULL */
MME_API mme_status mme_model_get_info(const mme_model* model, mme_model_info* info);

/** Describe input `index`, 0 to input_count - 1. Pointers are valid until the model is closed.
 * @retval MME_INVALID_HANDLE it is not a live model
 * @retval MME_BUSY it is being closed
 * @retval MME_INVALID_ARGUMENT there is no such input, or info is NULL */
MME_API mme_status mme_model_get_input(const mme_model* model, size_t index, mme_input_info* info);

/** The text of class `index`, 0 to label_count - 1, valid until the model is closed.
 * @retval MME_INVALID_HANDLE it is not a live model
 * @retval MME_BUSY it is being closed
 * @retval MME_INVALID_ARGUMENT there is no such class, or label is NULL */
MME_API mme_status mme_model_get_label(const mme_model* model, size_t index, const char** label);

/** @} */
/** @defgroup session Session
 * @{ */

/** A model ready to run, with all its buffers, for one call at a time. */
typedef struct mme_session mme_session;

/** How to make a session; zero is the default of every field. */
typedef struct mme_session_options {
  size_t struct_size; /**< sizeof(mme_session_options) */
  size_t top_k;       /**< classes to rank, up to the model's; 0: all. Since 0.2 */
  void* stream;       /**< engine "tensorrt": a CUstream or cudaStream_t of the device to run on, which must outlive the
                         session; NULL: one of its own, which waits for no other. Since 0.4, like all that follows */
  int32_t profile_layers; /**< engine "tensorrt", not 0: time each layer of the engine, which makes a run slower */
} mme_session_options;

/** Make a session, which the caller must destroy. options may be NULL.
 * @retval MME_INVALID_HANDLE model is not a live model
 * @retval MME_BUSY the model is being closed
 * @retval MME_INVALID_ARGUMENT session is NULL, top_k is more than the classes, or the engine lacks an option
 * @retval MME_BUNDLE_INVALID an output's size varies, which this version cannot run
 * @retval MME_ENGINE_FAILED the engine could not bind its inputs and outputs */
MME_API mme_status mme_session_create(const mme_model* model, const mme_session_options* options,
                                      mme_session** session);

/** Release a session and everything read from it.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it; it lives on */
MME_API mme_status mme_session_destroy(mme_session* session);

/** Preprocess a frame into input `input` for the next run. After a fault the input is unset. With engine "tensorrt" and
 * libmmedge_cuda.so beside the library the GPU does it: the frame's own bytes go there, once, and the run waits for it.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such input, it takes no image, a plane is NULL, or a field is none of its
 *         values
 * @retval MME_BAD_INPUT a size out of range, a stride shorter than a row, a buffer too small, or a region outside
 * @retval MME_ENGINE_FAILED CUDA failed */
MME_API mme_status mme_session_set_image(mme_session* session, const char* input, const mme_image* image);

/** Preprocess a whole clip into input `input` for the next run. Where the preprocessing has a window ("samples"), a
 * longer clip gives its loudest part and a shorter one is filled with silence. After a fault the input is unset.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such input, it takes no audio, samples is NULL, or a field is none of its
 *         values
 * @retval MME_BAD_INPUT 0 samples, too few for one frame, more than 2^30, or a sample that is not finite */
MME_API mme_status mme_session_set_audio(mme_session* session, const char* input, const mme_audio* audio);

/** Feed live samples to input `input`, whose preprocessing must have a window ("samples"): work is done for the new
 * hops only, and the next run sees the last window, silence before the first sample. All pushes must have one format,
 * channel count and sample rate until mme_session_reset_audio(). Every push, even of 0 frames, makes the input present
 * for the next run. A stream has real neighbours where a clip has padding; with "center" it lags by n_fft / 2 samples.
 * At another sample rate than the model's it lags further, by up to a block of the resampler's, which is longer the
 * larger the ratio of the two rates: open the microphone at the model's rate where the lag counts. Steps over a whole
 * clip (dynamic_range_db, normalize) see the window. Of a refused push nothing is used. Since 0.2.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such input, it takes no audio, it has no window, or the format differs from
 *         that of the pushes before
 * @retval MME_BAD_INPUT more than 2^30 samples, or one that is not finite */
MME_API mme_status mme_session_push_audio(mme_session* session, const char* input, const mme_audio* audio);

/** Forget the samples pushed to input `input`: the next push begins a new stream. Since 0.2.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such input, or it takes no audio */
MME_API mme_status mme_session_reset_audio(mme_session* session, const char* input);

/** Turn UTF-8 text of `size` bytes into the tokens of input `input` for the next run; 0 bytes are an empty text, which
 * is present. Text beyond the input's number of tokens is cut off. After a fault the input is unset. Since 0.3.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such input, it takes no text, or text is NULL with a size
 * @retval MME_BAD_INPUT the text has more than 2^28 bytes, or is not valid UTF-8; the message gives the byte */
MME_API mme_status mme_session_set_text(mme_session* session, const char* input, const char* text, size_t size);

/** Copy a ready tensor into input `input` for the next run. After a fault the input is unset.
 *
 * One in #MME_MEMORY_CUDA is not copied, and its elements are not looked at: the engine reads it where it lies, so it
 * must stay there until the run has ended, and begin at a multiple of 256 bytes. It must be complete, or come before
 * the run by its stream: the session's own, or one given to mme_session_wait_stream().
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such input, data or shape is NULL, type, shape or size do not fit, or the
 *         engine takes no such memory
 * @retval MME_BAD_INPUT an element is NaN or infinite, or a token's id below 0 */
MME_API mme_status mme_session_set_tensor(mme_session* session, const char* input, const mme_tensor* tensor);

/** Say that input `input` is missing from the next run.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such input */
MME_API mme_status mme_session_set_absent(mme_session* session, const char* input);

/** Let the next run begin after everything that `stream`, a CUstream or cudaStream_t, has been given so far, such as
 * what fills a tensor in #MME_MEMORY_CUDA; NULL is CUDA's default stream. The call itself waits for nothing. Since 0.4.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT the engine runs on no stream
 * @retval MME_ENGINE_FAILED CUDA refuses the stream */
MME_API mme_status mme_session_wait_stream(mme_session* session, void* stream);

/** Run on the inputs set since the last run, and use them up. At least one must be present.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT result is NULL, or every input is absent
 * @retval MME_NOT_READY an input was neither set nor marked absent; the others stay set
 * @retval MME_ENGINE_FAILED the engine failed; the inputs are used up
 * @retval MME_BAD_OUTPUT the model produced NaN or infinity; the inputs are used up */
MME_API mme_status mme_session_run(mme_session* session, mme_result* result);

/** Output `index` of the last run, 0 to output_count - 1, as the graph gave it. Pointers are valid until the next run.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such output, or output is NULL
 * @retval MME_NOT_READY there was no run yet, or the last one failed */
MME_API mme_status mme_session_output(mme_session* session, size_t index, mme_tensor* output);

/** The same output where the engine has it, in #MME_MEMORY_CUDA: for what goes on on the GPU. It is complete; its data
 * is valid until the session's next run or end. Since 0.4.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such output, output is NULL, or the engine computes in host memory
 * @retval MME_NOT_READY there was no run yet, or the last one failed */
MME_API mme_status mme_session_device_output(mme_session* session, size_t index, mme_tensor* output);

/** The region of the last run's answer. Pointers are valid until the next run. Since 0.3.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT the model's task gives no region, or region is NULL
 * @retval MME_NOT_READY there was no run yet, the last one failed, or its image was absent or set as a tensor */
MME_API mme_status mme_session_region(mme_session* session, mme_region* region);

/** Stage `index` of the last run, 0 to timing_count - 1. Pointers are valid until the next run.
 * @retval MME_INVALID_HANDLE it is not a live session
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT there is no such stage, or timing is NULL
 * @retval MME_NOT_READY there was no run yet, or the last one failed */
MME_API mme_status mme_session_timing(mme_session* session, size_t index, mme_timing* timing);

/** @} */
/** @defgroup preprocessor Preprocessor
 * @{ */

/** The preprocessing of one input alone, from its JSON: the same kernels a session uses, needing no bundle. */
typedef struct mme_preprocessor mme_preprocessor;

/** Make a preprocessor from an input's "preprocess" object, which the caller must destroy.
 * @retval MME_INVALID_ARGUMENT an argument is NULL, it is not JSON, or a key is missing, unknown or none of its values
 */
MME_API mme_status mme_preprocessor_create(const char* parameters, mme_preprocessor** preprocessor);

/** As mme_preprocessor_create(), for parameters that name files, such as a tokenizer: `directory` is where they lie,
 * and none may lie outside it. Since 0.3.
 * @retval MME_INVALID_ARGUMENT as in mme_preprocessor_create(), or a file is missing, outside, or not what it should be
 */
MME_API mme_status mme_preprocessor_create_in(const char* parameters, const char* directory,
                                              mme_preprocessor** preprocessor);

/** Release a preprocessor and its last tensor.
 * @retval MME_INVALID_HANDLE it is not a live preprocessor
 * @retval MME_BUSY another call uses it; it lives on */
MME_API mme_status mme_preprocessor_destroy(mme_preprocessor* preprocessor);

/** Describe what it makes. Pointers are valid until it is destroyed.
 * @retval MME_INVALID_HANDLE it is not a live preprocessor
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT info is NULL */
MME_API mme_status mme_preprocessor_get_info(mme_preprocessor* preprocessor, mme_input_info* info);

/** Turn a frame into a tensor, owned by the preprocessor and valid until its next call.
 * @retval MME_INVALID_HANDLE it is not a live preprocessor
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT it makes no images, tensor is NULL, or as in mme_session_set_image()
 * @retval MME_BAD_INPUT as in mme_session_set_image() */
MME_API mme_status mme_preprocessor_image(mme_preprocessor* preprocessor, const mme_image* image, mme_tensor* tensor);

/** Turn a whole clip into a tensor, owned by the preprocessor and valid until its next call.
 * @retval MME_INVALID_HANDLE it is not a live preprocessor
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT it makes no audio, tensor is NULL, or as in mme_session_set_audio()
 * @retval MME_BAD_INPUT as in mme_session_set_audio() */
MME_API mme_status mme_preprocessor_audio(mme_preprocessor* preprocessor, const mme_audio* audio, mme_tensor* tensor);

/** Turn UTF-8 text of `size` bytes into a tensor of tokens, owned by the preprocessor and valid until its next call.
 * Since 0.3.
 * @retval MME_INVALID_HANDLE it is not a live preprocessor
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT it makes no text, tensor is NULL, or as in mme_session_set_text()
 * @retval MME_BAD_INPUT as in mme_session_set_text() */
MME_API mme_status mme_preprocessor_text(mme_preprocessor* preprocessor, const char* text, size_t size,
                                         mme_tensor* tensor);

/** Feed samples of a stream; the tensor holds the frames they completed, float32 [rows, frames], frames possibly 0, or
 * the samples of a waveform at the model's rate, [samples]. Those of all pushes and of mme_preprocessor_end_audio()
 * together equal those of the whole clip, to the bit.
 * "samples" is not looked at. All pushes of one stream have one format, channel count and sample rate. Of a refused
 * push nothing is used. Since 0.2.
 * @retval MME_INVALID_HANDLE it is not a live preprocessor
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT it makes no audio, a step needs the whole clip, or the format differs from that of the
 *         pushes before
 * @retval MME_BAD_INPUT as in mme_session_push_audio() */
MME_API mme_status mme_preprocessor_push_audio(mme_preprocessor* preprocessor, const mme_audio* audio,
                                               mme_tensor* tensor);

/** End a stream: the tensor holds the frames that needed the clip's end. The next push begins a new stream. Since 0.2.
 * @retval MME_INVALID_HANDLE it is not a live preprocessor
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT it makes no audio, or tensor is NULL
 * @retval MME_BAD_INPUT the stream was too short for one frame */
MME_API mme_status mme_preprocessor_end_audio(mme_preprocessor* preprocessor, mme_tensor* tensor);

/** @} */
/** @defgroup search Search
 * @{ */

/** How near two vectors are. Since 0.2. */
typedef enum mme_metric {
  MME_COSINE = 0,   /**< largest first; a row or query of zeros scores 0 */
  MME_DOT = 1,      /**< largest first */
  MME_EUCLIDEAN = 2 /**< the distance itself, smallest first */
} mme_metric;

/** A gallery of vectors and how to compare with it. Since 0.2. */
typedef struct mme_search {
  size_t struct_size;  /**< sizeof(mme_search) */
  int32_t metric;      /**< ::mme_metric */
  int32_t data_type;   /**< of the gallery: #MME_FLOAT32, #MME_FLOAT16 or #MME_INT8 */
  const void* gallery; /**< the first row */
  size_t rows;         /**< vectors */
  size_t dimension;    /**< elements of a vector */
  size_t row_stride;   /**< bytes from one row to the next; 0: packed */
  float scale;         /**< int8 rows stand for scale * value; 0 means 1. Other types ignore it */
} mme_search;

/** The k rows of a gallery [rows, dimension] nearest to `query`, float32 [dimension], best first, equal scores by row.
 * Writes min(k, rows) entries to `indices` and `scores`, which hold k each, and that number to *found. Allocates
 * nothing for k up to 1024. Any thread. Since 0.2.
 * @retval MME_INVALID_ARGUMENT an argument is NULL, the metric or type is none of those, k is 0, the scale of int8 rows
 *         is not finite, or the sizes cannot be
 * @retval MME_BAD_INPUT the query holds NaN or infinity */
MME_API mme_status mme_similarity_top_k(const mme_search* search, const float* query, size_t k, int64_t* indices,
                                        float* scores, size_t* found);

/** @} */
/** @defgroup gallery Gallery
 * @{ */

/** Named embeddings: who or what was enrolled. A name may have several. It serves one call at a time. Since 0.3. */
typedef struct mme_gallery mme_gallery;

/** What a gallery holds. Since 0.3. */
typedef struct mme_gallery_info {
  size_t struct_size; /**< sizeof(mme_gallery_info) */
  size_t dimension;   /**< floats in an embedding */
  int32_t metric;     /**< ::mme_metric */
  const char* model;  /**< the mme_model_info.graph_sha256 its embeddings are of, or ""; valid until it is destroyed */
  size_t count;       /**< embeddings */
} mme_gallery_info;

/** One that was found. Since 0.3. */
typedef struct mme_match {
  size_t struct_size; /**< sizeof(mme_match) */
  const char* name;   /**< under which it was enrolled; valid until the gallery changes or is destroyed */
  float score;        /**< of the name's best embedding, as mme_similarity_top_k() gives it */
} mme_match;

/** Make an empty gallery, which the caller must destroy. `model` is the mme_model_info.graph_sha256 of the model its
 * embeddings will be of, kept with it; NULL: not said. Since 0.3.
 * @retval MME_INVALID_ARGUMENT gallery is NULL, metric is no ::mme_metric, or dimension is 0 or above 65536 */
MME_API mme_status mme_gallery_create(size_t dimension, int32_t metric, const char* model, mme_gallery** gallery);

/** Read the file `path` that mme_gallery_save() wrote into a new gallery, which the caller must destroy. Since 0.3.
 * @retval MME_INVALID_ARGUMENT path or gallery is NULL
 * @retval MME_BAD_INPUT it is missing, damaged, or of a newer version */
MME_API mme_status mme_gallery_load(const char* path, mme_gallery** gallery);

/** Write the gallery to the file `path`, in whole or not at all: an older file there stays until the new one is
 * complete. Since 0.3.
 * @retval MME_INVALID_HANDLE it is not a live gallery
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT path is NULL, or nothing can be written there */
MME_API mme_status mme_gallery_save(mme_gallery* gallery, const char* path);

/** Release a gallery.
 * @retval MME_INVALID_HANDLE it is not a live gallery
 * @retval MME_BUSY another call uses it; it lives on */
MME_API mme_status mme_gallery_destroy(mme_gallery* gallery);

/** Describe a gallery. Since 0.3.
 * @retval MME_INVALID_HANDLE it is not a live gallery
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT info is NULL */
MME_API mme_status mme_gallery_get_info(mme_gallery* gallery, mme_gallery_info* info);

/** Add a copy of `embedding`, `size` floats, under `name`, valid UTF-8 of 1 to 1024 bytes. Since 0.3.
 * @retval MME_INVALID_HANDLE it is not a live gallery
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT name or embedding is NULL, the name is none, or size is not the gallery's dimension
 * @retval MME_BAD_INPUT an element is NaN or infinite */
MME_API mme_status mme_gallery_enroll(mme_gallery* gallery, const char* name, const float* embedding, size_t size);

/** Remove every embedding of `name`. Since 0.3.
 * @retval MME_INVALID_HANDLE it is not a live gallery
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT name is NULL, or nothing was enrolled under it */
MME_API mme_status mme_gallery_remove(mme_gallery* gallery, const char* name);

/** The k names nearest to `embedding`, best first, equal scores by the order of enrolment. Writes as many entries as
 * there are names, at most k, to `matches`, which holds k with struct_size set in the first, and that number to *found.
 * Since 0.3.
 * @retval MME_INVALID_HANDLE it is not a live gallery
 * @retval MME_BUSY another call uses it
 * @retval MME_INVALID_ARGUMENT an argument is NULL, k is 0, or size is not the gallery's dimension
 * @retval MME_BAD_INPUT an element is NaN or infinite */
MME_API mme_status mme_gallery_search(mme_gallery* gallery, const float* embedding, size_t size, size_t k,
                                      mme_match* matches, size_t* found);

/** @} */
/* [/binding] */

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MMEDGE_H_ */
