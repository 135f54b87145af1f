// A kiosk in C++20, the twin of kiosk.c: one frame and one clip in, a label and its scores out.
//
//   kiosk_cpp digits.mme frame.ppm clip.wav     ("-" in place of a file: that modality is absent)
//
// Decoding files is not the library's work: a camera and a microphone give frames and samples. So this reads only the
// two plainest formats, binary PGM/PPM and 16-bit PCM WAV.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mmedge.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Frame {
  mme_image_format format;
  int width, height;
  std::vector<std::uint8_t> pixels;
};

struct Clip {
  int sample_rate, channels;
  std::vector<std::int16_t> samples;
};

Frame read_pnm(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int width = 0, height = 0, most = 0;
  file >> kind >> width >> height >> most;
  file.get();
  if (!file || (kind != "P5" && kind != "P6") || most != 255 || width < 1 || height < 1 || width > 8192 ||
      height > 8192) {
    throw std::runtime_error("the frame is not a readable PGM or PPM file");
  }
  const bool grey = kind == "P5";
  Frame frame{grey ? MME_IMAGE_GREY8 : MME_IMAGE_RGB8, width, height, {}};
  frame.pixels.resize(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * (grey ? 1 : 3));
  file.read(reinterpret_cast<char*>(frame.pixels.data()), static_cast<std::streamsize>(frame.pixels.size()));
  if (!file) throw std::runtime_error("the frame is cut short");
  return frame;
}

// 16-bit WAV with the plain 44-byte header. Little-endian machines only, as every Jetson is.
Clip read_wav(const char* path) {
  std::ifstream file(path, std::ios::binary);
  char header[44];
  file.read(header, sizeof header);
  if (!file || std::memcmp(header, "RIFF", 4) != 0 || std::memcmp(header + 36, "data", 4) != 0 || header[20] != 1 ||
      header[34] != 16) {
    throw std::runtime_error("the clip is not a readable 16-bit WAV file");
  }
  std::uint32_t rate = 0, size = 0;
  std::memcpy(&rate, header + 24, sizeof rate);
  std::memcpy(&size, header + 40, sizeof size);
  Clip clip{static_cast<int>(rate), header[22], {}};
  clip.samples.resize(std::min<std::size_t>(size, std::size_t{1} << 28) / sizeof(std::int16_t));
  file.read(reinterpret_cast<char*>(clip.samples.data()),
            static_cast<std::streamsize>(clip.samples.size() * sizeof(std::int16_t)));
  clip.samples.resize(static_cast<std::size_t>(file.gcount()) / sizeof(std::int16_t));
  return clip;
}

void run(const char* bundle, const char* frame_file, const char* clip_file) {
  const mmedge::Model model(bundle);
  mmedge::Session session(model);
  if (std::strcmp(frame_file, "-") == 0) {
    session.set_absent("image");
  } else {
    const Frame frame = read_pnm(frame_file);
    session.set("image", mmedge::make_image(frame.format, frame.width, frame.height, frame.pixels));
  }
  if (std::strcmp(clip_file, "-") == 0) {
    session.set_absent("audio");
  } else {
    const Clip clip = read_wav(clip_file);
    session.set("audio", mmedge::make_audio(clip.samples, clip.sample_rate, clip.channels));
  }

  const mmedge::Result result = session.run();
  std::printf("%s\n", std::string(result.label).c_str());
  const std::vector<std::string_view> labels = model.labels();
  for (const std::int32_t class_index : result.ranking) {
    const auto index = static_cast<std::size_t>(class_index);
    std::printf("%-12s %.6f\n", std::string(labels[index]).c_str(), static_cast<double>(result.scores[index]));
  }
  for (std::size_t stage = 0; stage < result.timing_count; ++stage) {
    const mmedge::Timing timing = session.timing(stage);
    std::fprintf(stderr, "%-20s %8.1f us\n", std::string(timing.stage).c_str(),
                 static_cast<double>(timing.duration.count()) / 1000.0);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("kiosk: usage: kiosk_cpp BUNDLE FRAME.ppm|- CLIP.wav|-\n", stderr);
    return 1;
  }
  try {
    run(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kiosk: %s\n", error.what());
    return 1;
  }
  return 0;
}
