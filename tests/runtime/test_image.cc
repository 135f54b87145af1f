// image_to_tensor: against values worked out by hand, and against itself where two descriptions mean one picture.
// Pillow and exact arithmetic judge it in tests/runtime/test_image_preprocessing.py.
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <random>

#include "support.h"

namespace {
std::size_t allocations = 0;  // through operator new, the library's included
}

void* operator new(std::size_t size) {
  ++allocations;
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

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
      const auto found = tall.run(image), expected = tall.run(make_image(MME_IMAGE_RGB8, w, h, upright));
      ASSERT_EQ(found.size(), expected.size());
      // The passes change places, and each rounds its weights in the order of the stored pixels.
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_NEAR(found[i] * 255, expected[i] * 255, 0.05) << rotation << mirror;
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

// A frame whose planes each end where readable memory ends.
class FrameAtPageEnd {
 public:
  FrameAtPageEnd(mme_image_format format, int width, int height) {
    image.struct_size = sizeof image;
    image.format = format;
    image.width = width;
    image.height = height;
    const size_t w = static_cast<size_t>(width), h = static_cast<size_t>(height), half = (w + 1) / 2;
    const bool planar = format == MME_IMAGE_NV12 || format == MME_IMAGE_I420;
    const bool four = format == MME_IMAGE_RGBA8 || format == MME_IMAGE_BGRA8;
    const bool three = format == MME_IMAGE_RGB8 || format == MME_IMAGE_BGR8;
    const bool one = format == MME_IMAGE_GREY8 || planar;
    add(0, one ? w : three ? 3 * w : four ? 4 * w : 4 * half, h);
    if (format == MME_IMAGE_NV12) add(1, 2 * half, (h + 1) / 2);
    if (format == MME_IMAGE_I420) add(1, half, (h + 1) / 2);
    if (format == MME_IMAGE_I420) add(2, half, (h + 1) / 2);
  }
  FrameAtPageEnd(const FrameAtPageEnd&) = delete;
  FrameAtPageEnd& operator=(const FrameAtPageEnd&) = delete;
  ~FrameAtPageEnd() {
    for (const auto& [memory, size] : mapped_) munmap(memory, size);
  }

  mme_image image{};

 private:
  void add(int plane, size_t row, size_t rows) {
    const size_t page = 4096, stride = row + 5;
    const size_t bytes = stride * (rows - 1) + row, readable = (bytes + page - 1) / page * page;
    void* memory = mmap(nullptr, readable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    ASSERT_EQ(mprotect(static_cast<std::byte*>(memory) + readable, page, PROT_NONE), 0);
    mapped_.emplace_back(memory, readable + page);
    image.planes[plane] = static_cast<std::byte*>(memory) + readable - bytes;
    image.strides[plane] = stride;
    image.sizes[plane] = bytes;
  }

  std::vector<std::pair<void*, size_t>> mapped_;
};

TEST(Image, NothingIsReadPastTheLastPixelOfAPlane) {
  for (const bool antialias : {false, true}) {
    TestPreprocessor preprocessor(parameters(24, 40, "rgb", antialias));
    for (int format = MME_IMAGE_RGB8; format <= MME_IMAGE_UYVY; ++format) {
      for (const int width : {1, 2, 31, 64, 97, 640}) {
        for (const int height : {1, 2, 33, 51}) {
          for (const int rotation : {0, 90}) {
            FrameAtPageEnd frame(static_cast<mme_image_format>(format), width, height);
            frame.image.rotation = rotation;
            EXPECT_EQ(preprocessor.run(frame.image).size(), 3U * 24 * 40) << mme_last_error();
          }
        }
      }
    }
  }
}

TEST(Image, TheSameGeometryAgainAllocatesNothing) {
  TestPreprocessor preprocessor(parameters(24, 40, "rgb", true));
  FrameAtPageEnd frame(MME_IMAGE_NV12, 97, 51), other(MME_IMAGE_NV12, 97, 51);
  mme_tensor tensor{sizeof(mme_tensor), nullptr, MME_FLOAT32, nullptr, 0, 0, nullptr};
  ASSERT_EQ(mme_preprocessor_image(preprocessor.handle, &frame.image, &tensor), MME_OK);
  const void* values = tensor.data;
  const size_t before = allocations;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(mme_preprocessor_image(preprocessor.handle, i % 2 ? &frame.image : &other.image, &tensor), MME_OK);
  }
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(tensor.data, values);
  frame.image.rotation = 90;
  ASSERT_EQ(mme_preprocessor_image(preprocessor.handle, &frame.image, &tensor), MME_OK);
  EXPECT_GT(allocations, before) << "the counter sees the library's allocations";
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
