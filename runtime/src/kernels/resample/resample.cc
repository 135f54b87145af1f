#include "kernels/resample/resample.h"

#include <soxr.h>

#include "error.h"

namespace mmedge {
namespace {

void check(soxr_error_t error, int from, int to) {
  if (error != nullptr) fail(MME_INTERNAL, "audio: resampling ", from, " to ", to, " Hz failed: ", error);
}

}  // namespace

void Resampler::Delete::operator()(soxr* handle) const { soxr_delete(handle); }

Resampler::Resampler(int from, int to) : from_(from), to_(to) {
  soxr_error_t error = nullptr;
  const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
  const soxr_runtime_spec_t one_thread = soxr_runtime_spec(1);
  handle_.reset(soxr_create(from, to, 1, &error, nullptr, &quality, &one_thread));
  check(error, from, to);
}

void Resampler::push(std::span<const float> samples, std::vector<float>& output) {
  if (!samples.empty()) process(samples.data(), samples.size(), output);
}

void Resampler::end(std::vector<float>& output) { process(nullptr, 0, output); }

void Resampler::reset() { check(soxr_clear(handle_.get()), from_, to_); }

void Resampler::process(const float* samples, size_t count, std::vector<float>& output) {
  size_t room = kBlock + made_of(count);
  for (bool full = true; full; count = 0, room = kBlock) {  // a full buffer may mean that there is more
    const size_t before = output.size();
    size_t made = 0;
    output.resize(before + room);
    check(soxr_process(handle_.get(), samples, count, nullptr, output.data() + before, room, &made), from_, to_);
    output.resize(before + made);
    full = made == room;
  }
}

}  // namespace mmedge
