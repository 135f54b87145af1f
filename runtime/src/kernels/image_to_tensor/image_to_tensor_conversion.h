// What image_to_tensor computes, whichever device does it: which pixels with which weights make an output pixel, and
// the colour coefficients. Worked out once per geometry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mmedge.h"
#include "tensor.h"

namespace mmedge {

enum class ImageFit : uint8_t { kStretch, kLetterbox, kCrop };
enum class ImageLayout : uint8_t { kPlanar, kInterleaved };
enum class ImageChannels : uint8_t { kGrey, kRgb, kBgr };

struct ImageToTensorSpec {
  int width = 0, height = 0;  // of the output
  ImageChannels channels = ImageChannels::kRgb;
  ImageFit fit = ImageFit::kStretch;
  double crop_fraction = 1.0;  // of the covering part
  double pad_level = 0.0;
  bool nearest = false, antialias = false;
  ElementType type = ElementType::kFloat32;
  ImageLayout layout = ImageLayout::kPlanar;
  std::vector<float> mean, stddev;  // per output channel
  double scale = 1.0;               // of int8
  int zero_point = 0;

  int channel_count() const { return channels == ImageChannels::kGrey ? 1 : 3; }
};

// Everything about a frame but where its bytes lie.
struct ImageGeometry {
  mme_image_format format;
  int width, height;  // as stored
  int rotation;       // degrees clockwise that bring it upright
  bool mirror;
  int region_x, region_y, region_width, region_height;  // of the upright frame
  mme_color_matrix color_matrix;
  mme_color_range color_range;

  bool operator==(const ImageGeometry&) const = default;
};

// Where a frame's bytes lie, in a CUDA device's memory; as in ImageFrame, every row its geometry needs is readable. The
// kernel is fastest where planes and strides are multiples of eight bytes.
struct CudaImageFrame {
  const uint8_t* planes[3];
  int64_t strides[3];
};

// Where the output lies, in pixels of the upright frame: past the region where "letterbox" fills up.
struct ImageArea {
  double x = 0, y = 0, width = 0, height = 0;
  int region_x = 0, region_y = 0, region_width = 0, region_height = 0;  // what of the frame was asked for
};

// How the bytes of a row hold its channels.
enum class SurfaceLayout : uint8_t { kPlane, kUv, kYuyv, kUyvy, kRgb, kRgba };

struct LayoutSize {
  int channels, group_bytes, group_pixels;
};

LayoutSize size_of(SurfaceLayout layout);

enum class ColorMode : uint8_t {
  kScale,  // each output channel is one input channel
  kMix,    // one output channel out of all
  kYuv     // red, green and blue out of Y, U and V
};

// The taps of one output coordinate along a stored axis.
template <class Weight>
struct Taps {
  int first;
  std::vector<Weight> weights;

  int last() const { return first + static_cast<int>(weights.size()); }
  Weight at(int x) const { return x < first || x >= last() ? Weight{0} : weights[static_cast<size_t>(x - first)]; }
};

// The weights of one output sum to 1 << bits; none is negative, and each has 15 bits at most.
struct QuantisedTaps {
  int bits = 0;
  std::vector<Taps<int>> taps;
};

// One plane of the frame as it lies in memory, and what is taken of it.
struct ResizedPlane {
  int plane = 0;
  SurfaceLayout layout = SurfaceLayout::kPlane;
  int width = 0, height = 0;  // of its first channel
  int first = 0, last = 0;    // the columns of that channel that taps reach; last is one past the end
  QuantisedTaps rows;
  QuantisedTaps columns[3];  // per channel, on the channel's own grid
};

struct ImageConversion {
  ImageGeometry geometry{};
  ImageArea area;
  int columns = 0, rows = 0;  // resized, along the stored axes
  bool turned = false;        // the stored rows are the upright columns
  bool flip_columns = false, flip_rows = false;
  int left = 0, top = 0;  // where the resized picture lies in the output
  bool bordered = false;  // whether it leaves some of it to `pad`
  std::vector<ResizedPlane> planes;
  int inputs = 0;  // channels resized, of all planes
  ColorMode color = ColorMode::kScale;
  // Output c = sum over k of factor[c][k] * input k + offset[c], clamped to [least[c], most[c]], written as channel
  // order[c]. kScale: of input c alone (or the only one), and needs no clamp.
  float factor[3][3] = {}, offset[3] = {}, least[3] = {}, most[3] = {}, pad[3] = {};
  int order[3] = {0, 1, 2};
};

// ImageConversion::area alone.
ImageArea image_area(const ImageToTensorSpec& spec, const ImageGeometry& geometry);

ImageConversion make_image_conversion(const ImageToTensorSpec& spec, const ImageGeometry& geometry);

}  // namespace mmedge
