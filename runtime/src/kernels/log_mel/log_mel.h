// log_mel: samples to log-mel features of a whole clip.
//
// Steps, in this order:
//   1. pad        centred: n_fft / 2 samples each side, mirrored without the edge sample ("reflect") or zero
//   ("constant")
//   2. frame      n_fft samples every hop_length; a periodic Hann window of win_length in the middle of each
//   3. spectrum   real FFT, |X|^power with power 1 or 2
//   4. mel        triangles over the FFT bins between f_min and f_max. Scale "htk": 2595 log10(1 + f / 700) (HTK Book,
//                 5.4); "slaney": linear to 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998). Norm "slaney"
//                 divides each triangle by half its width in Hz, "none" leaves its peak at 1.
//   5. log        of max(value, floor): natural, base 10, or 10 log10 ("db")
//   6. range      (dynamic_range_db > 0) values are raised to the clip's maximum - range
//   7. normalize  ("clip") subtract the clip's mean, divide by its standard deviation, at least 1e-5
// Steps 6 and 7 need the whole clip; all others can stream.
//
// Frames: centred 1 + n / hop, or one less with drop_last (Whisper's convention); otherwise 1 + (n - n_fft) / hop.
// Silence stays finite: log(floor). Samples must be finite.
//
// | input   | output                              |
// |---------|-------------------------------------|
// | float32 | float32 [n_mels, frames], row-major |
#pragma once

#include <complex>
#include <cstddef>
#include <kissfft/kissfft.hh>
#include <memory>
#include <span>
#include <vector>

namespace mmedge {

enum class MelScale { kHtk, kSlaney };
enum class MelNorm { kNone, kSlaney };
enum class Padding { kReflect, kConstant };
enum class LogBase { kNatural, kLog10, kDecibel };

struct LogMelSpec {
  int sample_rate, n_fft, win_length, hop_length, n_mels;
  double f_min, f_max;
  MelScale mel_scale;
  MelNorm mel_norm;
  int power;  // 1 or 2
  bool center;
  Padding padding;
  bool drop_last;
  LogBase log;
  double floor;
  double dynamic_range_db;  // 0: off
  bool normalize;
};

class LogMel {
 public:
  explicit LogMel(const LogMelSpec& spec);

  // Frames that `samples` give; 0 if there are too few.
  size_t frame_count(size_t samples) const;
  // The fewest samples that give a frame.
  size_t least_samples() const;
  // Writes n_mels * frame_count(samples.size()) floats, which must not be none.
  void run(std::span<const float> samples, float* output);

  const LogMelSpec& spec() const { return spec_; }

 private:
  struct Band {
    size_t first;
    std::vector<float> weights;
  };

  void make_bands();
  void pad(std::span<const float> samples);

  LogMelSpec spec_;
  std::vector<float> window_;
  std::vector<Band> bands_;
  std::unique_ptr<kissfft<float>> fft_;
  std::vector<float> padded_, frame_, spectrum_;
  std::vector<std::complex<float>> bins_;
};

}  // namespace mmedge
