// What an engine does that has no GPU: refuse what lies on one.
#include "engine/engine.h"

#include "error.h"

namespace mmedge {
namespace {

[[noreturn]] void takes_nothing_from_a_gpu() {
  fail(MME_INVALID_ARGUMENT,
       "this engine takes nothing from a GPU, only engine \"tensorrt\" does; copy it to the host first");
}

}  // namespace

void Execution::bind_device_input(size_t, const void*, std::span<const int64_t>) { takes_nothing_from_a_gpu(); }

ImageArea Execution::convert_image(size_t, const ImageToTensorSpec&, const ImageFrame&, std::span<const int64_t>) {
  fail(MME_INTERNAL, "this engine converts no images");
}

void Execution::wait_for(CUstream_st*) { takes_nothing_from_a_gpu(); }

}  // namespace mmedge
