#include "mmedge.h"

size_t size_of_every_struct(void) {
  return sizeof(mme_image) + sizeof(mme_audio) + sizeof(mme_tensor) + sizeof(mme_result) + sizeof(mme_timing) +
         sizeof(mme_input_info) + sizeof(mme_model_info) + sizeof(mme_model_options) + sizeof(mme_session_options);
}
