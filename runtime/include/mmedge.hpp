/* mmedge in C++20: RAII, std::span and exceptions over mmedge.h, header only. Galleries are in mmedge_gallery.hpp.
 * SPDX-License-Identifier: Apache-2.0
 *
 *   mmedge::Model model("digits.mme", {.threads = 2});
 *   mmedge::Session session(model);
 *   session.set("image", mmedge::make_image(MME_IMAGE_NV12, 1280, 720, frame));
 *   session.set("audio", mmedge::make_audio(samples, 16000));
 *   const mmedge::Result result = session.run();
 *   std::cout << result.label << ' ' << result.score << '\n';
 *
 * Lifetime
 *   What is passed in is read during the call only; make_image(), make_audio() and make_tensor() lend the spans they
 * are given and own nothing. What is returned as a span or a string_view belongs to the object that returned it: each
 *   function says until when. A Session keeps what it needs of its Model, which may go first.
 *
 * Errors
 *   Every call that fails throws Error, with the status and the message of the C call; each status is explained in
 *   mmedge.h, at the function of the same name. Destructors and moves do not throw.
 *
 * Threads
 *   As in mmedge.h: a Model for all threads, a Session or a Preprocessor for one at a time. Destroy an object only when
 * no call on it is in progress: it would not be released.
 *
 * Moves
 *   Model, Session and Preprocessor can be moved and not copied. An object moved from may be destroyed or assigned to;
 *   any other call throws MME_INVALID_HANDLE.
 */
#ifndef MMEDGE_HPP_
#define MMEDGE_HPP_

#include <mmedge.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace mmedge {

// A call failed: the kind of fault, and what() was found, was expected and is to be done.
class Error : public std::runtime_error {
 public:
  Error(mme_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  mme_status status() const noexcept { return status_; }

 private:
  mme_status status_;
};

namespace detail {

inline void check(mme_status status) {
  if (status != MME_OK) throw Error(status, mme_last_error());
}

template <class Struct>
Struct sized() {
  Struct value{};
  value.struct_size = sizeof value;
  return value;
}

template <auto kRelease>
struct Release {
  template <class Handle>
  void operator()(Handle* handle) const noexcept {
    kRelease(handle);
  }
};

// The data type of an element; float16 is held as its bits, in uint16_t.
template <class Element>
inline constexpr mme_data_type kDataType = [] {
  if constexpr (std::is_same_v<Element, float>) {
    return MME_FLOAT32;
  } else if constexpr (std::is_same_v<Element, std::uint16_t>) {
    return MME_FLOAT16;
  } else if constexpr (std::is_same_v<Element, std::uint8_t>) {
    return MME_UINT8;
  } else if constexpr (std::is_same_v<Element, std::int32_t>) {
    return MME_INT32;
  } else {
    static_assert(std::is_same_v<Element, std::int8_t>, "elements are float, uint16_t, uint8_t, int8_t or int32_t");
    return MME_INT8;
  }
}();

// How a plane of a format lies in memory: bytes per group of pixels, and how many pixels that is along each axis.
struct PlaneLayout {
  std::size_t group_bytes, group_width, group_height;
};

// None for a format unknown here: the library then says what is wrong.
inline std::span<const PlaneLayout> plane_layouts(mme_image_format format) {
  static constexpr PlaneLayout bytes[] = {{1, 1, 1}, {3, 1, 1}, {4, 1, 1}, {4, 2, 1}};
  static constexpr PlaneLayout nv12[] = {{1, 1, 1}, {2, 2, 2}};
  static constexpr PlaneLayout i420[] = {{1, 1, 1}, {1, 2, 2}, {1, 2, 2}};
  switch (format) {
    case MME_IMAGE_GREY8:
      return {&bytes[0], 1};
    case MME_IMAGE_RGB8:
    case MME_IMAGE_BGR8:
      return {&bytes[1], 1};
    case MME_IMAGE_RGBA8:
    case MME_IMAGE_BGRA8:
      return {&bytes[2], 1};
    case MME_IMAGE_YUYV:
    case MME_IMAGE_UYVY:
      return {&bytes[3], 1};
    case MME_IMAGE_NV12:
      return nv12;
    case MME_IMAGE_I420:
      return i420;
  }
  return {};
}

}  // namespace detail

// ---- Inputs ---------------------------------------------------------------------------------------------------------

// One plane of a frame: its readable bytes, and the bytes from one row to the next.
struct Plane {
  std::span<const std::uint8_t> bytes;
  std::size_t stride;
};

// A frame whose planes lie apart or whose rows are padded, one entry per plane. Lends the planes. The other fields
// (rotation, mirror, colors, region) are zero and may be set on what is returned.
inline mme_image make_image(mme_image_format format, int width, int height, std::initializer_list<Plane> planes) {
  auto image = detail::sized<mme_image>();
  image.format = format;
  image.width = width;
  image.height = height;
  if (planes.size() > std::size(image.planes)) {
    throw Error(MME_INVALID_ARGUMENT, "found " + std::to_string(planes.size()) + " planes; expected at most 3");
  }
  std::size_t index = 0;
  for (const Plane& plane : planes) {
    image.planes[index] = plane.bytes.data();
    image.strides[index] = plane.stride;
    image.sizes[index] = plane.bytes.size();
    ++index;
  }
  return image;
}

// A frame in one buffer: packed rows, planes one after the other. Lends `pixels`; a buffer that is too short is refused
// where the frame is used.
inline mme_image make_image(mme_image_format format, int width, int height, std::span<const std::uint8_t> pixels) {
  mme_image image = make_image(format, width, height, {});
  const auto groups = [](int count, std::size_t group) {
    return (static_cast<std::size_t>(std::max(count, 0)) + group - 1) / group;
  };
  std::size_t index = 0;
  for (const detail::PlaneLayout& plane : detail::plane_layouts(format)) {
    image.planes[index] = pixels.data();
    image.strides[index] = groups(width, plane.group_width) * plane.group_bytes;
    image.sizes[index] = pixels.size();
    pixels = pixels.subspan(std::min(pixels.size(), groups(height, plane.group_height) * image.strides[index]));
    ++index;
  }
  return image;
}

// A clip, or a piece of a stream: interleaved channels. Lends `samples`.
inline mme_audio make_audio(std::span<const std::int16_t> samples, int sample_rate, int channels = 1) {
  return {sizeof(mme_audio), MME_AUDIO_INT16, channels,
          sample_rate,       samples.data(),  samples.size() / static_cast<std::size_t>(std::max(channels, 1))};
}
inline mme_audio make_audio(std::span<const float> samples, int sample_rate, int channels = 1) {
  return {sizeof(mme_audio), MME_AUDIO_FLOAT32, channels,
          sample_rate,       samples.data(),    samples.size() / static_cast<std::size_t>(std::max(channels, 1))};
}

// A ready tensor of float, uint8_t, int8_t, int32_t, or uint16_t for the bits of float16. Lends both.
template <std::ranges::contiguous_range Values>
mme_tensor make_tensor(const Values& values, std::span<const std::int64_t> shape) {
  using Element = std::ranges::range_value_t<Values>;
  auto tensor = detail::sized<mme_tensor>();
  tensor.data_type = detail::kDataType<Element>;
  tensor.data = std::ranges::data(values);
  tensor.size = std::ranges::size(values) * sizeof(Element);
  tensor.rank = shape.size();
  tensor.shape = shape.data();
  return tensor;
}

// ---- What is returned ----------------------------------------------------------------------------------------------

// A dense tensor, row-major; a view.
struct Tensor {
  std::string_view name;  // "" from a preprocessor
  mme_data_type type;
  std::span<const std::byte> bytes;
  std::span<const std::int64_t> shape;

  explicit Tensor(const mme_tensor& tensor)
      : name(tensor.name ? tensor.name : ""),
        type(static_cast<mme_data_type>(tensor.data_type)),
        bytes(static_cast<const std::byte*>(tensor.data), tensor.size),
        shape(tensor.shape, tensor.rank) {}

  // The elements, as what they are: float, uint8_t, int8_t, int32_t, or uint16_t for the bits of float16;
  // MME_INVALID_ARGUMENT for another type.
  template <class Element>
  std::span<const Element> values() const {
    if (detail::kDataType<Element> != type) {
      throw Error(MME_INVALID_ARGUMENT, "asked for elements of type " + std::to_string(detail::kDataType<Element>) +
                                            "; the tensor is of type " + std::to_string(type));
    }
    return {reinterpret_cast<const Element*>(bytes.data()), bytes.size() / sizeof(Element)};
  }
};

// One input of a model or a preprocessor; a view. Shapes carry no batch dimension; -1 marks a dimension that varies.
struct Input {
  std::string_view name;  // "" for a preprocessor
  std::string_view modality;
  mme_data_type type;
  std::span<const std::int64_t> shape;
  std::string_view preprocess;  // its parameters as JSON

  explicit Input(const mme_input_info& info)
      : name(info.name),
        modality(info.modality),
        type(static_cast<mme_data_type>(info.data_type)),
        shape(info.shape, info.rank),
        preprocess(info.preprocess) {}
};

// What one run found; a view. What the model's task does not have is empty, or -1 and 0.
struct Result {
  std::string_view label;                         // the best class, or answer
  std::int32_t class_index;                       // its index
  float score;                                    // its probability, 0 to 1
  std::span<const float> scores;                  // probability per class index
  std::span<const std::int32_t> ranking;          // class indices, best first; the best top_k if asked for
  std::span<const std::int32_t> above_threshold;  // of ranking: the labels that apply in a multi-label model
  std::span<const float> embedding;
  std::span<const float> input_weights;    // how much the fusion listened to each input
  std::size_t output_count, timing_count;  // for Session::output and Session::timing

  explicit Result(const mme_result& result)
      : label(result.label ? result.label : ""),
        class_index(result.class_index),
        score(result.score),
        scores(result.scores, result.class_count),
        ranking(result.ranking, result.ranking_count),
        above_threshold(result.ranking, result.above_threshold),
        embedding(result.embedding, result.embedding_size),
        input_weights(result.input_weights, result.input_weight_count),
        output_count(result.output_count),
        timing_count(result.timing_count) {}
};

// In pixels of the upright frame.
struct Box {
  float x, y, width, height;
};

// The part of an image that an answer rests on; a view.
struct Region {
  std::string_view input;      // the image input it is of
  std::size_t rows, columns;   // of the map
  std::span<const float> map;  // relevance of each cell, 0 to 1, row-major
  Box map_box;                 // where the map lies; past the frame where that was padded
  float threshold;             // relevance from which a cell belongs to the box
  float score;                 // the largest relevance
  Box box;                     // inside the frame; of no width where no cell reaches the threshold

  explicit Region(const mme_region& region)
      : input(region.input),
        rows(region.rows),
        columns(region.columns),
        map(region.map, region.rows * region.columns),
        map_box{region.map_x, region.map_y, region.map_width, region.map_height},
        threshold(region.threshold),
        score(region.score),
        box{region.x, region.y, region.width, region.height} {}
};

// One stage of a run; a view. Times are on CLOCK_MONOTONIC, the epoch of std::chrono::steady_clock.
struct Timing {
  std::string_view stage;  // "preprocess.NAME" per input, "engine", "postprocess", "total"
  std::chrono::nanoseconds begin;
  std::chrono::nanoseconds duration;
};

// ---- Model ----------------------------------------------------------------------------------------------------------

// As in mme_model_options; empty means its NULL.
struct ModelOptions {
  std::string onnxruntime{};
  int threads = 1;
  std::string provider{};
  int device = 0;
  bool arena = true;
  bool spinning = false;
  bool flush_denormals = true;
  std::string affinities{};
  std::filesystem::path cache{};
  std::string engine{};  // "tensorrt" takes device and what follows here of these
  std::string tensorrt{};
  std::filesystem::path engines{};
};

class Model {
 public:
  // mme_model_open.
  explicit Model(const std::filesystem::path& bundle, const ModelOptions& options = {}) {
    const auto or_null = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
    const std::string cache = options.cache.string(), engines = options.engines.string();
    auto given = detail::sized<mme_model_options>();
    given.onnxruntime = or_null(options.onnxruntime);
    given.threads = options.threads;
    given.provider = or_null(options.provider);
    given.engine = or_null(options.engine);
    given.tensorrt = or_null(options.tensorrt);
    given.engines = or_null(engines);
    given.device = options.device;
    given.disable_arena = !options.arena;
    given.allow_spinning = options.spinning;
    given.keep_denormals = !options.flush_denormals;
    given.affinities = or_null(options.affinities);
    given.cache = or_null(cache);
    mme_model* handle = nullptr;
    detail::check(mme_model_open(bundle.string().c_str(), &given, &handle));
    handle_.reset(handle);
  }

  // What a model says of itself is valid as long as the model.
  std::string_view name() const { return info().name; }
  std::string_view task() const { return info().task; }
  std::string_view engine() const { return info().engine; }
  std::string_view manifest() const { return info().manifest; }
  std::string_view graph_sha256() const { return info().graph_sha256; }
  // "cosine" or "euclidean", and floats in an embedding; "" and 0 where the task has none.
  std::string_view metric() const {
    const char* metric = info().metric;
    return metric ? metric : "";
  }
  std::size_t embedding_size() const { return info().embedding_size; }

  std::vector<Input> inputs() const {
    std::vector<Input> result;
    for (std::size_t i = 0, count = info().input_count; i < count; ++i) {
      auto input = detail::sized<mme_input_info>();
      detail::check(mme_model_get_input(get(), i, &input));
      result.emplace_back(input);
    }
    return result;
  }

  std::vector<std::string_view> labels() const {
    std::vector<std::string_view> result;
    for (std::size_t i = 0, count = info().label_count; i < count; ++i) {
      const char* label = nullptr;
      detail::check(mme_model_get_label(get(), i, &label));
      result.emplace_back(label);
    }
    return result;
  }

  // The handle, for the C functions; it stays this object's.
  mme_model* get() const noexcept { return handle_.get(); }

 private:
  mme_model_info info() const {
    auto value = detail::sized<mme_model_info>();
    detail::check(mme_model_get_info(get(), &value));
    return value;
  }

  std::unique_ptr<mme_model, detail::Release<mme_model_close>> handle_;
};

// ---- Session --------------------------------------------------------------------------------------------------------

class Session {
 public:
  // mme_session_create; top_k: classes to rank, 0 for all; stream and profile_layers: with engine "tensorrt".
  explicit Session(const Model& model, std::size_t top_k = 0, void* stream = nullptr, bool profile_layers = false) {
    auto options = detail::sized<mme_session_options>();
    options.top_k = top_k;
    options.stream = stream;
    options.profile_layers = profile_layers;
    mme_session* handle = nullptr;
    detail::check(mme_session_create(model.get(), &options, &handle));
    handle_.reset(handle);
  }

  // Each input is to be set, pushed to or marked absent before every run, which uses it up.
  void set(const char* input, const mme_image& image) { detail::check(mme_session_set_image(get(), input, &image)); }
  void set(const char* input, const mme_audio& audio) { detail::check(mme_session_set_audio(get(), input, &audio)); }
  void set(const char* input, const mme_tensor& tensor) {
    detail::check(mme_session_set_tensor(get(), input, &tensor));
  }
  // UTF-8.
  void set(const char* input, std::string_view text) {
    detail::check(mme_session_set_text(get(), input, text.data() ? text.data() : "", text.size()));
  }
  void set_absent(const char* input) { detail::check(mme_session_set_absent(get(), input)); }

  // mme_session_wait_stream.
  void wait_for(void* stream) { detail::check(mme_session_wait_stream(get(), stream)); }

  // Live samples: mme_session_push_audio and mme_session_reset_audio.
  void push(const char* input, const mme_audio& audio) { detail::check(mme_session_push_audio(get(), input, &audio)); }
  void reset(const char* input) { detail::check(mme_session_reset_audio(get(), input)); }

  // mme_session_run. Allocates nothing. The result is valid until the next run or the session's end.
  Result run() {
    auto result = detail::sized<mme_result>();
    detail::check(mme_session_run(get(), &result));
    return Result(result);
  }

  // Output `index` of the last run, as the graph gave it, without the batch dimension; valid until the next run.
  Tensor output(std::size_t index) {
    auto tensor = detail::sized<mme_tensor>();
    detail::check(mme_session_output(get(), index, &tensor));
    return Tensor(tensor);
  }

  // mme_session_device_output: the same where the engine has it, in the GPU's memory.
  mme_tensor device_output(std::size_t index) {
    auto tensor = detail::sized<mme_tensor>();
    detail::check(mme_session_device_output(get(), index, &tensor));
    return tensor;
  }

  // The region of the last run's answer; valid until the next run.
  Region region() {
    auto region = detail::sized<mme_region>();
    detail::check(mme_session_region(get(), &region));
    return Region(region);
  }

  // Stage `index` of the last run; valid until the next run.
  Timing timing(std::size_t index) {
    auto timing = detail::sized<mme_timing>();
    detail::check(mme_session_timing(get(), index, &timing));
    return {timing.stage, std::chrono::nanoseconds(timing.begin), std::chrono::nanoseconds(timing.nanoseconds)};
  }

  // The handle, for the C functions; it stays this object's.
  mme_session* get() const noexcept { return handle_.get(); }

 private:
  std::unique_ptr<mme_session, detail::Release<mme_session_destroy>> handle_;
};

// ---- Preprocessor ---------------------------------------------------------------------------------------------------

class Preprocessor {
 public:
  // mme_preprocessor_create; `parameters` is JSON.
  explicit Preprocessor(const std::string& parameters) {
    mme_preprocessor* handle = nullptr;
    detail::check(mme_preprocessor_create(parameters.c_str(), &handle));
    handle_.reset(handle);
  }

  // mme_preprocessor_create_in; `directory` is where the files lie that the parameters name.
  Preprocessor(const std::string& parameters, const std::filesystem::path& directory) {
    mme_preprocessor* handle = nullptr;
    detail::check(mme_preprocessor_create_in(parameters.c_str(), directory.string().c_str(), &handle));
    handle_.reset(handle);
  }

  // What it makes; valid as long as the preprocessor.
  Input info() const {
    auto value = detail::sized<mme_input_info>();
    detail::check(mme_preprocessor_get_info(get(), &value));
    return Input(value);
  }

  // The tensor of a frame, of a clip, of UTF-8 text, of a stream's next samples and of its end; each valid until the
  // next call.
  Tensor run(const mme_image& image) { return take(mme_preprocessor_image, &image); }
  Tensor run(const mme_audio& audio) { return take(mme_preprocessor_audio, &audio); }
  Tensor run(std::string_view text) { return take(mme_preprocessor_text, text.data() ? text.data() : "", text.size()); }
  Tensor push(const mme_audio& audio) { return take(mme_preprocessor_push_audio, &audio); }
  Tensor end() { return take(mme_preprocessor_end_audio); }

  // The handle, for the C functions; it stays this object's.
  mme_preprocessor* get() const noexcept { return handle_.get(); }

 private:
  template <class Call, class... Data>
  Tensor take(Call call, Data... data) {
    auto tensor = detail::sized<mme_tensor>();
    detail::check(call(get(), data..., &tensor));
    return Tensor(tensor);
  }

  std::unique_ptr<mme_preprocessor, detail::Release<mme_preprocessor_destroy>> handle_;
};

// ---- The rest -------------------------------------------------------------------------------------------------------

// mme_bundle_check.
inline void check_bundle(const std::filesystem::path& bundle) {
  detail::check(mme_bundle_check(bundle.string().c_str()));
}

// mme_similarity_top_k with k = indices.size(), which scores.size() must equal; returns how many entries were written.
// search.struct_size is set here. Any thread.
inline std::size_t similarity_top_k(mme_search search, std::span<const float> query, std::span<std::int64_t> indices,
                                    std::span<float> scores) {
  if (query.size() != search.dimension || indices.size() != scores.size()) {
    throw Error(MME_INVALID_ARGUMENT, "found a query of " + std::to_string(query.size()) + ", room for " +
                                          std::to_string(indices.size()) + " indices and " +
                                          std::to_string(scores.size()) + " scores; expected a query of " +
                                          std::to_string(search.dimension) + " and as many scores as indices");
  }
  search.struct_size = sizeof search;
  std::size_t found = 0;
  detail::check(mme_similarity_top_k(&search, query.data(), indices.size(), indices.data(), scores.data(), &found));
  return found;
}

}  // namespace mmedge

#endif  // MMEDGE_HPP_
