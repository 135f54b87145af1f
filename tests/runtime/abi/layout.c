/* Prints where everything in the public structs lies and what every enumerator is worth; CTest compares it with
 * layout.txt. After an intended change (a struct grown at its end, a value added):
 *   build/release/tests/runtime/abi_layout > tests/runtime/abi/layout.txt */
#include <stddef.h>
#include <stdio.h>

#include "mmedge.h"

#define STRUCT(type) printf(#type " size %zu\n", sizeof(type))
#define FIELD(type, name) printf(#type "." #name " at %zu size %zu\n", offsetof(type, name), sizeof(((type *)0)->name))
#define ENUM(type) printf(#type " size %zu\n", sizeof(type))
#define VALUE(name) printf(#name " = %d\n", name)

int main(void) {
  ENUM(mme_status);
  VALUE(MME_OK);
  VALUE(MME_INVALID_ARGUMENT);
  VALUE(MME_INVALID_HANDLE);
  VALUE(MME_BUSY);
  VALUE(MME_NOT_READY);
  VALUE(MME_BUNDLE_INVALID);
  VALUE(MME_ENGINE_UNAVAILABLE);
  VALUE(MME_ENGINE_FAILED);
  VALUE(MME_BAD_INPUT);
  VALUE(MME_BAD_OUTPUT);
  VALUE(MME_OUT_OF_MEMORY);
  VALUE(MME_INTERNAL);
  ENUM(mme_image_format);
  VALUE(MME_IMAGE_RGB8);
  VALUE(MME_IMAGE_BGR8);
  VALUE(MME_IMAGE_GREY8);
  VALUE(MME_IMAGE_RGBA8);
  VALUE(MME_IMAGE_BGRA8);
  VALUE(MME_IMAGE_NV12);
  VALUE(MME_IMAGE_I420);
  VALUE(MME_IMAGE_YUYV);
  VALUE(MME_IMAGE_UYVY);
  ENUM(mme_color_matrix);
  VALUE(MME_COLOR_BT601);
  VALUE(MME_COLOR_BT709);
  ENUM(mme_color_range);
  VALUE(MME_COLOR_LIMITED);
  VALUE(MME_COLOR_FULL);
  STRUCT(mme_image);
  FIELD(mme_image, struct_size);
  FIELD(mme_image, format);
  FIELD(mme_image, width);
  FIELD(mme_image, height);
  FIELD(mme_image, rotation);
  FIELD(mme_image, mirror);
  FIELD(mme_image, planes);
  FIELD(mme_image, strides);
  FIELD(mme_image, sizes);
  FIELD(mme_image, color_matrix);
  FIELD(mme_image, color_range);
  FIELD(mme_image, region_x);
  FIELD(mme_image, region_y);
  FIELD(mme_image, region_width);
  FIELD(mme_image, region_height);
  ENUM(mme_audio_format);
  VALUE(MME_AUDIO_INT16);
  VALUE(MME_AUDIO_FLOAT32);
  STRUCT(mme_audio);
  FIELD(mme_audio, struct_size);
  FIELD(mme_audio, format);
  FIELD(mme_audio, channels);
  FIELD(mme_audio, sample_rate);
  FIELD(mme_audio, samples);
  FIELD(mme_audio, frames);
  ENUM(mme_data_type);
  VALUE(MME_FLOAT32);
  VALUE(MME_FLOAT16);
  VALUE(MME_UINT8);
  VALUE(MME_INT8);
  STRUCT(mme_tensor);
  FIELD(mme_tensor, struct_size);
  FIELD(mme_tensor, name);
  FIELD(mme_tensor, data_type);
  FIELD(mme_tensor, data);
  FIELD(mme_tensor, size);
  FIELD(mme_tensor, rank);
  FIELD(mme_tensor, shape);
  STRUCT(mme_input_info);
  FIELD(mme_input_info, struct_size);
  FIELD(mme_input_info, name);
  FIELD(mme_input_info, modality);
  FIELD(mme_input_info, data_type);
  FIELD(mme_input_info, rank);
  FIELD(mme_input_info, shape);
  FIELD(mme_input_info, preprocess);
  STRUCT(mme_result);
  FIELD(mme_result, struct_size);
  FIELD(mme_result, label);
  FIELD(mme_result, class_index);
  FIELD(mme_result, score);
  FIELD(mme_result, class_count);
  FIELD(mme_result, scores);
  FIELD(mme_result, ranking);
  FIELD(mme_result, output_count);
  FIELD(mme_result, timing_count);
  FIELD(mme_result, ranking_count);
  STRUCT(mme_timing);
  FIELD(mme_timing, struct_size);
  FIELD(mme_timing, stage);
  FIELD(mme_timing, nanoseconds);
  FIELD(mme_timing, begin);
  STRUCT(mme_model_options);
  FIELD(mme_model_options, struct_size);
  FIELD(mme_model_options, onnxruntime);
  FIELD(mme_model_options, threads);
  FIELD(mme_model_options, provider);
  FIELD(mme_model_options, device);
  FIELD(mme_model_options, disable_arena);
  FIELD(mme_model_options, allow_spinning);
  FIELD(mme_model_options, keep_denormals);
  FIELD(mme_model_options, affinities);
  FIELD(mme_model_options, cache);
  STRUCT(mme_model_info);
  FIELD(mme_model_info, struct_size);
  FIELD(mme_model_info, name);
  FIELD(mme_model_info, task);
  FIELD(mme_model_info, engine);
  FIELD(mme_model_info, manifest);
  FIELD(mme_model_info, input_count);
  FIELD(mme_model_info, label_count);
  STRUCT(mme_session_options);
  FIELD(mme_session_options, struct_size);
  FIELD(mme_session_options, top_k);
  ENUM(mme_metric);
  VALUE(MME_COSINE);
  VALUE(MME_DOT);
  VALUE(MME_EUCLIDEAN);
  STRUCT(mme_search);
  FIELD(mme_search, struct_size);
  FIELD(mme_search, metric);
  FIELD(mme_search, data_type);
  FIELD(mme_search, gallery);
  FIELD(mme_search, rows);
  FIELD(mme_search, dimension);
  FIELD(mme_search, row_stride);
  FIELD(mme_search, scale);
  return 0;
}
