// Checks a caller's frame before a kernel reads it.
#pragma once

#include "kernels/image_to_tensor/image_to_tensor.h"

namespace mmedge {

// Throws MME_BAD_INPUT or MME_INVALID_ARGUMENT, saying what was found and what was expected.
ImageFrame check_image(const mme_image& image);

}  // namespace mmedge
