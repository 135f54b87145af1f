// What log_mel.h computes, and the numbers that every processor computes it with.
#pragma once

#include <cstddef>
#include <vector>

namespace mmedge {

enum class MelScale { kHtk, kSlaney };
enum class MelNorm { kNone, kSlaney };
enum class Padding { kReflect, kConstant };
enum class LogBase { kNatural, kLog10, kDecibel };
enum class Normalize { kNone, kClip, kPerFeature };

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
  Normalize normalize;
  double mean = 0.0, std = 1.0;
  int n_mfcc = 0;  // 0: log-mel
  double lifter = 0.0;

  // Rows of the output.
  size_t rows() const { return static_cast<size_t>(n_mfcc > 0 ? n_mfcc : n_mels); }
  // Samples of padding at each end.
  size_t padded() const { return center ? static_cast<size_t>(n_fft) / 2 : 0; }
  // The fewest samples that give a frame.
  size_t least_samples() const;
  // Frames that `samples` give; 0 if there are too few.
  size_t frame_count(size_t samples) const;
  // What a natural logarithm is multiplied by.
  double log_scale() const;
  // dynamic_range_db in units of the logarithm.
  double range() const;
};

// A triangle over the bins first, first + 1, ... Its energy is the sum of four partial sums, over the bins first + i,
// first + 4 + i, ..., as (0 + 1) + (2 + 3).
struct MelBand {
  size_t first, width;
  size_t weights;  // where they begin
};

struct MelBands {
  std::vector<MelBand> bands;
  std::vector<float> weights;
};

MelBands make_mel_bands(const LogMelSpec& spec);
// [n_fft]
std::vector<float> make_window(const LogMelSpec& spec);
// [n_mfcc, n_mels]
std::vector<float> make_cepstrum(const LogMelSpec& spec);

}  // namespace mmedge
