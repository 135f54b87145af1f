// Calls in any order on a session of a real bundle. The engine itself is not instrumented.
#include <cmath>

#include "reader.h"

namespace {

const char* input_name(Reader& reader) {
  constexpr const char* kNames[] = {"image", "audio", "image", "audio", "presence", "", nullptr};
  return kNames[reader.number<uint8_t>() % 7];
}

void set_image(Reader& reader, mme_session* session) {
  mme_image image{};
  image.struct_size = sizeof image;
  image.format = reader.number<uint8_t>() % 10;
  image.width = static_cast<int32_t>(reader.within(0, 60));
  image.height = static_cast<int32_t>(reader.within(0, 60));
  const auto pixels = reader.buffer(60 * 60 * 4);
  for (int p = 0; p < 3; ++p) {
    image.planes[p] = pixels.get();
    image.strides[p] = 60 * 4;
    image.sizes[p] = 60 * 60 * 4;
  }
  const char* name = input_name(reader);
  succeeded(mme_session_set_image(session, name, &image));
}

void give_audio(Reader& reader, mme_session* session, decltype(mme_session_set_audio)* call) {
  mme_audio audio{};
  audio.struct_size = sizeof audio;
  audio.format = reader.number<uint8_t>() % 8 == 0 ? MME_AUDIO_FLOAT32 : MME_AUDIO_INT16;
  audio.channels = 1 + reader.number<uint8_t>() % 2;
  audio.sample_rate = reader.number<uint8_t>() % 4 == 0 ? 16000 : 8000;
  audio.frames = reader.within(0, 9000);
  const auto samples = reader.buffer(audio.frames * static_cast<size_t>(audio.channels) *
                                     (audio.format == MME_AUDIO_INT16 ? sizeof(int16_t) : sizeof(float)));
  audio.samples = samples.get();
  const char* name = input_name(reader);
  succeeded(call(session, name, &audio));
}

void set_tensor(Reader& reader, mme_session* session) {
  constexpr int64_t kShapes[][3] = {{1, 32, 32}, {40, 101, 0}, {1, 32, 31}, {-1, 32, 32}, {int64_t{1} << 62, 8, 32}};
  constexpr size_t kRanks[] = {3, 2, 3, 3, 3};
  constexpr size_t kSizes[] = {4096, 16160, 3968, 4096, 4096};
  const size_t which = reader.number<uint8_t>() % 5;
  mme_tensor tensor{};
  tensor.struct_size = sizeof tensor;
  tensor.data_type = reader.number<uint8_t>() % 8 == 0 ? reader.number<int8_t>() : MME_FLOAT32;
  tensor.rank = kRanks[which];
  tensor.shape = kShapes[which];
  tensor.size = kSizes[which] - reader.number<uint8_t>() % 8 / 7;
  const char* name = input_name(reader);
  const auto values = reader.buffer(tensor.size);
  tensor.data = values.get();
  succeeded(mme_session_set_tensor(session, name, &tensor));
}

void run(mme_session* session) {
  mme_result result{};
  result.struct_size = sizeof result;
  if (!succeeded(mme_session_run(session, &result))) return;
  double sum = 0.0;
  for (size_t i = 0; i < result.class_count; ++i) sum += result.scores[i];
  require(std::abs(sum - 1.0) < 1e-5, "scores sum to 1");
  for (size_t i = 1; i < result.ranking_count; ++i) {
    require(result.scores[result.ranking[i - 1]] >= result.scores[result.ranking[i]], "the ranking is in order");
  }
}

void read_result(Reader& reader, mme_session* session) {
  const auto index = reader.number<uint8_t>();
  mme_tensor output{};
  output.struct_size = sizeof output;
  if (succeeded(mme_session_output(session, index, &output))) {
    for (size_t i = 0; i < output.size / sizeof(float); ++i) {
      require(std::isfinite(static_cast<const float*>(output.data)[i]), "outputs are finite");
    }
  }
  mme_timing timing{};
  timing.struct_size = sizeof timing;
  if (succeeded(mme_session_timing(session, index, &timing))) require(timing.nanoseconds >= 0, "time goes on");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static mme_model* const model = [] {
    mme_model* opened = nullptr;
    require(succeeded(mme_model_open(test_bundle().c_str(), nullptr, &opened)), "the bundle opens");
    return opened;
  }();
  Reader reader(data, size);
  mme_session_options options{};
  options.struct_size = sizeof options;
  options.top_k = reader.number<uint8_t>() % 12;
  mme_session* session = nullptr;
  if (!succeeded(mme_session_create(model, &options, &session))) return 0;
  for (int calls = 0; calls < 200 && !reader.empty(); ++calls) {
    switch (reader.number<uint8_t>() % 8) {
      case 0:
        set_image(reader, session);
        break;
      case 1:
        give_audio(reader, session, mme_session_set_audio);
        break;
      case 2:
        give_audio(reader, session, mme_session_push_audio);
        break;
      case 3:
        succeeded(mme_session_reset_audio(session, input_name(reader)));
        break;
      case 4:
        set_tensor(reader, session);
        break;
      case 5:
        succeeded(mme_session_set_absent(session, input_name(reader)));
        break;
      case 6:
        run(session);
        break;
      default:
        read_result(reader, session);
        break;
    }
  }
  require(succeeded(mme_session_destroy(session)), "a session is released");
  return 0;
}
