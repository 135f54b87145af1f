// log_mel: frame counts, silence, short and broken clips, streams. librosa judges the values in
// test_audio_preprocessing.py, where streams are cut anywhere, too.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "support.h"

namespace {

struct Variant {
  bool center = true, drop_last = false;
  const char* pad_mode = "reflect";
  const char* log = "natural";
  int samples = 0;
};

std::string parameters(const Variant& variant) {
  const auto flag = [](bool value) { return std::string(value ? "true" : "false"); };
  return R"({"type": "log_mel", "sample_rate": 16000, "n_fft": 400, "win_length": 400, "hop_length": 160,
             "n_mels": 80, "f_min": 0, "f_max": 8000, "mel_scale": "slaney", "mel_norm": "slaney", "power": 2,
             "floor": 1e-10, "dynamic_range_db": 0, "normalize": "none", "center": )" +
         flag(variant.center) + R"(, "drop_last": )" + flag(variant.drop_last) + R"(, "pad_mode": ")" +
         variant.pad_mode + R"(", "log": ")" + variant.log + R"(", "samples": )" + std::to_string(variant.samples) +
         "}";
}

std::vector<float> tone(size_t count, double hz = 440.0) {
  std::vector<float> samples(count);
  for (size_t i = 0; i < count; ++i) {
    samples[i] = 0.5F * static_cast<float>(std::sin(2 * std::numbers::pi * hz * static_cast<double>(i) / 16000));
  }
  return samples;
}

TEST(Audio, FrameCountsFollowTheFramingOptions) {
  const Variant centred, plain{.center = false}, dropped{.drop_last = true};
  const struct {
    Variant variant;
    size_t samples;
    int64_t frames;
  } cases[] = {{centred, 224800, 1406}, {plain, 224800, 1403}, {dropped, 224800, 1405},
               {centred, 16000, 101},   {plain, 16000, 98},    {dropped, 16000, 100}};
  for (const auto& [variant, samples, frames] : cases) {
    TestPreprocessor preprocessor(parameters(variant));
    const auto clip = tone(samples);
    preprocessor.run(make_audio(clip, 16000));
    EXPECT_EQ(preprocessor.shape, (std::vector<int64_t>{80, frames}));
  }
}

TEST(Audio, ShortClipsGiveAnErrorOrFiniteFeatures) {
  for (const char* padding : {"reflect", "constant"}) {
    for (const size_t count : {0U, 1U, 199U, 200U, 201U}) {
      TestPreprocessor preprocessor(parameters({.pad_mode = padding}));
      const auto clip = tone(count);
      const auto values = preprocessor.run(make_audio(clip, 16000));
      const bool enough = count > 200 || (count > 0 && std::string(padding) == "constant");
      ASSERT_EQ(preprocessor.status, enough ? MME_OK : MME_BAD_INPUT) << padding << count;
      EXPECT_EQ(values.size(), enough ? 80 * (1 + count / 160) : 0);
      for (const float value : values) EXPECT_TRUE(std::isfinite(value));
    }
  }
}

TEST(Audio, AClipThatIsShortOnlyAfterResamplingIsRefused) {
  TestPreprocessor preprocessor(parameters({}));
  const auto clip = tone(400);
  preprocessor.run(make_audio(clip, 48000));
  EXPECT_EQ(preprocessor.status, MME_BAD_INPUT);
  EXPECT_NE(std::string(mme_last_error()).find("expected at least 201"), std::string::npos) << mme_last_error();
}

TEST(Audio, SilenceIsTheLogarithmOfTheFloor) {
  const struct {
    const char* log;
    float floor;
  } cases[] = {{"natural", -23.0259F}, {"log10", -10.0F}, {"db", -100.0F}};
  for (const auto& [log, floor] : cases) {
    TestPreprocessor preprocessor(parameters({.log = log}));
    const std::vector<float> silence(16000);
    for (const float value : preprocessor.run(make_audio(silence, 16000))) EXPECT_NEAR(value, floor, 1e-4);
  }
}

TEST(Audio, BandsThatHoldNoBinOfTheTransformAreTheLogarithmOfTheFloor) {
  std::string text = parameters({});
  for (const auto& [key, value] :
       {std::pair{"\"n_fft\": 400", "\"n_fft\": 2"}, std::pair{"\"win_length\": 400", "\"win_length\": 2"},
        std::pair{"\"f_min\": 0", "\"f_min\": 100"}, std::pair{"\"f_max\": 8000", "\"f_max\": 7000"}}) {
    text.replace(text.find(key), std::string(key).size(), value);
  }
  TestPreprocessor preprocessor(text);
  const auto clip = tone(16000);
  const auto values = preprocessor.run(make_audio(clip, 16000));
  ASSERT_EQ(values.size(), 80U * 101U) << mme_last_error();
  for (const float value : values) ASSERT_NEAR(value, std::log(1e-10), 1e-4);
}

TEST(Audio, ANormalisedSilentClipIsFinite) {
  std::string text = parameters({});
  text.replace(text.find("\"normalize\": \"none\""), 19, "\"normalize\": \"clip\"");
  TestPreprocessor preprocessor(text);
  for (const float level : {0.0F, 0.25F}) {
    const std::vector<float> constant(16000, level);
    for (const float value : preprocessor.run(make_audio(constant, 16000))) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(Audio, ASampleThatIsNotFiniteIsNamed) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30F}) {
    TestPreprocessor preprocessor(parameters({}));
    auto clip = tone(16000);
    clip[1234] = bad;
    preprocessor.run(make_audio(clip, 16000));
    EXPECT_EQ(preprocessor.status, MME_BAD_INPUT);
    EXPECT_NE(std::string(mme_last_error()).find("sample 1234"), std::string::npos) << mme_last_error();
  }
}

TEST(Audio, ChannelsAreAveraged) {
  TestPreprocessor preprocessor(parameters({}));
  const auto left = tone(4800);
  std::vector<float> opposite, equal;
  for (const float sample : left) {
    opposite.insert(opposite.end(), {sample, -sample});
    equal.insert(equal.end(), {sample, sample});
  }
  EXPECT_EQ(preprocessor.run(make_audio(equal, 16000, 2)), preprocessor.run(make_audio(left, 16000)));
  for (const float value : preprocessor.run(make_audio(opposite, 16000, 2))) EXPECT_NEAR(value, -23.0259F, 1e-4);
}

TEST(Audio, Int16IsFloatTimesFullScale) {
  TestPreprocessor preprocessor(parameters({}));
  std::vector<int16_t> integers;
  std::vector<float> floats;
  for (const float sample : tone(4000)) {
    integers.push_back(static_cast<int16_t>(std::lround(sample * 20000)));
    floats.push_back(static_cast<float>(integers.back()) / 32768.0F);
  }
  mme_audio audio = make_audio(floats, 16000);
  const auto expected = preprocessor.run(audio);
  audio.format = MME_AUDIO_INT16;
  audio.samples = integers.data();
  EXPECT_EQ(preprocessor.run(audio), expected);
}

TEST(Audio, OfALongClipTheLoudestWindowIsTaken) {
  TestPreprocessor preprocessor(parameters({.samples = 4000}));
  const auto word = tone(4000);
  std::vector<float> clip(16000);
  std::copy(word.begin(), word.end(), clip.begin() + 7000);
  EXPECT_EQ(preprocessor.run(make_audio(clip, 16000)), preprocessor.run(make_audio(word, 16000)));
}

TEST(Audio, AShortClipIsPaddedWithSilence) {
  TestPreprocessor preprocessor(parameters({.samples = 4000}));
  auto clip = tone(1000);
  const auto values = preprocessor.run(make_audio(clip, 16000));
  clip.resize(4000);
  EXPECT_EQ(values, preprocessor.run(make_audio(clip, 16000)));
}

TEST(Audio, WrongDescriptionsAreRefused) {
  TestPreprocessor preprocessor(parameters({}));
  const auto clip = tone(16000);
  const auto status_of = [&](auto change) {
    mme_audio audio = make_audio(clip, 16000);
    change(audio);
    preprocessor.run(audio);
    return preprocessor.status;
  };
  EXPECT_EQ(status_of([](mme_audio& a) { a.sample_rate = 0; }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([](mme_audio& a) { a.channels = 0; }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([](mme_audio& a) { a.frames = SIZE_MAX; }), MME_BAD_INPUT);
  EXPECT_EQ(status_of([](mme_audio& a) { a.samples = nullptr; }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([](mme_audio& a) { a.format = 9; }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([](mme_audio&) {}), MME_OK);
}

// The tensor of a call on a stream: its shape and, row by row, its values.
struct Frames {
  mme_status status = MME_OK;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

Frames take(mme_status status, const mme_tensor& tensor) {
  if (status != MME_OK) return {status, {}, {}};
  const auto* values = static_cast<const float*>(tensor.data);
  return {status, {tensor.shape, tensor.shape + tensor.rank}, {values, values + tensor.size / sizeof(float)}};
}

Frames push(TestPreprocessor& preprocessor, const mme_audio& audio) {
  mme_tensor tensor{};
  tensor.struct_size = sizeof tensor;
  const mme_status status = mme_preprocessor_push_audio(preprocessor.handle, &audio, &tensor);
  return take(status, tensor);
}

Frames end(TestPreprocessor& preprocessor) {
  mme_tensor tensor{};
  tensor.struct_size = sizeof tensor;
  const mme_status status = mme_preprocessor_end_audio(preprocessor.handle, &tensor);
  return take(status, tensor);
}

TEST(AudioStream, FramesComeAsSoonAsTheirSamplesAreThere) {
  const struct {
    Variant variant;
    std::vector<int64_t> frames;  // after 0, 199, 200, 201, 359, 360, 400 and 480 samples
    int64_t at_end;
  } cases[] = {{{}, {0, 0, 0, 1, 1, 2, 2, 2}, 2},
               {{.pad_mode = "constant"}, {0, 0, 1, 1, 1, 2, 2, 2}, 2},
               {{.drop_last = true}, {0, 0, 0, 1, 1, 2, 2, 2}, 1},
               {{.center = false}, {0, 0, 0, 0, 0, 0, 1, 1}, 0}};
  const size_t sizes[] = {0, 199, 200, 201, 359, 360, 400, 480};
  const auto clip = tone(480);
  for (const auto& [variant, frames, at_end] : cases) {
    TestPreprocessor preprocessor(parameters(variant));
    size_t before = 0;
    int64_t total = 0;
    for (size_t i = 0; i < std::size(sizes); ++i) {
      mme_audio audio = make_audio(clip, 16000);
      audio.samples = clip.data() + before;
      audio.frames = sizes[i] - before;
      before = sizes[i];
      const Frames found = push(preprocessor, audio);
      ASSERT_EQ(found.status, MME_OK) << mme_last_error();
      EXPECT_EQ(found.shape[0], 80);
      total += found.shape[1];
      EXPECT_EQ(total, frames[i]) << i;
    }
    EXPECT_EQ(end(preprocessor).shape, (std::vector<int64_t>{80, at_end}));
  }
}

TEST(AudioStream, APushWithASampleThatIsNotFiniteIsNotUsed) {
  for (const int rate : {16000, 48000}) {
    TestPreprocessor preprocessor(parameters({})), untouched(parameters({}));
    const auto clip = tone(4000);
    auto broken = clip;
    broken[3999] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> values;
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(push(preprocessor, make_audio(broken, rate)).status, MME_BAD_INPUT);
      EXPECT_NE(std::string(mme_last_error()).find("sample 3999"), std::string::npos) << mme_last_error();
      EXPECT_EQ(push(preprocessor, make_audio(clip, rate)).values, push(untouched, make_audio(clip, rate)).values);
    }
    EXPECT_EQ(end(preprocessor).values, end(untouched).values);
  }
}

TEST(AudioStream, KeepsOneFormatUntilItEnds) {
  TestPreprocessor preprocessor(parameters({}));
  const auto clip = tone(1600);
  ASSERT_EQ(push(preprocessor, make_audio(clip, 16000)).status, MME_OK);
  EXPECT_EQ(push(preprocessor, make_audio(clip, 48000)).status, MME_INVALID_ARGUMENT);
  EXPECT_EQ(push(preprocessor, make_audio(clip, 16000, 2)).status, MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("2 channel(s)"), std::string::npos) << mme_last_error();
  ASSERT_EQ(push(preprocessor, make_audio(clip, 16000)).status, MME_OK);
  ASSERT_EQ(end(preprocessor).status, MME_OK);
  EXPECT_EQ(push(preprocessor, make_audio(clip, 48000, 2)).status, MME_OK);
}

TEST(AudioStream, TooShortAStreamIsRefusedAndTheNextBeginsAnew) {
  TestPreprocessor preprocessor(parameters({}));
  EXPECT_EQ(end(preprocessor).status, MME_BAD_INPUT);
  const auto clip = tone(4000);
  mme_audio audio = make_audio(clip, 16000);
  audio.frames = 200;
  ASSERT_EQ(push(preprocessor, audio).status, MME_OK);
  EXPECT_EQ(end(preprocessor).status, MME_BAD_INPUT);
  EXPECT_NE(std::string(mme_last_error()).find("too short: 200 samples at 16000 Hz; expected at least 201"),
            std::string::npos)
      << mme_last_error();
  audio.frames = clip.size();
  const Frames first = push(preprocessor, audio);
  TestPreprocessor fresh(parameters({}));
  EXPECT_EQ(first.values, push(fresh, audio).values);
}

TEST(AudioStream, AStepOverTheWholeClipIsRefusedByName) {
  const std::string good = parameters({});
  const struct {
    std::string from, to, key;
  } cases[] = {{"\"dynamic_range_db\": 0", "\"dynamic_range_db\": 80", "\"dynamic_range_db\""},
               {"\"normalize\": \"none\"", "\"normalize\": \"clip\"", "\"normalize\""},
               {"\"normalize\": \"none\"", "\"normalize\": \"per_feature\"", "\"normalize\""}};
  for (const auto& [from, to, key] : cases) {
    std::string text = good;
    TestPreprocessor preprocessor(text.replace(text.find(from), from.size(), to));
    EXPECT_EQ(push(preprocessor, make_audio(tone(1600), 16000)).status, MME_INVALID_ARGUMENT);
    EXPECT_NE(std::string(mme_last_error()).find(key), std::string::npos) << mme_last_error();
  }
}

TEST(AudioStream, AFixedWindowDoesNotMatterFrameByFrame) {
  TestPreprocessor fixed(parameters({.samples = 4000})), any(parameters({}));
  const auto clip = tone(16000);
  EXPECT_EQ(push(fixed, make_audio(clip, 16000)).values, push(any, make_audio(clip, 16000)).values);
  EXPECT_EQ(end(fixed).values, end(any).values);
}

TEST(AudioStream, AWholeClipInBetweenDoesNotDisturbIt) {
  for (const int rate : {16000, 44100}) {
    TestPreprocessor disturbed(parameters({})), alone(parameters({}));
    const auto clip = tone(5000), other = tone(9000, 200.0);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(push(disturbed, make_audio(clip, rate)).values, push(alone, make_audio(clip, rate)).values);
      disturbed.run(make_audio(other, rate));
    }
    EXPECT_EQ(end(disturbed).values, end(alone).values);
  }
}

TEST(Parameters, AMistakeIsNamed) {
  const auto message = [](const std::string& text) {
    mme_preprocessor* preprocessor = nullptr;
    EXPECT_EQ(mme_preprocessor_create(text.c_str(), &preprocessor), MME_INVALID_ARGUMENT) << text;
    EXPECT_EQ(preprocessor, nullptr);
    return std::string(mme_last_error());
  };
  const std::string good = parameters({});
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_NE(message("{").find("JSON"), std::string::npos);
  EXPECT_NE(message("[]").find("type"), std::string::npos);
  EXPECT_NE(message(R"({"type": "video"})").find("video"), std::string::npos);
  EXPECT_NE(message(replaced("\"n_fft\": 400", "\"n_ftt\": 400")).find("\"n_fft\" is missing"), std::string::npos);
  EXPECT_NE(message(replaced("\"n_fft\": 400", "\"n_fft\": 400, \"hop\": 1")).find("unknown key \"hop\""),
            std::string::npos);
  EXPECT_NE(message(replaced("\"n_fft\": 400", "\"n_fft\": 1e99")).find("\"n_fft\""), std::string::npos);
  EXPECT_NE(message(replaced("\"n_fft\": 400", "\"n_fft\": 401")).find("even"), std::string::npos);
  EXPECT_NE(message(replaced("\"power\": 2", "\"power\": 1.5")).find("\"power\""), std::string::npos);
  EXPECT_NE(message(replaced("\"f_max\": 8000", "\"f_max\": 1e-310")).find("at least f_min + 1"), std::string::npos);
  EXPECT_NE(message(replaced("\"f_max\": 8000", "\"f_max\": 9000")).find("\"f_max\""), std::string::npos);
  EXPECT_NE(message(replaced("\"log\": \"natural\"", "\"log\": \"ln\"")).find("\"natural\" or \"log10\""),
            std::string::npos);
}

}  // namespace
