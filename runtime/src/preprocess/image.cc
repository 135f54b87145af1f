#include <algorithm>

#include "kernels/image_to_tensor/image_to_tensor.h"
#include "preprocess/parameters.h"
#include "preprocess/preprocess.h"

namespace mmedge {
namespace {

constexpr int kMaxSide = 1 << 15;

struct Format {
  const char* name;
  int channels, red, green, blue;
};

Format describe(int32_t format) {
  switch (format) {
    case MME_IMAGE_RGB8:
      return {"RGB8", 3, 0, 1, 2};
    case MME_IMAGE_BGR8:
      return {"BGR8", 3, 2, 1, 0};
    case MME_IMAGE_GREY8:
      return {"GREY8", 1, 0, 0, 0};
    default:
      break;
  }
  fail(MME_INVALID_ARGUMENT, "image: format ", format, " is not one of mme_image_format");
}

PixelView upright(const mme_image& image) {
  const Format format = describe(image.format);
  if (image.width < 1 || image.height < 1 || image.width > kMaxSide || image.height > kMaxSide) {
    fail(MME_BAD_INPUT, "image: ", image.width, "x", image.height, " pixels; expected 1 to ", kMaxSide, " each");
  }
  if (image.planes[0] == nullptr) fail(MME_INVALID_ARGUMENT, "image: planes[0] is NULL");
  const size_t row = static_cast<size_t>(image.width) * static_cast<size_t>(format.channels);
  const size_t stride = image.strides[0];
  const auto rows_before_last = static_cast<size_t>(image.height) - 1;
  if (stride < row || stride > (SIZE_MAX >> 17)) {
    fail(MME_BAD_INPUT, "image: the stride is ", stride, " bytes; a row of ", image.width, " ", format.name,
         " pixels needs at least ", row);
  }
  const size_t needed = rows_before_last * stride + row;
  if (image.sizes[0] < needed) {
    fail(MME_BAD_INPUT, "image: the buffer holds ", image.sizes[0], " bytes; ", image.width, "x", image.height, " ",
         format.name, " with a stride of ", stride, " needs ", needed);
  }

  const auto pixel = static_cast<ptrdiff_t>(format.channels);
  const auto step = static_cast<ptrdiff_t>(stride);
  const ptrdiff_t right = (image.width - 1) * pixel, bottom = (image.height - 1) * step;
  const auto* bytes = static_cast<const uint8_t*>(image.planes[0]);
  PixelView view{bytes, image.width, image.height, pixel, step, format.channels, format.red, format.green, format.blue};
  switch (image.rotation) {
    case 0:
      break;
    case 90:
      view = {bytes + bottom, image.height, image.width, -step, pixel, view.channels, view.red, view.green, view.blue};
      break;
    case 180:
      view.origin = bytes + bottom + right;
      view.pixel_step = -pixel;
      view.row_step = -step;
      break;
    case 270:
      view = {bytes + right, image.height, image.width, step, -pixel, view.channels, view.red, view.green, view.blue};
      break;
    default:
      fail(MME_INVALID_ARGUMENT, "image: rotation is ", image.rotation, "; expected 0, 90, 180 or 270");
  }
  if (image.mirror != 0) {
    view.origin += (view.width - 1) * view.pixel_step;
    view.pixel_step = -view.pixel_step;
  }
  return view;
}

class ImagePreprocess : public Preprocess {
 public:
  explicit ImagePreprocess(ImageToTensorSpec spec) : kernel_(std::move(spec)) {}

  const char* modality() const override { return "image"; }

  std::vector<int64_t> shape() const override {
    return {kernel_.spec().channels, kernel_.spec().height, kernel_.spec().width};
  }

  void image(const mme_image& image, Tensor& output) override {
    const PixelView view = upright(image);
    output.resize(ElementType::kFloat32, shape());
    kernel_.run(view, output.values<float>().data());
  }

 private:
  ImageToTensor kernel_;
};

}  // namespace

std::unique_ptr<Preprocess> make_image_preprocess(const nlohmann::json& json) {
  Parameters parameters(json);
  ImageToTensorSpec spec{};
  parameters.choice<bool>("type", {{"image", true}});
  spec.width = parameters.integer("width", 1, 4096);
  spec.height = parameters.integer("height", 1, 4096);
  spec.channels = parameters.choice<int>("channels", {{"grey", 1}, {"rgb", 3}});
  parameters.choice<bool>("fit", {{"stretch", true}});
  parameters.choice<bool>("interpolation", {{"bilinear", true}});
  spec.antialias = parameters.boolean("antialias");
  const auto channels = static_cast<size_t>(spec.channels);
  spec.mean = parameters.numbers("mean", channels, -1e6);
  spec.stddev = parameters.numbers("std", channels, 1e-6);
  parameters.finish();
  return std::make_unique<ImagePreprocess>(std::move(spec));
}

}  // namespace mmedge
