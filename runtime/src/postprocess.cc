#include "postprocess.h"

#include <algorithm>
#include <cmath>

#include "error.h"
#include "kernels/softmax_top_k/softmax_top_k.h"

namespace mmedge {

Postprocess::Postprocess(const Bundle& bundle, std::span<const Tensor> outputs, size_t top_k)
    : bundle_(bundle),
      outputs_(outputs),
      scores_(values(OutputKind::kLogits).size()),
      embedding_(values(OutputKind::kEmbedding).size()),
      weights_(values(OutputKind::kModalityWeights).size()) {
  if (top_k > scores_.size()) {
    fail(MME_INVALID_ARGUMENT, "options->top_k is ", top_k, "; expected at most the model's ", scores_.size(),
         " classes");
  }
  ranking_.resize(top_k ? top_k : scores_.size());
  if (const auto index = bundle.output(OutputKind::kRelevance)) {
    const std::span<const int64_t> shape = outputs[*index].shape();
    const auto rows = static_cast<size_t>(shape[0]), columns = static_cast<size_t>(shape[1]);
    finder_ = std::make_unique<RegionFinder>(rows, columns);
    const auto image = std::find_if(bundle.inputs.begin(), bundle.inputs.end(),
                                    [](const BundleInput& input) { return input.modality == "image"; });
    region_input_ = static_cast<size_t>(image - bundle.inputs.begin());
    region_.struct_size = sizeof region_;
    region_.input = image->name.c_str();
    region_.rows = rows;
    region_.columns = columns;
    region_.map = outputs[*index].values<float>().data();
    region_.threshold = bundle.region_threshold;
  }
}

std::span<const float> Postprocess::values(OutputKind kind) const {
  const auto index = bundle_.output(kind);
  return index ? outputs_[*index].values<float>() : std::span<const float>();
}

void Postprocess::run(std::span<const bool> presence, const std::optional<ImageArea>& area) {
  if (!scores_.empty()) classify();
  if (!embedding_.empty()) embed();
  if (!weights_.empty()) weigh(presence);
  if (finder_) locate(area);
}

void Postprocess::classify() {
  const std::span<const float> logits = values(OutputKind::kLogits);
  if (!bundle_.multi_label) return softmax_top_k(logits, scores_, ranking_);
  sigmoid_top_k(logits, scores_, ranking_);
  const auto below = std::find_if(ranking_.begin(), ranking_.end(), [this](int32_t index) {
    return scores_[static_cast<size_t>(index)] < bundle_.threshold;
  });
  above_threshold_ = static_cast<size_t>(below - ranking_.begin());
}

void Postprocess::embed() {
  const std::span<const float> found = values(OutputKind::kEmbedding);
  double squares = 0;
  for (const float value : found) squares += static_cast<double>(value) * value;
  const double scale = bundle_.metric == "cosine" && squares > 0 ? 1 / std::sqrt(squares) : 1;
  std::transform(found.begin(), found.end(), embedding_.begin(),
                 [scale](float value) { return static_cast<float>(value * scale); });
}

void Postprocess::weigh(std::span<const bool> presence) {
  const std::span<const float> found = values(OutputKind::kModalityWeights);
  std::transform(found.begin(), found.end(), presence.begin(), weights_.begin(),
                 [](float weight, bool present) { return present ? weight : 0.0F; });
}

void Postprocess::locate(const std::optional<ImageArea>& area) {
  has_region_ = area.has_value();
  if (!area) return;
  const std::span<const float> map = values(OutputKind::kRelevance);
  region_.map_x = static_cast<float>(area->x);
  region_.map_y = static_cast<float>(area->y);
  region_.map_width = static_cast<float>(area->width);
  region_.map_height = static_cast<float>(area->height);
  region_.score = *std::max_element(map.begin(), map.end());
  region_.x = region_.y = region_.width = region_.height = 0;
  const std::optional<CellBox> box = finder_->find(map, bundle_.region_threshold);
  if (!box) return;
  // Within what preprocessing was given of the frame: where it was filled up there is nothing to see.
  const auto clip = [](double at, int first, int size) {
    return std::clamp(at, static_cast<double>(first), static_cast<double>(first) + size);
  };
  const double column = area->width / static_cast<double>(region_.columns);
  const double row = area->height / static_cast<double>(region_.rows);
  const double left = clip(area->x + box->left * column, area->region_x, area->region_width);
  const double right = clip(area->x + box->right * column, area->region_x, area->region_width);
  const double top = clip(area->y + box->top * row, area->region_y, area->region_height);
  const double bottom = clip(area->y + box->bottom * row, area->region_y, area->region_height);
  if (right <= left || bottom <= top) return;
  region_.x = static_cast<float>(left);
  region_.y = static_cast<float>(top);
  region_.width = static_cast<float>(right - left);
  region_.height = static_cast<float>(bottom - top);
}

mme_result Postprocess::result() const {
  mme_result found{};
  found.struct_size = sizeof found;
  found.class_index = -1;
  if (!scores_.empty()) {
    const auto best = static_cast<size_t>(ranking_[0]);
    found.label = bundle_.labels[best].c_str();
    found.class_index = ranking_[0];
    found.score = scores_[best];
    found.class_count = scores_.size();
    found.scores = scores_.data();
    found.ranking = ranking_.data();
    found.ranking_count = ranking_.size();
    found.above_threshold = above_threshold_;
  }
  const auto or_null = [](const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); };
  found.embedding = or_null(embedding_);
  found.embedding_size = embedding_.size();
  found.input_weights = or_null(weights_);
  found.input_weight_count = weights_.size();
  return found;
}

mme_region Postprocess::region() const {
  if (!finder_) fail(MME_INVALID_ARGUMENT, "task \"", bundle_.task, R"(" gives no region; "vqa" does)");
  if (!has_region_) {
    fail(MME_NOT_READY, "there is no region: in the last run \"", region_.input,
         "\" was absent, or set as a tensor, which lies in no frame");
  }
  return region_;
}

}  // namespace mmedge
