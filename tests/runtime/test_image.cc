// image_to_tensor: against values worked out by hand, and against itself where two descriptions mean one picture.
// Pillow judges it in tests/runtime/test_preprocessing.py.
#include <algorithm>
#include <random>

#include "support.h"

namespace {

std::string parameters(int width, int height, const char* channels, bool antialias) {
  const std::string three = std::string(channels) == "rgb" ? "[0, 0, 0]" : "[0]";
  const std::string ones = std::string(channels) == "rgb" ? "[1, 1, 1]" : "[1]";
  return R"({"type": "image", "fit": "stretch", "interpolation": "bilinear", "width": )" + std::to_string(width) +
         R"(, "height": )" + std::to_string(height) + R"(, "channels": ")" + channels + R"(", "antialias": )" +
         (antialias ? "true" : "false") + R"(, "mean": )" + three + R"(, "std": )" + ones + "}";
}

std::vector<uint8_t> noise(size_t count) {
  std::mt19937 random(7);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

TEST(Image, DownscalingFollowsTheAntialiasFlag) {
  const std::vector<uint8_t> row{0, 0, 0, 255, 0, 0, 0, 0};
  const mme_image image = make_image(MME_IMAGE_GREY8, 8, 1, row);
  const std::vector<float> smooth = TestPreprocessor(parameters(4, 1, "grey", true)).run(image);
  const std::vector<float> plain = TestPreprocessor(parameters(4, 1, "grey", false)).run(image);
  const float expected_smooth[] = {0, 96, 32, 0}, expected_plain[] = {0, 128, 0, 0};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(smooth.at(i) * 255, expected_smooth[i], 1);
    EXPECT_NEAR(plain.at(i) * 255, expected_plain[i], 1);
  }
}

TEST(Image, ASameSizedImageKeepsItsValuesAndIsNormalised) {
  const std::vector<uint8_t> pixels{10, 20, 30, 40, 50, 60};
  TestPreprocessor preprocessor(
      R"({"type": "image", "fit": "stretch", "interpolation": "bilinear", "width": 2, "height": 1,
          "channels": "rgb", "antialias": true, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2]})");
  const std::vector<float> values = preprocessor.run(make_image(MME_IMAGE_RGB8, 2, 1, pixels));
  EXPECT_EQ(preprocessor.shape, (std::vector<int64_t>{3, 1, 2}));
  const float expected[] = {(10 / 255.F - .1F) / .5F,  (40 / 255.F - .1F) / .5F, (20 / 255.F - .2F) / .25F,
                            (50 / 255.F - .2F) / .25F, (30 / 255.F - .3F) / 2,   (60 / 255.F - .3F) / 2};
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(values.at(i), expected[i], 1e-6);
}

TEST(Image, AnyStrideGivesTheSameTensor) {
  const int width = 1280, height = 9;
  const auto packed = noise(static_cast<size_t>(width) * height * 3);
  TestPreprocessor preprocessor(parameters(32, 4, "rgb", true));
  const auto reference = preprocessor.run(make_image(MME_IMAGE_RGB8, width, height, packed));
  ASSERT_FALSE(reference.empty());
  for (const size_t stride : {1344U * 3U, 1536U * 3U, 1281U * 3U + 1U}) {
    // The last row ends with its last pixel: reading on would be out of bounds.
    std::vector<uint8_t> padded(stride * (height - 1) + width * 3, 0xAA);
    for (size_t y = 0; y < height; ++y) {
      std::copy_n(packed.begin() + static_cast<long>(y * width * 3), width * 3,
                  padded.begin() + static_cast<long>(y * stride));
    }
    EXPECT_EQ(preprocessor.run(make_image(MME_IMAGE_RGB8, width, height, padded, stride)), reference) << stride;
  }
}

TEST(Image, BgrIsRgbWithItsBytesSwapped) {
  auto rgb = noise(15 * 11 * 3);
  TestPreprocessor preprocessor(parameters(8, 8, "rgb", true));
  const auto expected = preprocessor.run(make_image(MME_IMAGE_RGB8, 15, 11, rgb));
  for (size_t i = 0; i < rgb.size(); i += 3) std::swap(rgb[i], rgb[i + 2]);
  EXPECT_EQ(preprocessor.run(make_image(MME_IMAGE_BGR8, 15, 11, rgb)), expected);
}

// A frame that is stored turned, and the same frame turned by hand.
TEST(Image, RotationAndMirrorEqualMovingThePixels) {
  const int width = 6, height = 3;
  const auto stored = noise(width * height * 3);
  TestPreprocessor tall(parameters(5, 7, "rgb", true));
  const auto source = [&](int x, int y) { return stored.begin() + (y * width + x) * 3; };
  for (const int rotation : {0, 90, 180, 270}) {
    for (const int mirror : {0, 1}) {
      const bool turned = rotation % 180 == 90;
      const int w = turned ? height : width, h = turned ? width : height;
      std::vector<uint8_t> upright;
      for (int y = 0; y < h; ++y) {
        for (int x = 0; x < w; ++x) {
          const int u = mirror ? w - 1 - x : x;
          const auto pixel = rotation == 0     ? source(u, y)
                             : rotation == 90  ? source(y, height - 1 - u)  // the stored bottom left comes first
                             : rotation == 180 ? source(width - 1 - u, height - 1 - y)
                                               : source(width - 1 - y, u);
          upright.insert(upright.end(), pixel, pixel + 3);
        }
      }
      mme_image image = make_image(MME_IMAGE_RGB8, width, height, stored);
      image.rotation = rotation;
      image.mirror = mirror;
      EXPECT_EQ(tall.run(image), tall.run(make_image(MME_IMAGE_RGB8, w, h, upright))) << rotation << mirror;
    }
  }
}

TEST(Image, OddAndTinySizesStayInBounds) {
  for (const int width : {1, 2, 3, 5, 63, 641}) {
    for (const int height : {1, 2, 7, 33}) {
      const auto pixels = noise(static_cast<size_t>(width) * static_cast<size_t>(height) * 3);
      TestPreprocessor preprocessor(parameters(32, 32, "grey", true));
      EXPECT_EQ(preprocessor.run(make_image(MME_IMAGE_RGB8, width, height, pixels)).size(), 32U * 32U);
    }
  }
}

TEST(Image, AShortBufferIsRefusedWithBothSizes) {
  const std::vector<uint8_t> pixels(99);
  TestPreprocessor preprocessor(parameters(4, 4, "rgb", true));
  preprocessor.run(make_image(MME_IMAGE_RGB8, 10, 10, pixels));
  EXPECT_EQ(preprocessor.status, MME_BAD_INPUT);
  EXPECT_NE(std::string(mme_last_error()).find("holds 99 bytes"), std::string::npos) << mme_last_error();
  EXPECT_NE(std::string(mme_last_error()).find("needs 300"), std::string::npos) << mme_last_error();
}

TEST(Image, WrongDescriptionsAreRefused) {
  const std::vector<uint8_t> pixels(300);
  TestPreprocessor preprocessor(parameters(4, 4, "rgb", true));
  const auto status_of = [&](auto change) {
    mme_image image = make_image(MME_IMAGE_RGB8, 10, 10, pixels);
    change(image);
    preprocessor.run(image);
    return preprocessor.status;
  };
  EXPECT_EQ(status_of([](mme_image& i) { i.width = 0; }), MME_BAD_INPUT);
  EXPECT_EQ(status_of([](mme_image& i) { i.height = -1; }), MME_BAD_INPUT);
  EXPECT_EQ(status_of([](mme_image& i) { i.strides[0] = 29; }), MME_BAD_INPUT);
  EXPECT_EQ(status_of([](mme_image& i) { i.strides[0] = SIZE_MAX; }), MME_BAD_INPUT);
  EXPECT_EQ(status_of([](mme_image& i) { i.rotation = 45; }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([](mme_image& i) { i.planes[0] = nullptr; }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([](mme_image& i) { i.format = 77; }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([](mme_image& i) { i.struct_size = 8; }), MME_INVALID_ARGUMENT);
  EXPECT_EQ(status_of([](mme_image&) {}), MME_OK);
}

}  // namespace
