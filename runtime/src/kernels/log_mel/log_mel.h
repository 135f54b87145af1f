// log_mel: samples to log-mel features or to mel-frequency cepstral coefficients (MFCC), of a whole clip or of a
// stream.
//
// Steps, in this order:
//   1. pad        centred: n_fft / 2 samples each side, mirrored without the edge sample ("reflect") or zero
//                 ("constant")
//   2. frame      n_fft samples every hop_length; a periodic Hann window of win_length in the middle of each
//   3. spectrum   real FFT, |X|^power with power 1 or 2
//   4. mel        triangles over the FFT bins between f_min and f_max. Scale "htk": 2595 log10(1 + f / 700) (HTK Book,
//                 5.4); "slaney": linear to 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998). Norm "slaney"
//                 divides each triangle by half its width in Hz, "none" leaves its peak at 1.
//   5. log        of max(value, floor): natural, base 10, or decibels ("db"), 20 / power log10
//   6. range      (dynamic_range_db > 0) values are raised to the clip's maximum - range, 20 dB to a factor of 10 with
//                 power 1 and 10 dB with power 2
//   7. cepstrum   (n_mfcc > 0) orthonormal DCT-II over the bands, its first n_mfcc coefficients; coefficient n is then
//                 multiplied by 1 + lifter / 2 sin(pi (n + 1) / lifter) if lifter > 0 (HTK Book, 5.6, counting from 1)
//   8. normalize  "clip": subtract the clip's mean, divide by its standard deviation; "per_feature": each row's own.
//                 Deviations are of the population and at least 1e-5. Or "mean" and "std": numbers fixed beforehand.
// Steps 6 and "clip" and "per_feature" of 8 need the whole clip; all else can stream.
//
// Frames: centred 1 + n / hop, or one less with drop_last (Whisper's convention); otherwise 1 + (n - n_fft) / hop.
// Silence stays finite: log(floor). Samples must be finite and within +-1e9.
//
// | input   | output                                                    |
// |---------|-----------------------------------------------------------|
// | float32 | float32 [n_mels, frames] or [n_mfcc, frames], row-major   |
//
// Rounding: a frame's values depend on its own samples only, to the bit: not on how many frames are computed in one
// call, nor on whether they come as a clip or as a stream. Two shapes of the same arithmetic see to that, operation by
// operation: a stream's frame is spread over the SIMD lanes, a clip's frames have a lane each. Other
// instruction sets round otherwise. Steps 1 to 4 round relative to a frame's largest bin: with norm "none", a band's
// magnitude (with power 2 the root of its power) is off by at most 1e-6 of that bin's. White noise, whose bins are all
// near the largest, is within 1e-4 of librosa in float64 after step 5; what lies 60 dB below a pure tone is good to
// 1e-3 of its magnitude. The logarithm itself is within 2 units in the last place, a unit being 1.5e-8 where its value
// is under 1/4.
//
// FFT: n_fft 256, 320, 400, 512 and 1024 are split into 16 columns of R = n_fft / 16: a real transform of R down the
// columns, twiddle factors, a complex one of 16 along the rows (Bailey, "FFTs in external or hierarchical memory",
// 1990). Other even sizes go through KissFFT, frame by frame.
//
// Roofline, n_fft 400, 64 bands, per frame of a clip: 640 bytes of new input and 256 of output, all in cache; some 520
// vector operations of 16 lanes (400 of the FFT with its window, 25 to 45 of the triangles, 75 of the logarithm): 260
// cycles at two per cycle. A stream's frame adds transposes and lanes without a row (13 rows in 16 lanes).
//
// Memory: scratch is made with the object; clip() and run() allocate only for a clip longer than all before.
#pragma once

#include <complex>
#include <cstddef>
#include <kissfft/kissfft.hh>
#include <memory>
#include <span>
#include <vector>

#include "kernels/log_mel/log_mel_plan.h"
#include "kernels/log_mel/log_mel_spec.h"

namespace mmedge {

class LogMel {
 public:
  explicit LogMel(const LogMelSpec& spec);

  const LogMelSpec& spec() const { return spec_; }
  // Rows of the output.
  size_t rows() const { return spec_.rows(); }
  // Samples of padding at each end.
  size_t padding() const { return spec_.padded(); }
  // Frames that `samples` give; 0 if there are too few.
  size_t frame_count(size_t samples) const { return spec_.frame_count(samples); }
  // The fewest samples that give a frame.
  size_t least_samples() const { return spec_.least_samples(); }
  // The key that asks for a step over the whole clip, or nullptr.
  const char* whole_clip_step() const;

  // A whole clip: write its samples to clip(count), then run() writes rows() * frame_count(count) floats, which must
  // not be none.
  std::span<float> clip(size_t count);
  void run(float* output);

  // A stream, steps 2 to 5: `count` frames that begin at samples, samples + hop, ..., each n_mels floats.
  void columns(const float* samples, size_t count, float* output);
  // Steps 6 to 8 over [n_mels, frames], which is overwritten; for log-mel, output may be the same.
  void finish(float* log_mel, size_t frames, float* output);

 private:
  void make_quads();
  void make_fft();

  LogMelSpec spec_;
  LogMelPlan plan_;
  std::vector<float> cepstrum_;  // [n_mfcc, n_mels]
  std::unique_ptr<kissfft<float>> fft_;
  std::vector<float> frame_;
  std::vector<std::complex<float>> packed_bins_;
  std::vector<float> padded_, log_mel_, column_;
  float* clip_ = nullptr;
  size_t clip_size_ = 0;
};

}  // namespace mmedge
