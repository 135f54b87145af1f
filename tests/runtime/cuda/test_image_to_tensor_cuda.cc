// The CUDA kernel, emulated or on a GPU, judged by the CPU kernel.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "device_memory.h"
#include "kernels/image_to_tensor/image_to_tensor.h"
#include "kernels/image_to_tensor/image_to_tensor_cuda.h"
#include "orders.h"

namespace {

using mmedge::ElementType;
using mmedge::ImageFit;
using mmedge::ImageGeometry;
using mmedge::ImageToTensorSpec;

// Frames of noise, each plane exactly as long as it must be.
class Cameras {
 public:
  // A row is `slack` bytes longer than its pixels, and begins `shift` bytes after a multiple of 16.
  Cameras(const ImageGeometry& geometry, size_t count, size_t slack, size_t shift, unsigned seed) {
    const size_t width = static_cast<size_t>(geometry.width), height = static_cast<size_t>(geometry.height);
    const size_t half_width = (width + 1) / 2, half_height = (height + 1) / 2;
    std::mt19937 random(seed);
    for (size_t i = 0; i < count; ++i) {
      frames_.push_back({geometry, {}, {}, {}, {}, false});
      device_.push_back({});
      int planes = 0;
      const auto add = [&](size_t row, size_t rows) {
        const size_t stride = row + slack;
        std::vector<uint8_t> bytes(shift + (rows - 1) * stride + row);
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
        device_memory_.emplace_back(bytes);
        device_.back().planes[planes] = device_memory_.back().data() + shift;
        device_.back().strides[planes] = static_cast<int64_t>(stride);
        memory_.push_back(std::move(bytes));
        frames_.back().planes[planes] = memory_.back().data() + shift;
        frames_.back().strides[planes++] = static_cast<ptrdiff_t>(stride);
      };
      switch (geometry.format) {
        case MME_IMAGE_GREY8:
          add(width, height);
          break;
        case MME_IMAGE_RGB8:
        case MME_IMAGE_BGR8:
          add(3 * width, height);
          break;
        case MME_IMAGE_RGBA8:
        case MME_IMAGE_BGRA8:
          add(4 * width, height);
          break;
        case MME_IMAGE_NV12:
          add(width, height);
          add(2 * half_width, half_height);
          break;
        case MME_IMAGE_I420:
          add(width, height);
          add(half_width, half_height);
          add(half_width, half_height);
          break;
        case MME_IMAGE_YUYV:
        case MME_IMAGE_UYVY:
          add(4 * half_width, height);
          break;
      }
    }
  }

  const std::vector<mmedge::ImageFrame>& host() const { return frames_; }

  const std::vector<mmedge::CudaImageFrame>& device() const { return device_; }

 private:
  std::vector<std::vector<uint8_t>> memory_;
  std::vector<mmedge::ImageFrame> frames_;
  std::vector<DeviceVector<uint8_t>> device_memory_;
  std::vector<mmedge::CudaImageFrame> device_;
};

ImageGeometry make_geometry(mme_image_format format, int width, int height, int rotation = 0, bool mirror = false) {
  const bool turned = rotation % 180 == 90;
  return {format,
          width,
          height,
          rotation,
          mirror,
          0,
          0,
          turned ? height : width,
          turned ? width : height,
          MME_COLOR_BT601,
          MME_COLOR_LIMITED};
}

ImageToTensorSpec make_spec(int width, int height, ElementType type = ElementType::kFloat32) {
  ImageToTensorSpec spec;
  spec.width = width;
  spec.height = height;
  spec.antialias = true;
  spec.type = type;
  const bool levels = type == ElementType::kUint8;
  spec.mean = levels ? std::vector<float>{0, 0, 0} : std::vector<float>{0.485F, 0.456F, 0.406F};
  spec.stddev = levels ? std::vector<float>(3, 1.0F / 255) : std::vector<float>{0.229F, 0.224F, 0.225F};
  spec.scale = 0.02;
  spec.zero_point = type == ElementType::kInt8 ? -3 : 0;
  return spec;
}

// A CPU without fused multiply-adds rounds otherwise: then a float may be off in its last places, a byte by one.
void check(ElementType type, const std::vector<std::byte>& found, const std::vector<std::byte>& expected) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") == 0) {
    for (size_t i = 0; i + mmedge::element_size(type) <= found.size(); i += mmedge::element_size(type)) {
      if (type == ElementType::kFloat32) {
        float a = 0.0F, b = 0.0F;
        std::memcpy(&a, &found[i], sizeof a);
        std::memcpy(&b, &expected[i], sizeof b);
        ASSERT_NEAR(a, b, 1e-5F) << "byte " << i;
      } else {
        ASSERT_LE(std::abs(std::to_integer<int>(found[i]) - std::to_integer<int>(expected[i])), 1) << "byte " << i;
      }
    }
    return;
  }
#endif
  for (size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found[i], expected[i]) << "byte " << i;
}

// With tiles of each width, whichever the device would take.
void compare(const ImageToTensorSpec& spec, const Cameras& cameras) {
  const auto plan = mmedge::make_cuda_image_plan(spec, cameras.host().front().geometry);
  const size_t bytes = static_cast<size_t>(spec.width) * static_cast<size_t>(spec.height) *
                       static_cast<size_t>(spec.channel_count()) * mmedge::element_size(spec.type);
  mmedge::ImageToTensor kernel(spec);
  std::vector<std::vector<std::byte>> expected;
  for (const auto& frame : cameras.host()) kernel.run(frame, expected.emplace_back(bytes).data());
  const DeviceVector tables(plan.tables);
  for (const auto& tiling : plan.tilings) {
    SCOPED_TRACE(testing::Message() << tiling.groups << " groups a tile");
    auto narrowed = plan;
    narrowed.tilings = {tiling};
    const DeviceVector<std::byte> tensor(bytes * cameras.host().size());
    const auto launch = [&](cudaStream_t stream) {
      return mmedge::image_to_tensor(narrowed, tables.data(), cameras.device(), tensor.data(), stream);
    };
    ASSERT_EQ(on_own_stream(launch), cudaSuccess);
    const std::vector<std::byte> found = tensor.read();
    for (size_t i = 0; i < expected.size(); ++i) {
      const auto begin = found.begin() + static_cast<ptrdiff_t>(i * bytes);
      check(spec.type, {begin, begin + static_cast<ptrdiff_t>(bytes)}, expected[i]);
    }
  }
}

constexpr mme_image_format kFormats[] = {MME_IMAGE_RGB8,  MME_IMAGE_BGR8,  MME_IMAGE_GREY8,
                                         MME_IMAGE_RGBA8, MME_IMAGE_BGRA8, MME_IMAGE_NV12,
                                         MME_IMAGE_I420,  MME_IMAGE_YUYV,  MME_IMAGE_UYVY};

TEST(ImageToTensorCuda, OfEachFormatDownAndUpGivesWhatTheCpuKernelGives) {
  for (const mme_image_format format : kFormats) {
    for (const auto& [width, height] : {std::pair{97, 61}, {12, 7}, {64, 48}}) {
      SCOPED_TRACE(testing::Message() << "format " << format << ", " << width << "x" << height);
      const Cameras cameras(make_geometry(format, width, height), 1, 0, 0, 1);
      in_every_order([&] { compare(make_spec(37, 21), cameras); });
    }
  }
}

TEST(ImageToTensorCuda, OfTheSizeOfACameraGivesWhatTheCpuKernelGives) {
  compare(make_spec(224, 224), Cameras(make_geometry(MME_IMAGE_NV12, 1280, 720), 1, 0, 0, 8));
  compare(make_spec(224, 224), Cameras(make_geometry(MME_IMAGE_BGR8, 64, 48), 1, 0, 0, 9));
}

TEST(ImageToTensorCuda, OfASinglePixelAndToOneGivesWhatTheCpuKernelGives) {
  for (const mme_image_format format : kFormats) {
    SCOPED_TRACE(testing::Message() << "format " << format);
    compare(make_spec(9, 5), Cameras(make_geometry(format, 1, 1), 1, 0, 0, 2));
    compare(make_spec(1, 1), Cameras(make_geometry(format, 45, 3), 1, 0, 0, 3));
  }
}

TEST(ImageToTensorCuda, OfRowsLongerThanAChunkGivesWhatTheCpuKernelGives) {
  for (const mme_image_format format : kFormats) {
    SCOPED_TRACE(testing::Message() << "format " << format);
    compare(make_spec(3, 2), Cameras(make_geometry(format, 2501, 5), 1, 0, 0, 4));
  }
}

TEST(ImageToTensorCuda, OfEachTypeAndLayoutGivesWhatTheCpuKernelGives) {
  for (const ElementType type :
       {ElementType::kFloat32, ElementType::kFloat16, ElementType::kUint8, ElementType::kInt8}) {
    for (const auto layout : {mmedge::ImageLayout::kPlanar, mmedge::ImageLayout::kInterleaved}) {
      for (const auto channels :
           {mmedge::ImageChannels::kGrey, mmedge::ImageChannels::kRgb, mmedge::ImageChannels::kBgr}) {
        for (const mme_image_format format : {MME_IMAGE_NV12, MME_IMAGE_BGR8, MME_IMAGE_GREY8}) {
          ImageToTensorSpec spec = make_spec(20, 13, type);
          spec.layout = layout;
          spec.channels = channels;
          if (type == ElementType::kInt8) spec.scale = 0.005;  // saturates
          compare(spec, Cameras(make_geometry(format, 51, 33), 1, 0, 0, 5));
        }
      }
    }
  }
}

TEST(ImageToTensorCuda, TurnedMirroredAndFittedGivesWhatTheCpuKernelGives) {
  std::mt19937 random(6);
  const auto pick = [&](int least, int most) { return std::uniform_int_distribution<int>(least, most)(random); };
  for (int i = 0; i < 60; ++i) {
    const auto format = kFormats[static_cast<size_t>(pick(0, 8))];
    ImageGeometry geometry = make_geometry(format, pick(1, 90), pick(1, 60), 90 * pick(0, 3), pick(0, 1) == 1);
    geometry.color_matrix = pick(0, 1) == 1 ? MME_COLOR_BT709 : MME_COLOR_BT601;
    geometry.color_range = pick(0, 1) == 1 ? MME_COLOR_FULL : MME_COLOR_LIMITED;
    if (pick(0, 2) == 0) {
      geometry.region_x = pick(0, geometry.region_width - 1);
      geometry.region_y = pick(0, geometry.region_height - 1);
      geometry.region_width = pick(1, geometry.region_width - geometry.region_x);
      geometry.region_height = pick(1, geometry.region_height - geometry.region_y);
    }
    ImageToTensorSpec spec = make_spec(pick(1, 70), pick(1, 40));
    spec.fit = std::vector{ImageFit::kStretch, ImageFit::kLetterbox, ImageFit::kCrop}[static_cast<size_t>(pick(0, 2))];
    spec.crop_fraction = 0.8;
    spec.pad_level = 114;
    spec.channels = pick(0, 3) == 0 ? mmedge::ImageChannels::kGrey : mmedge::ImageChannels::kBgr;
    spec.nearest = pick(0, 4) == 0;
    spec.antialias = pick(0, 3) != 0;
    SCOPED_TRACE(testing::Message() << "case " << i << ": format " << format << ", " << geometry.width << "x"
                                    << geometry.height << " to " << spec.width << "x" << spec.height << ", rotation "
                                    << geometry.rotation);
    const Cameras cameras(geometry, 1, static_cast<size_t>(pick(0, 5)), static_cast<size_t>(pick(0, 3)), random());
    compare(spec, cameras);
    if (HasFailure()) return;
  }
}

TEST(ImageToTensorCuda, OfTilesThatTheLastIsNarrowerThanGivesWhatTheCpuKernelGives) {
  for (const int width : {41, 55, 64, 89}) {
    SCOPED_TRACE(testing::Message() << "to " << width << " columns");
    compare(make_spec(width, 35), Cameras(make_geometry(MME_IMAGE_NV12, 160, 90), 1, 0, 0, 12));
  }
}

TEST(ImageToTensorCuda, RowsThatAreNotAlignedGiveWhatTheCpuKernelGives) {
  for (const mme_image_format format : kFormats) {
    for (const size_t shift : {1, 2, 3, 4}) {
      SCOPED_TRACE(testing::Message() << "format " << format << ", shift " << shift);
      compare(make_spec(30, 20), Cameras(make_geometry(format, 203, 45), 1, shift - 1, shift, 10));
    }
  }
}

TEST(ImageToTensorCuda, AStrideOfMoreThan32BitsIsRefused) {
  const Cameras cameras(make_geometry(MME_IMAGE_NV12, 40, 30), 1, 0, 0, 11);
  const auto plan = mmedge::make_cuda_image_plan(make_spec(16, 12), cameras.host().front().geometry);
  auto frames = cameras.device();
  frames[0].strides[1] = int64_t{1} << 40;
  EXPECT_EQ(mmedge::image_to_tensor(plan, nullptr, frames, nullptr, nullptr), cudaErrorInvalidValue);
}

TEST(ImageToTensorCuda, SeveralCamerasAreConvertedInOneGo) {
  const ImageGeometry geometry = make_geometry(MME_IMAGE_NV12, 40, 30);
  for (const size_t count : {3, mmedge::kCudaImageMostFrames + 1}) {
    compare(make_spec(16, 12, ElementType::kFloat16), Cameras(geometry, count, 8, 0, 7));
  }
}

}  // namespace
