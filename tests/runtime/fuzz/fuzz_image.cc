// Frames of every format, size, stride, rotation and region, in buffers exactly as large as they claim.
#include <cmath>

#include "reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader reader(data, size);
  const auto flags = reader.number<uint8_t>();
  const size_t width = reader.within(1, 70), height = reader.within(1, 70);
  const bool rgb = flags & 1;
  const std::string parameters =
      R"({"type": "image", "fit": "stretch", "interpolation": "bilinear", "width": )" + std::to_string(width) +
      R"(, "height": )" + std::to_string(height) + R"(, "channels": ")" + (rgb ? "rgb" : "grey") +
      R"(", "antialias": )" + (flags & 2 ? "true" : "false") + R"(, "mean": )" + (rgb ? "[0.4, 0.5, 0.6]" : "[0.5]") +
      R"(, "std": )" + (rgb ? "[0.2, 0.2, 0.3]" : "[0.25]") + "}";
  mme_preprocessor* preprocessor = nullptr;
  require(succeeded(mme_preprocessor_create(parameters.c_str(), &preprocessor)), "these parameters are good");

  mme_image image{};
  image.struct_size = sizeof image;
  image.format = flags & 4 ? reader.number<int8_t>() : static_cast<int32_t>(reader.within(0, 8));
  image.width = flags & 8 ? reader.number<int32_t>() : static_cast<int32_t>(reader.within(1, 300));
  image.height = flags & 8 ? reader.number<int32_t>() : static_cast<int32_t>(reader.within(1, 300));
  image.rotation = flags & 16 ? reader.number<int32_t>() : static_cast<int32_t>(reader.within(0, 3)) * 90;
  image.mirror = flags & 32;
  image.color_matrix = reader.number<int8_t>();
  image.color_range = reader.number<int8_t>();
  if (flags & 64) {
    image.region_x = reader.number<int16_t>();
    image.region_y = reader.number<int16_t>();
    image.region_width = reader.number<int16_t>();
    image.region_height = reader.number<int16_t>();
  }
  // What the format needs with a little padding or a little too little, or anything.
  std::unique_ptr<uint8_t[]> planes[3];
  for (int p = 0; p < 3; ++p) {
    const auto row_bytes = reader.number<uint16_t>();
    const auto rows = reader.number<uint16_t>();
    image.strides[p] = flags & 128 ? reader.number<uint64_t>() : row_bytes % 2048;
    const size_t exact = rows % 512 * (image.strides[p] % 2048) + reader.number<uint16_t>() % 2048;
    image.sizes[p] = exact % (size_t{1} << 20);
    planes[p] = reader.buffer(image.sizes[p]);
    image.planes[p] = planes[p].get();
  }
  mme_tensor tensor{};
  tensor.struct_size = sizeof tensor;
  for (int again = 0; again < 2; ++again) {
    if (!succeeded(mme_preprocessor_image(preprocessor, &image, &tensor))) break;
    require(tensor.size == width * height * (rgb ? 3 : 1) * sizeof(float), "the tensor has the size asked for");
    for (size_t i = 0; i < tensor.size / sizeof(float); ++i) {
      const float value = static_cast<const float*>(tensor.data)[i];
      require(value > -4.0F && value < 4.0F, "0 to 255 stays 0 to 1, normalised");
    }
  }
  require(succeeded(mme_preprocessor_destroy(preprocessor)), "a preprocessor is released");
  return 0;
}
