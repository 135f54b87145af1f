#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/log_mel/log_mel_cuda.h"

namespace mmedge {
namespace {

int append(std::vector<float>& numbers, const std::vector<float>& table) {
  numbers.resize((numbers.size() + 1) / 2 * 2);  // roots are read two numbers at a time
  const auto at = static_cast<int>(numbers.size());
  numbers.insert(numbers.end(), table.begin(), table.end());
  return at;
}

int columns_of(int n_fft) {
  switch (n_fft) {
    case 256:
    case 320:
    case 400:
    case 512:
      return 16;
    case 1024:
    case 2048:
      return 32;
    default:
      return 0;
  }
}

// [rows, columns] of exp(2 pi i row column / n_fft).
std::vector<float> make_roots(int rows, int columns, int n_fft) {
  std::vector<float> roots;
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const double phase = 2.0 * std::numbers::pi * row * column / n_fft;
      roots.push_back(static_cast<float>(std::cos(phase)));
      roots.push_back(static_cast<float>(std::sin(phase)));
    }
  }
  return roots;
}

// The radices of a transform of `length`: fours, then primes.
void factorize(int length, CudaLogMelKernel& kernel) {
  const auto divide_by = [&](int radix) {
    for (; length % radix == 0; length /= radix) kernel.radix[kernel.radix_count++] = radix;
  };
  divide_by(4);
  for (int radix = 2; length > 1; ++radix) divide_by(radix);
}

}  // namespace

CudaLogMelPlan make_cuda_log_mel_plan(const LogMelSpec& spec) {
  CudaLogMelPlan plan;
  plan.spec = spec;
  CudaLogMelKernel& kernel = plan.kernel;
  kernel.n_fft = spec.n_fft;
  kernel.hop = spec.hop_length;
  kernel.n_mels = spec.n_mels;
  kernel.n_mfcc = spec.n_mfcc;
  kernel.power = spec.power;
  kernel.padding = static_cast<int>(spec.padded());
  kernel.mirrors = spec.padding == Padding::kReflect;
  kernel.finds_range = spec.dynamic_range_db > 0.0;
  kernel.normalize = spec.normalize;
  kernel.floor = static_cast<float>(spec.floor);
  kernel.log_scale = static_cast<float>(spec.log_scale());
  kernel.range = static_cast<float>(spec.range());
  kernel.finishes = kernel.finds_range || spec.normalize != Normalize::kNone;
  kernel.scales = spec.mean != 0.0 || spec.std != 1.0;
  kernel.mean = static_cast<float>(spec.mean);
  kernel.deviation = static_cast<float>(spec.std);
  kernel.features_are_cepstrum = spec.n_mfcc > 0 && !kernel.finds_range;
  if (spec.n_fft > kCudaLogMelMostFft) return plan;  // no launcher takes it

  kernel.window = append(plan.numbers, make_window(spec));
  kernel.columns = columns_of(spec.n_fft);
  if (kernel.columns > 0) {
    kernel.roots = append(plan.numbers, make_roots(spec.n_fft / kernel.columns / 2 + 1, kernel.columns, spec.n_fft));
  } else {
    kernel.roots = append(plan.numbers, make_roots(2, spec.n_fft, spec.n_fft)) + 2 * spec.n_fft;  // row 1
    factorize(spec.n_fft / 2, kernel);
  }
  const MelBands mel = make_mel_bands(spec);
  kernel.weights = append(plan.numbers, mel.weights);
  for (const MelBand& band : mel.bands) {
    for (const size_t number : {band.first, band.width, band.weights}) {
      plan.bands.push_back(static_cast<int32_t>(number));
    }
  }
  kernel.cepstrum = append(plan.numbers, make_cepstrum(spec));
  return plan;
}

}  // namespace mmedge
