#include <algorithm>
#include <cmath>

#include "kernels/image_to_tensor/image_to_tensor.h"
#include "preprocess/image_frame.h"
#include "preprocess/parameters.h"
#include "preprocess/preprocess.h"

namespace mmedge {
namespace {

class ImagePreprocess : public Preprocess {
 public:
  explicit ImagePreprocess(ImageToTensorSpec spec) : kernel_(std::move(spec)) {
    const auto& [width, height, channels] =
        std::tuple{kernel_.spec().width, kernel_.spec().height, kernel_.spec().channel_count()};
    if (kernel_.spec().layout == ImageLayout::kPlanar) {
      shape_ = {channels, height, width};
    } else {
      shape_ = {height, width, channels};
    }
  }

  const char* modality() const override { return "image"; }
  ElementType type() const override { return kernel_.spec().type; }
  std::vector<int64_t> shape() const override { return shape_; }

  void image(const mme_image& image, Tensor& output) override {
    const ImageFrame frame = check_image(image);
    if (frame.on_device) {
      fail(MME_INVALID_ARGUMENT,
           "image: its planes are in a GPU's memory; only engine \"tensorrt\" takes them there, with "
           "libmmedge_cuda.so beside libmmedge.so");
    }
    output.resize(type(), shape_);
    kernel_.run(frame, output.data());
  }

  ImageArea area() const override { return kernel_.area(); }
  const ImageToTensorSpec* image_spec() const override { return &kernel_.spec(); }

 private:
  ImageToTensor kernel_;
  std::vector<int64_t> shape_;
};

void read_fit(Parameters& parameters, ImageToTensorSpec& spec) {
  spec.fit = parameters.choice<ImageFit>(
      "fit", {{"stretch", ImageFit::kStretch}, {"letterbox", ImageFit::kLetterbox}, {"crop", ImageFit::kCrop}});
  if (parameters.has("crop_fraction")) {
    parameters.only_with("crop_fraction", spec.fit == ImageFit::kCrop, R"("fit" "crop")");
    spec.crop_fraction = parameters.number("crop_fraction", 0.01, 1.0);
  }
  if (parameters.has("pad_value")) {
    parameters.only_with("pad_value", spec.fit == ImageFit::kLetterbox, R"("fit" "letterbox")");
    spec.pad_level = parameters.number("pad_value", 0.0, 255.0);
  }
}

void check_float16(const Parameters& parameters, const ImageToTensorSpec& spec) {
  constexpr float most = 65504.0F;  // of float16
  for (size_t c = 0; c < spec.mean.size(); ++c) {
    const float farthest = std::max(std::abs(spec.mean[c]), std::abs(1.0F - spec.mean[c])) / spec.stddev[c];
    if (farthest > most) {
      parameters.wrong("std", concat("values within +-", most, R"( for "dtype" "float16"; these reach )", farthest));
    }
  }
}

void read_type(Parameters& parameters, ImageToTensorSpec& spec) {
  if (parameters.has("dtype")) {
    spec.type = parameters.choice<ElementType>("dtype", {{"float32", ElementType::kFloat32},
                                                         {"float16", ElementType::kFloat16},
                                                         {"uint8", ElementType::kUint8},
                                                         {"int8", ElementType::kInt8}});
  }
  const bool quantised = spec.type == ElementType::kInt8;
  for (const char* key : {"scale", "zero_point"}) {
    if (parameters.has(key)) parameters.only_with(key, quantised, R"("dtype" "int8")");
  }
  if (quantised) {
    spec.scale = parameters.number("scale", 1e-9, 1e9);
    spec.zero_point = parameters.integer("zero_point", -128, 127);
  }
  const auto channels = static_cast<size_t>(spec.channel_count());
  spec.mean = parameters.numbers("mean", channels, -1e6, 1e6);
  spec.stddev = parameters.numbers("std", channels, 1e-6, 1e6);
  if (spec.type == ElementType::kFloat16) check_float16(parameters, spec);
  if (spec.type != ElementType::kUint8) return;
  // uint8 holds the levels themselves; that is what (level / 255 - 0) / (1 / 255) says.
  if (std::any_of(spec.mean.begin(), spec.mean.end(), [](float mean) { return mean != 0.0F; })) {
    parameters.wrong("mean", R"(zeros: "dtype" "uint8" holds the levels 0 to 255 as they are)");
  }
  if (std::any_of(spec.stddev.begin(), spec.stddev.end(),
                  [](float s) { return std::abs(s * 255.0F - 1.0F) > 1e-5F; })) {
    parameters.wrong("std", R"(1/255 each: "dtype" "uint8" holds the levels 0 to 255 as they are)");
  }
}

}  // namespace

std::unique_ptr<Preprocess> make_image_preprocess(const nlohmann::json& json) {
  Parameters parameters(json);
  ImageToTensorSpec spec;
  parameters.choice<bool>("type", {{"image", true}});
  spec.width = parameters.integer("width", 1, 4096);
  spec.height = parameters.integer("height", 1, 4096);
  spec.channels = parameters.choice<ImageChannels>(
      "channels", {{"grey", ImageChannels::kGrey}, {"rgb", ImageChannels::kRgb}, {"bgr", ImageChannels::kBgr}});
  read_fit(parameters, spec);
  spec.nearest = parameters.choice<bool>("interpolation", {{"bilinear", false}, {"nearest", true}});
  spec.antialias = parameters.boolean("antialias");
  if (spec.nearest && spec.antialias) parameters.wrong("antialias", R"(false with "interpolation" "nearest")");
  if (parameters.has("layout")) {
    spec.layout = parameters.choice<ImageLayout>(
        "layout", {{"planar", ImageLayout::kPlanar}, {"interleaved", ImageLayout::kInterleaved}});
  }
  read_type(parameters, spec);
  parameters.finish();
  return std::make_unique<ImagePreprocess>(std::move(spec));
}

}  // namespace mmedge
