// What image_to_tensor works out once per geometry: quantised taps, the order of work, and the colour coefficients.
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

// Where the output lies, in pixels of the upright frame: past the region where "letterbox" fills up.
struct ImageArea {
  double x = 0, y = 0, width = 0, height = 0;
  int region_x = 0, region_y = 0, region_width = 0, region_height = 0;  // what of the frame was asked for
};

inline constexpr ptrdiff_t kStripRows = 16;    // output rows worked on together
inline constexpr ptrdiff_t kTileColumns = 16;  // output columns finished together
inline constexpr int kMostBlockBytes = 64;

// How the bytes of a row hold its channels.
enum class SurfaceLayout : uint8_t { kPlane, kUv, kYuyv, kUyvy, kRgb, kRgba };

// One step of the row pass: source rows `row` and `row + second`, their 16-bit weights (low half: `row`) in the output
// row being finished and in the next one.
struct RowStep {
  int32_t row, second;
  uint32_t current, next;
};

struct RowSchedule {
  int bits = 0;                          // the weights of one output sum to 1 << bits
  std::vector<RowStep> steps;            // of all output rows
  std::vector<int> ends;                 // of output row i: steps ends[i] to ends[i + 1]
  std::vector<int> first_row, last_row;  // per strip
};

// One resized channel: taps over pairs of neighbouring source columns, counted from the surface's first column used.
struct ColumnTaps {
  int bits = 0;
  int pairs = 0;                           // of every output, zero weights included
  int capacity = 0;                        // pairs the window holds
  std::vector<int> first;                  // pair, per output column
  std::vector<uint32_t> weights;           // [output column][pairs], two 16-bit weights each
  std::vector<int> tile_first, tile_last;  // pairs a tile of output columns needs, and all tiles after it
};

// One plane of the frame as it lies in memory.
struct Surface {
  int plane = 0;
  SurfaceLayout layout = SurfaceLayout::kPlane;
  int first_byte = 0;  // of a row, where the columns used begin
  int row_bytes = 0;   // readable from there on
  int used_bytes = 0;  // those that any tap touches
  int channels = 1;
  RowSchedule rows;
  ColumnTaps columns[3];
  int block_pairs[3] = {};  // pairs of each channel in a block of kMostBlockBytes (RGB: of three times that)
  size_t tail = 0;          // where in the workspace the last, incomplete block of a strip's rows is copied
};

enum class ColorMode : uint8_t {
  kScale,  // each output channel is one input channel
  kMix,    // one output channel out of all
  kYuv     // red, green and blue out of Y, U and V
};

struct ImagePlan {
  ImageGeometry geometry{};
  ImageArea area;
  int columns = 0, rows = 0;  // resized, along the stored axes
  bool turned = false;        // the stored rows are the upright columns
  bool flip_columns = false, flip_rows = false;
  int left = 0, top = 0;  // where the resized picture lies in the output
  bool bordered = false;  // whether it leaves some of it to `pad`
  std::vector<Surface> surfaces;
  int inputs = 0;  // channels resized, of all surfaces
  ColorMode color = ColorMode::kScale;
  // Output c = sum over k of factor[c][k] * input k + offset[c], clamped to [least[c], most[c]], written as channel
  // order[c]. kScale: of input c alone (or the only one), and needs no clamp.
  float factor[3][3] = {}, offset[3] = {}, least[3] = {}, most[3] = {}, pad[3] = {};
  int order[3] = {0, 1, 2};
  size_t windows[3] = {};  // where in the workspace, in int32
  size_t workspace = 0;
};

struct ImageDestination {
  void* tensor;
  int width, height, channels;
  ImageLayout layout;
  ElementType type;
  int zero_point;
};

ImagePlan make_image_plan(const ImageToTensorSpec& spec, const ImageGeometry& geometry);

}  // namespace mmedge
