#include "preprocess/image_frame.h"

#include "error.h"

namespace mmedge {
namespace {

constexpr int kMaxSide = 1 << 15;
constexpr size_t kMaxStride = SIZE_MAX >> 17;

// One plane of a format: bytes per group of pixels, and how many pixels that is along each axis.
struct PlaneFormat {
  const char* name;
  int group_bytes, group_width, group_height;
};

struct Format {
  const char* name;
  int planes;
  PlaneFormat plane[3];
};

Format describe(int32_t format) {
  switch (format) {
    case MME_IMAGE_RGB8:
      return {"RGB8", 1, {{"pixels", 3, 1, 1}}};
    case MME_IMAGE_BGR8:
      return {"BGR8", 1, {{"pixels", 3, 1, 1}}};
    case MME_IMAGE_GREY8:
      return {"GREY8", 1, {{"pixels", 1, 1, 1}}};
    case MME_IMAGE_RGBA8:
      return {"RGBA8", 1, {{"pixels", 4, 1, 1}}};
    case MME_IMAGE_BGRA8:
      return {"BGRA8", 1, {{"pixels", 4, 1, 1}}};
    case MME_IMAGE_NV12:
      return {"NV12", 2, {{"Y", 1, 1, 1}, {"UV", 2, 2, 2}}};
    case MME_IMAGE_I420:
      return {"I420", 3, {{"Y", 1, 1, 1}, {"U", 1, 2, 2}, {"V", 1, 2, 2}}};
    case MME_IMAGE_YUYV:
      return {"YUYV", 1, {{"pixels", 4, 2, 1}}};
    case MME_IMAGE_UYVY:
      return {"UYVY", 1, {{"pixels", 4, 2, 1}}};
    default:
      break;
  }
  fail(MME_INVALID_ARGUMENT, "image: format ", format, " is not one of mme_image_format");
}

// And what of it the frame has.
void check_plane(const mme_image& image, const Format& format, int plane, ImageFrame& frame) {
  const PlaneFormat& layout = format.plane[plane];
  const auto groups = [](int pixels, int group) { return static_cast<size_t>((pixels + group - 1) / group); };
  const size_t row = groups(image.width, layout.group_width) * static_cast<size_t>(layout.group_bytes);
  const size_t rows = groups(image.height, layout.group_height);
  const size_t stride = image.strides[plane];
  const auto where = [&] { return concat("image: plane ", plane, " (", layout.name, ")"); };
  const auto what = [&] { return concat(image.width, "x", image.height, " ", format.name); };
  if (image.planes[plane] == nullptr) {
    fail(MME_INVALID_ARGUMENT, where(), " is NULL; ", format.name, " has ", format.planes, " plane(s)");
  }
  if (stride < row || stride > kMaxStride) {
    fail(MME_BAD_INPUT, where(), " has a stride of ", stride, " bytes; a row of ", what(), " needs at least ", row);
  }
  const size_t needed = (rows - 1) * stride + row;
  if (image.sizes[plane] < needed) {
    fail(MME_BAD_INPUT, where(), " holds ", image.sizes[plane], " bytes; ", what(), " with a stride of ", stride,
         " needs ", needed);
  }
  frame.planes[plane] = static_cast<const uint8_t*>(image.planes[plane]);
  frame.strides[plane] = static_cast<ptrdiff_t>(stride);
  frame.row_bytes[plane] = row;
  frame.rows[plane] = rows;
}

void set_region(const mme_image& image, ImageGeometry& geometry) {
  const bool turned = image.rotation % 180 == 90;
  const int width = turned ? image.height : image.width, height = turned ? image.width : image.height;
  const int x = image.region_x, y = image.region_y;
  if (image.region_width == 0 && image.region_height == 0) {
    if (x != 0 || y != 0) {
      fail(MME_INVALID_ARGUMENT, "image: the region at ", x, ",", y,
           " has no size; set region_width and region_height, or all four to 0");
    }
    geometry.region_width = width;
    geometry.region_height = height;
    return;
  }
  if (image.region_width < 1 || image.region_height < 1) {
    fail(MME_INVALID_ARGUMENT, "image: the region is ", image.region_width, "x", image.region_height,
         "; expected both at least 1, or both 0 for the whole frame");
  }
  if (x < 0 || y < 0 || image.region_width > width - x || image.region_height > height - y) {
    fail(MME_BAD_INPUT, "image: the region of ", image.region_width, "x", image.region_height, " at ", x, ",", y,
         " leaves the upright frame of ", width, "x", height);
  }
  geometry.region_x = x;
  geometry.region_y = y;
  geometry.region_width = image.region_width;
  geometry.region_height = image.region_height;
}

}  // namespace

ImageFrame check_image(const mme_image& image) {
  const Format format = describe(image.format);
  if (image.width < 1 || image.height < 1 || image.width > kMaxSide || image.height > kMaxSide) {
    fail(MME_BAD_INPUT, "image: ", image.width, "x", image.height, " pixels; expected 1 to ", kMaxSide, " each");
  }
  if (image.rotation < 0 || image.rotation > 270 || image.rotation % 90 != 0) {
    fail(MME_INVALID_ARGUMENT, "image: rotation is ", image.rotation, "; expected 0, 90, 180 or 270");
  }
  ImageFrame frame{};
  frame.geometry = {static_cast<mme_image_format>(image.format),
                    image.width,
                    image.height,
                    image.rotation,
                    image.mirror != 0,
                    0,
                    0,
                    0,
                    0,
                    MME_COLOR_BT601,
                    MME_COLOR_LIMITED};
  if (image.format >= MME_IMAGE_NV12) {  // the others ignore both
    if (image.color_matrix != MME_COLOR_BT601 && image.color_matrix != MME_COLOR_BT709) {
      fail(MME_INVALID_ARGUMENT, "image: color_matrix ", image.color_matrix, " is not one of mme_color_matrix");
    }
    if (image.color_range != MME_COLOR_LIMITED && image.color_range != MME_COLOR_FULL) {
      fail(MME_INVALID_ARGUMENT, "image: color_range ", image.color_range, " is not one of mme_color_range");
    }
    frame.geometry.color_matrix = static_cast<mme_color_matrix>(image.color_matrix);
    frame.geometry.color_range = static_cast<mme_color_range>(image.color_range);
  }
  set_region(image, frame.geometry);
  for (int plane = 0; plane < format.planes; ++plane) check_plane(image, format, plane, frame);
  if (image.memory != MME_MEMORY_HOST && image.memory != MME_MEMORY_CUDA) {
    fail(MME_INVALID_ARGUMENT, "image: memory ", image.memory, " is not one of mme_memory");
  }
  frame.on_device = image.memory == MME_MEMORY_CUDA;
  return frame;
}

}  // namespace mmedge
