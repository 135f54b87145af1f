// What a run's outputs mean for the model's task: labels, an embedding, a region, how much each input counted.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "bundle.h"
#include "kernels/image_to_tensor/image_to_tensor_plan.h"
#include "region.h"
#include "tensor.h"

namespace mmedge {

// All buffers are made at creation; what result() and region() point to is overwritten by the next run().
class Postprocess {
 public:
  // `outputs` are those of the bundle, resized, and stay where they are. Throws MME_INVALID_ARGUMENT where there are
  // fewer than `top_k` classes.
  Postprocess(const Bundle& bundle, std::span<const Tensor> outputs, size_t top_k);

  // The input a region is of.
  std::optional<size_t> region_input() const { return region_input_; }

  // Reads finite outputs. `area`: where the region's input lies in its frame, if it is a frame.
  void run(std::span<const bool> presence, const std::optional<ImageArea>& area);

  // Without the number of outputs and timings.
  mme_result result() const;
  // Throws MME_INVALID_ARGUMENT where the task has none, MME_NOT_READY where there was no frame.
  mme_region region() const;

 private:
  std::span<const float> values(OutputKind kind) const;
  void classify();
  void embed();
  void weigh(std::span<const bool> presence);
  void locate(const std::optional<ImageArea>& area);

  const Bundle& bundle_;
  std::span<const Tensor> outputs_;
  std::vector<float> scores_;
  std::vector<int32_t> ranking_;
  size_t above_threshold_ = 0;
  std::vector<float> embedding_, weights_;
  std::optional<size_t> region_input_;
  std::unique_ptr<RegionFinder> finder_;
  mme_region region_{};
  bool has_region_ = false;
};

}  // namespace mmedge
