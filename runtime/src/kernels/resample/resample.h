// resample: one sample rate to another, by libsoxr's HQ recipe (20 bits, linear phase, a passband of 91 % of Nyquist).
//
// Steps: push() gives what the filter has finished of all samples so far, end() what is left after the last one. All
// pushes and end() together make round(samples * to / from) samples, the same to the bit however they are cut: libsoxr
// computes in blocks of its own, which begin with the stream.
//
// | input   | output  |
// |---------|---------|
// | float32 | float32 |
//
// Roofline: 48 to 16 kHz takes libsoxr some 130 us per second of audio: two FFTs per block and a product. Copies do not
// count beside it.
//
// Memory: push() and end() allocate nothing in this library once their output has had room for as much. libsoxr 0.1.3
// grows its queues during the first few blocks of a stream and then allocates nothing more, so a long stream is steady.
// reset() is not: soxr_clear frees and makes anew everything of the resampler but its handle (17 to 20 blocks, 20 to 40
// us at the usual rates, of which most is designing the filter again), and after a flush there is no other way to begin
// again. A whole clip that is resampled costs that once.
#pragma once

#include <memory>
#include <span>
#include <vector>

struct soxr;

namespace mmedge {

class Resampler {
 public:
  // Rates in Hz.
  Resampler(int from, int to);

  int from() const { return from_; }
  // Room for what push() of a whole clip and end() write on the way.
  size_t most(size_t count) const { return made_of(count) + 2 * kBlock; }
  // Each appends to `output`.
  void push(std::span<const float> samples, std::vector<float>& output);
  void end(std::vector<float>& output);
  // Begins a new stream.
  void reset();

 private:
  struct Delete {
    void operator()(soxr* handle) const;
  };

  static constexpr size_t kBlock = 4096;  // more than libsoxr makes at once, at the usual rates

  size_t made_of(size_t count) const { return static_cast<size_t>(static_cast<double>(count) * to_ / from_); }
  void process(const float* samples, size_t count, std::vector<float>& output);

  int from_, to_;
  std::unique_ptr<soxr, Delete> handle_;
};

}  // namespace mmedge
