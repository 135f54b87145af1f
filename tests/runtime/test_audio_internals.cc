// What the C ABI does not show: a stream's last window as a session sees it, the logarithm, and memory in steady state.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <random>
#include <span>

#include "kernels/instruction_set.h"
#include "kernels/log_mel/log_mel_plan.h"
#include "preprocess/preprocess.h"
#include "tensor.h"

#ifdef MMEDGE_COUNT_ALLOCATIONS
namespace {
std::atomic<size_t> allocations{0};
}
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void* malloc(size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, size_t size) {
  ++allocations;
  return __libc_realloc(memory, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
}
#endif

namespace mmedge {
namespace {

// A preprocessing that names no files.
std::unique_ptr<Preprocess> make_alone(const nlohmann::json& parameters) {
  PreprocessFiles none([](const std::string&) { return std::vector<uint8_t>(); });
  return make_preprocess(parameters, none);
}

const nlohmann::json kLogMel = {
    {"type", "log_mel"}, {"sample_rate", 16000},  {"samples", 4000},      {"n_fft", 400},
    {"win_length", 400}, {"hop_length", 160},     {"n_mels", 40},         {"f_min", 0},
    {"f_max", 8000},     {"mel_scale", "slaney"}, {"mel_norm", "slaney"}, {"power", 2},
    {"center", true},    {"pad_mode", "reflect"}, {"drop_last", false},   {"log", "natural"},
    {"floor", 1e-10},    {"dynamic_range_db", 0}, {"normalize", "none"}};

nlohmann::json with(const nlohmann::json& changes) {
  nlohmann::json result = kLogMel;
  if (!changes.is_null()) result.update(changes);
  return result;
}

std::vector<float> noise(size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::normal_distribution<float> normal(0.0F, 0.1F);
  std::vector<float> samples(count);
  for (float& sample : samples) sample = normal(random);
  return samples;
}

mme_audio describe(std::span<const float> samples, int rate = 16000) {
  return {sizeof(mme_audio), MME_AUDIO_FLOAT32, 1, rate, samples.data(), samples.size()};
}

std::vector<float> values(const Tensor& tensor) {
  const auto found = tensor.values<float>();
  return {found.begin(), found.end()};
}

std::vector<float> window(Preprocess& preprocess) {
  Tensor tensor;
  preprocess.window(tensor);
  EXPECT_EQ(tensor.shape()[0], preprocess.shape()[0]);
  EXPECT_EQ(tensor.shape()[1], preprocess.shape()[1]);
  return values(tensor);
}

// The last frames of the samples after much silence, which begins a whole number of hops before them. What
// "center" moves the frames by, more silence at the front makes up for.
std::vector<float> last_frames(const nlohmann::json& parameters, std::span<const float> samples) {
  const auto hop = parameters["hop_length"].get<size_t>(), n_fft = parameters["n_fft"].get<size_t>();
  std::vector<float> all(hop * 500 + (parameters["center"].get<bool>() ? n_fft / 2 : 0));
  all.insert(all.end(), samples.begin(), samples.end());
  const auto windowed = make_alone(parameters);
  const auto frames = static_cast<size_t>(windowed->shape()[1]), rows = static_cast<size_t>(windowed->shape()[0]);
  nlohmann::json plain = parameters;
  plain.update({{"samples", 0}, {"center", false}});
  Tensor tensor;
  make_alone(plain)->audio(describe(all), tensor);
  const auto count = static_cast<size_t>(tensor.shape()[1]);
  std::vector<float> result;
  for (size_t row = 0; row < rows; ++row) {
    const float* end = tensor.values<float>().data() + (row + 1) * count;
    result.insert(result.end(), end - frames, end);
  }
  return result;
}

TEST(AudioWindow, HoldsTheLastFramesWithTheirRealNeighboursAndSilenceBefore) {
  const nlohmann::json cases[] = {with({}),
                                  with({{"center", false}}),
                                  with({{"n_fft", 512}, {"win_length", 512}}),
                                  with({{"n_fft", 256}, {"win_length", 256}, {"hop_length", 300}}),
                                  with({{"n_fft", 30}, {"win_length", 30}, {"hop_length", 10}, {"n_mels", 4}}),
                                  with({{"mean", -3.0}, {"std", 2.0}}),
                                  with({{"type", "mfcc"}, {"n_mfcc", 13}})};
  const auto samples = noise(20000);
  for (const auto& parameters : cases) {
    for (const size_t piece : {1U, 160U, 777U, 5000U, 20000U}) {
      if (piece == 1 && parameters != cases[0]) continue;
      const auto preprocess = make_alone(parameters);
      size_t seen = 0, count = 0;
      for (; seen < samples.size(); seen += piece, ++count) {
        const size_t size = std::min(piece, samples.size() - seen);
        preprocess->push_audio(describe(std::span(samples).subspan(seen, size)));
        if (piece == 1 && count % 997 != 0) continue;
        ASSERT_EQ(window(*preprocess), last_frames(parameters, std::span(samples).first(seen + size)))
            << parameters << " after " << seen + size << " samples in pieces of " << piece;
      }
    }
  }
}

TEST(AudioWindow, BeforeTheFirstSampleIsSilence) {
  const auto preprocess = make_alone(kLogMel);
  for (const float value : window(*preprocess)) EXPECT_NEAR(value, std::log(1e-10), 1e-4);
  preprocess->push_audio({sizeof(mme_audio), MME_AUDIO_FLOAT32, 1, 16000, nullptr, 0});
  for (const float value : window(*preprocess)) EXPECT_NEAR(value, std::log(1e-10), 1e-4);
}

TEST(AudioWindow, StepsOverAClipSeeTheWindow) {
  const auto samples = noise(9000);
  const auto plain = make_alone(with({{"log", "db"}}));
  const auto whole = make_alone(with({{"log", "db"}, {"dynamic_range_db", 12}, {"normalize", "clip"}}));
  plain->push_audio(describe(samples));
  whole->push_audio(describe(samples));
  auto expected = window(*plain);
  const float most = *std::max_element(expected.begin(), expected.end());
  double sum = 0.0, squares = 0.0;
  for (float& value : expected) {
    value = std::max(value, most - 12);
    sum += value;
  }
  const auto count = static_cast<double>(expected.size());
  for (const float value : expected) squares += std::pow(value - sum / count, 2);
  const auto found = window(*whole);
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], (expected[i] - sum / count) / std::sqrt(squares / count), 1e-4);
  }
}

TEST(AudioWindow, IsTheSameForAResampledStreamHoweverItIsCut) {
  const auto samples = noise(48000);
  const auto at_once = make_alone(kLogMel), in_pieces = make_alone(kLogMel);
  at_once->push_audio(describe(samples, 48000));
  for (size_t i = 0; i < 100; ++i) in_pieces->push_audio(describe(std::span(samples).subspan(480 * i, 480), 48000));
  EXPECT_EQ(window(*at_once), window(*in_pieces));
}

TEST(AudioWindow, IsForgottenOnReset) {
  const auto samples = noise(6000);
  for (const int rate : {16000, 48000}) {
    const auto used = make_alone(kLogMel), fresh = make_alone(kLogMel);
    used->push_audio(describe(noise(7000), rate));
    EXPECT_THROW(used->push_audio(describe(samples, 22050)), Error);
    used->reset_audio();
    EXPECT_EQ(window(*used), window(*fresh));
    used->push_audio(describe(samples, rate));
    fresh->push_audio(describe(samples, rate));
    EXPECT_EQ(window(*used), window(*fresh));
  }
}

TEST(AudioWindow, ABrokenPushChangesNothing) {
  const auto samples = noise(6000);
  auto broken = samples;
  broken[5999] = std::numeric_limits<float>::infinity();
  const auto preprocess = make_alone(kLogMel), untouched = make_alone(kLogMel);
  preprocess->push_audio(describe(samples));
  untouched->push_audio(describe(samples));
  EXPECT_THROW(preprocess->push_audio(describe(broken)), Error);
  EXPECT_EQ(window(*preprocess), window(*untouched));
  preprocess->push_audio(describe(samples));
  untouched->push_audio(describe(samples));
  EXPECT_EQ(window(*preprocess), window(*untouched));
}

TEST(AudioWindow, NeedsAFixedLength) {
  const auto preprocess = make_alone(with({{"samples", 0}}));
  EXPECT_THROW(preprocess->push_audio(describe(noise(100))), Error);
  Tensor tensor;
  EXPECT_THROW(preprocess->window(tensor), Error);
}

// ---- "waveform" ----

const nlohmann::json kWaveform = {
    {"type", "waveform"}, {"sample_rate", 16000}, {"samples", 1000}, {"normalize", "none"}};

TEST(WaveformWindow, HoldsTheLastSamplesAndSilenceBefore) {
  const auto samples = noise(8000);
  nlohmann::json normalized = kWaveform;
  normalized["normalize"] = "clip";
  const auto plain = make_alone(kWaveform), standard = make_alone(normalized);
  Tensor tensor, whole;
  plain->window(tensor);
  EXPECT_EQ(values(tensor), std::vector<float>(1000));
  std::vector<float> all(1000);
  for (const size_t size : {1U, 700U, 298U, 1U, 0U, 333U, 1000U, 1001U, 2500U, 77U}) {
    const auto piece = std::span(samples).subspan(all.size() - 1000, size);
    all.insert(all.end(), piece.begin(), piece.end());
    const std::vector<float> last(all.end() - 1000, all.end());
    plain->push_audio(describe(piece));
    plain->window(tensor);
    EXPECT_EQ(values(tensor), last) << "after a push of " << size;
    standard->push_audio(describe(piece));
    standard->window(tensor);
    standard->audio(describe(last), whole);
    EXPECT_EQ(values(tensor), values(whole)) << "after a push of " << size;
  }
  plain->reset_audio();
  plain->window(tensor);
  EXPECT_EQ(values(tensor), std::vector<float>(1000));
}

TEST(WaveformStream, OfNothingIsTooShortAfterOneOfSomethingToo) {
  const auto samples = noise(600);
  for (const int rate : {16000, 48000}) {
    const auto preprocess = make_alone(kWaveform);
    Tensor first, rest;
    EXPECT_THROW(preprocess->end_frames(rest), Error);
    preprocess->push_frames(describe(samples, rate), first);
    preprocess->end_frames(rest);
    EXPECT_EQ(first.shape()[0] + rest.shape()[0], 600 * 16000 / rate);
    EXPECT_EQ(rest.shape()[0] > 0, rate != 16000) << "what the resampler held back";
    EXPECT_THROW(preprocess->end_frames(rest), Error);
    preprocess->push_frames(describe(samples, rate), first);
    preprocess->reset_audio();
    EXPECT_THROW(preprocess->end_frames(rest), Error);
  }
}

TEST(NaturalLog, IsWithinItsBoundOverTheWholeRange) {
  choose_instruction_set();
  double worst = 0.0;
  // Every 64th float between the least floor and more than the loudest energy; around 1 all of them.
  const auto check = [&](uint32_t begin, uint32_t end, uint32_t step) {
    std::vector<float> block;
    std::vector<double> expected;
    for (uint64_t bits = begin; bits <= end; bits += step) {
      float value = 0.0F;
      const auto word = static_cast<uint32_t>(bits);
      std::memcpy(&value, &word, sizeof value);
      block.push_back(value);
      expected.push_back(std::log(static_cast<double>(value)));
      if (block.size() < 4099 && bits + step <= end) continue;
      natural_log(block);
      for (size_t i = 0; i < block.size(); ++i) {
        const double unit = std::ldexp(1.0, std::max(std::ilogb(expected[i]), -3) - 23);
        worst = std::max(worst, std::abs(block[i] - expected[i]) / unit);
      }
      block.clear();
      expected.clear();
    }
  };
  check(0x0DA24260U, 0x7E967699U, 64);  // 1e-30 to 1e38
  check(0x3F000000U, 0x40000000U, 1);   // 0.5 to 2
  EXPECT_LT(worst, 2.0);
}

#ifdef MMEDGE_COUNT_ALLOCATIONS
template <class Body>
size_t allocations_of(Body body) {
  const size_t before = allocations;
  body();
  return allocations - before;
}

TEST(AudioMemory, SteadyStateAllocatesNothing) {
  const nlohmann::json cases[] = {
      with({}), with({{"samples", 0}, {"normalize", "per_feature"}, {"dynamic_range_db", 80}}),
      with({{"n_fft", 384}, {"win_length", 384}}), with({{"type", "mfcc"}, {"n_mfcc", 13}})};
  const auto samples = noise(16000);
  const std::vector<int16_t> stereo(32000, 1000);
  for (const auto& parameters : cases) {
    Tensor tensor;
    const auto clip = make_alone(parameters);
    const auto whole = [&] {
      clip->audio(describe(samples), tensor);
      clip->audio({sizeof(mme_audio), MME_AUDIO_INT16, 2, 16000, stereo.data(), 16000}, tensor);
    };
    whole();
    EXPECT_EQ(allocations_of(whole), 0U) << parameters;
  }
  for (const int rate : {16000, 48000, 44100}) {
    Tensor tensor;
    const auto live = make_alone(kLogMel), frames = make_alone(with({{"type", "mfcc"}, {"n_mfcc", 13}}));
    const auto second = [&] {
      for (size_t i = 0; i < 100; ++i) {
        const auto piece = describe(std::span(samples).subspan(160 * i, 160), rate);
        live->push_audio(piece);
        live->window(tensor);
        frames->push_frames(piece, tensor);
      }
    };
    for (int i = 0; i < 5; ++i) second();
    EXPECT_EQ(allocations_of(second), 0U) << rate;
  }
}

TEST(AudioMemory, AResampledClipAllocatesOnlyInsideLibsoxr) {
  const auto samples = noise(48000);
  Tensor tensor;
  const auto preprocess = make_alone(kLogMel);
  const auto whole = [&] { preprocess->audio(describe(samples, 48000), tensor); };
  whole();
  EXPECT_LE(allocations_of(whole), 40U);  // what resample.h says of soxr_clear, and the growth of its queues
}
#endif

}  // namespace
}  // namespace mmedge
