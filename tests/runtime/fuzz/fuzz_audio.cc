// Clips and streams: int16 and float32, any channels, rates and cuts, in buffers exactly as large as they claim. The
// frames of a stream must be those of the clip, to the bit.
#include <algorithm>
#include <cmath>
#include <vector>

#include "reader.h"

namespace {

struct Preprocessor {
  explicit Preprocessor(const std::string& parameters) {
    require(succeeded(mme_preprocessor_create(parameters.c_str(), &handle)), "these parameters are good");
  }
  Preprocessor(const Preprocessor&) = delete;
  Preprocessor& operator=(const Preprocessor&) = delete;
  ~Preprocessor() { require(succeeded(mme_preprocessor_destroy(handle)), "a preprocessor is released"); }
  mme_preprocessor* handle = nullptr;
};

// The columns of a [rows, frames] tensor, one after the other.
void append_frames(const mme_tensor& tensor, std::vector<float>& frames) {
  require(tensor.rank == 2, "a spectrogram has two dimensions");
  const auto rows = static_cast<size_t>(tensor.shape[0]), count = static_cast<size_t>(tensor.shape[1]);
  require(tensor.size == rows * count * sizeof(float), "the size is that of the shape");
  const auto* values = static_cast<const float*>(tensor.data);
  for (size_t frame = 0; frame < count; ++frame) {
    for (size_t row = 0; row < rows; ++row) {
      frames.push_back(values[row * count + frame]);
      require(std::isfinite(frames.back()), "a spectrogram is finite");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader reader(data, size);
  const auto flags = reader.number<uint8_t>(), shape = reader.number<uint8_t>();
  constexpr int kTransforms[] = {400, 512, 256, 64, 2, 30, 398, 1024};
  constexpr int kRates[] = {8000, 16000, 11025, 22050, 44100, 48000, 1000, 192000};
  const int n_fft = kTransforms[shape & 7];
  const int rate = kRates[shape >> 3 & 7];
  const int hop = static_cast<int>(reader.within(1, 600));
  const int window = static_cast<int>(reader.within(2, static_cast<size_t>(n_fft)));
  const std::string padding = std::string(R"(, "pad_mode": ")") + (flags & 2 ? "reflect" : "constant") +
                              R"(", "drop_last": )" + (flags & 4 ? "true" : "false");
  const std::string parameters =
      R"({"type": "log_mel", "mel_scale": "htk", "mel_norm": "slaney", "power": 2.0, "log": "natural", "floor": 1e-10,
          "dynamic_range_db": 0.0, "normalize": "none", "f_min": 0.0, "samples": 0, "sample_rate": )" +
      std::to_string(rate) + R"(, "f_max": )" + std::to_string(rate / 2) + R"(, "n_fft": )" + std::to_string(n_fft) +
      R"(, "win_length": )" + std::to_string(window) + R"(, "hop_length": )" + std::to_string(hop) + R"(, "n_mels": )" +
      std::to_string(1 + shape % 64) + R"(, "center": )" + (flags & 1 ? "true" + padding : "false") + "}";
  const Preprocessor preprocessor(parameters);

  mme_audio audio{};
  audio.struct_size = sizeof audio;
  audio.format = flags & 8 ? reader.number<int8_t>() : static_cast<int32_t>(reader.within(0, 1));
  audio.channels = flags & 16 ? reader.number<int32_t>() : static_cast<int32_t>(reader.within(1, 8));
  audio.sample_rate = flags & 32 ? reader.number<int32_t>() : flags & 64 ? kRates[reader.within(0, 7)] : rate;
  const size_t cut = reader.within(1, 4000);
  const size_t sample = audio.format == MME_AUDIO_INT16 ? sizeof(int16_t) : sizeof(float);
  const size_t channels = audio.channels >= 1 && audio.channels <= 8 ? static_cast<size_t>(audio.channels) : 1;
  // At most 4,000 spectra, twice: of a prime size one takes 100 times as long with sanitizers as without.
  const auto from = static_cast<size_t>(std::max(audio.sample_rate, 1000));
  const size_t most = 4000 * static_cast<size_t>(hop) * from / static_cast<size_t>(rate);
  audio.frames = reader.within(0, std::min<size_t>(12000, most));
  const size_t count = audio.frames * channels;
  std::unique_ptr<uint8_t[]> samples = reader.buffer(count * sample);
  if (audio.format == MME_AUDIO_FLOAT32 && (flags & 128) == 0) {  // seldom would random bits be audio
    for (size_t i = 0; i < count; ++i) {
      int16_t whole = 0;
      std::memcpy(&whole, samples.get() + i * sizeof(float), sizeof whole);
      const float value = static_cast<float>(whole) / 32768.0F;
      std::memcpy(samples.get() + i * sizeof(float), &value, sizeof value);
    }
  }
  audio.samples = samples.get();

  mme_tensor tensor{};
  tensor.struct_size = sizeof tensor;
  std::vector<float> of_clip, of_stream;
  const mme_status clip = mme_preprocessor_audio(preprocessor.handle, &audio, &tensor);
  if (succeeded(clip)) append_frames(tensor, of_clip);

  // The same samples in pieces, each a buffer of its own.
  mme_audio piece = audio;
  bool streamed = true;
  for (size_t begin = 0, length = 0; streamed && begin < audio.frames; begin += length) {
    length = cut < audio.frames - begin ? cut : audio.frames - begin;
    std::unique_ptr<uint8_t[]> part(new uint8_t[length * channels * sample]);
    std::memcpy(part.get(), samples.get() + begin * channels * sample, length * channels * sample);
    piece.samples = part.get();
    piece.frames = length;
    streamed = succeeded(mme_preprocessor_push_audio(preprocessor.handle, &piece, &tensor));
    if (streamed) append_frames(tensor, of_stream);
  }
  if (streamed && audio.frames > 0) {
    const bool ended = succeeded(mme_preprocessor_end_audio(preprocessor.handle, &tensor));
    if (ended) append_frames(tensor, of_stream);
    require(ended == (clip == MME_OK), "a stream is long enough where the clip is");
    require(of_stream == of_clip, "a stream's frames are the clip's");
  }
  return 0;
}
