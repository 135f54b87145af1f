// The C ABI of searches and galleries.
#include <cmath>
#include <span>

#include "api.h"
#include "gallery.h"
#include "gallery_file.h"
#include "kernels/instruction_set.h"
#include "kernels/similarity_top_k/similarity_top_k.h"

namespace mmedge {
namespace {

auto& galleries() {
  static auto& table = *new HandleTable<NamedGallery, mme_gallery, 0x47>("mme_gallery");
  return table;
}

// The gallery a search describes, once it is known to be usable.
Gallery gallery_of(const mme_search& search) {
  if (search.metric < MME_COSINE || search.metric > MME_EUCLIDEAN) {
    fail(MME_INVALID_ARGUMENT, "search->metric is ", search.metric, "; expected a mme_metric");
  }
  Gallery gallery{static_cast<const std::byte*>(search.gallery), search.rows, 0, ElementType::kFloat32, 1.0F};
  switch (search.data_type) {
    case MME_FLOAT32:
      break;
    case MME_FLOAT16:
      gallery.type = ElementType::kFloat16;
      break;
    case MME_INT8:
      gallery.type = ElementType::kInt8;
      if (search.scale != 0) gallery.scale = search.scale;
      break;
    default:
      fail(MME_INVALID_ARGUMENT, "search->data_type is ", search.data_type,
           "; expected MME_FLOAT32, MME_FLOAT16 or MME_INT8");
  }
  if (!std::isfinite(gallery.scale)) {
    fail(MME_INVALID_ARGUMENT, "search->scale is ", gallery.scale, "; expected a finite number");
  }
  if (search.dimension == 0 || search.dimension > PTRDIFF_MAX / sizeof(float)) {
    fail(MME_INVALID_ARGUMENT, "search->dimension is ", search.dimension, "; expected at least 1");
  }
  const size_t packed = search.dimension * element_size(gallery.type);
  gallery.stride = search.row_stride == 0 ? packed : search.row_stride;
  if (gallery.stride < packed) {
    fail(MME_INVALID_ARGUMENT, "search->row_stride is ", search.row_stride, " bytes; a row of ", search.dimension,
         " needs ", packed);
  }
  if (search.rows > PTRDIFF_MAX / gallery.stride) {
    fail(MME_INVALID_ARGUMENT, "search->rows is ", search.rows, "; rows of ", gallery.stride,
         " bytes are more than memory can hold");
  }
  if (search.rows > 0) require(gallery.rows, "search->gallery");
  return gallery;
}

}  // namespace
}  // namespace mmedge

using namespace mmedge;  // NOLINT(google-build-using-namespace): this file is nothing but the library's C face

extern "C" {

mme_status mme_similarity_top_k(const mme_search* search, const float* query, size_t k, int64_t* indices, float* scores,
                                size_t* found) {
  return guarded([&] {
    const mme_search given = read(search, "search");
    const Gallery gallery = gallery_of(given);
    require(query, "query");
    require(indices, "indices");
    require(scores, "scores");
    require(found, "found");
    if (k == 0) fail(MME_INVALID_ARGUMENT, "k is 0; expected at least 1");
    const std::span<const float> values(query, given.dimension);
    const auto wrong = std::find_if_not(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
    if (wrong != values.end()) {
      fail(MME_BAD_INPUT, "element ", wrong - values.begin(), " of the query is ", *wrong, "; expected finite numbers");
    }
    choose_instruction_set();
    *found = similarity_top_k(gallery, static_cast<mme_metric>(given.metric), values, k, indices, scores);
  });
}

mme_status mme_gallery_create(size_t dimension, int32_t metric, const char* model, mme_gallery** gallery) {
  return guarded([&] {
    require(gallery, "gallery");
    *gallery = galleries().insert(std::make_shared<NamedGallery>(dimension, metric, model ? model : ""));
  });
}

mme_status mme_gallery_load(const char* path, mme_gallery** gallery) {
  return guarded([&] {
    require(path, "path");
    require(gallery, "gallery");
    *gallery = galleries().insert(std::make_shared<NamedGallery>(load_gallery(path)));
  });
}

mme_status mme_gallery_save(mme_gallery* gallery, const char* path) {
  return guarded([&] {
    const auto lease = galleries().lease(gallery, Access::kExclusive);
    require(path, "path");
    save_gallery(*lease.object(), path);
  });
}

mme_status mme_gallery_destroy(mme_gallery* gallery) {
  return guarded([&] { galleries().erase(gallery); });
}

mme_status mme_gallery_get_info(mme_gallery* gallery, mme_gallery_info* info) {
  return guarded([&] {
    const auto lease = galleries().lease(gallery, Access::kExclusive);
    check_size(info, "info");
    write(info,
          {sizeof(mme_gallery_info), lease->dimension(), lease->metric(), lease->model().c_str(), lease->count()});
  });
}

mme_status mme_gallery_enroll(mme_gallery* gallery, const char* name, const float* embedding, size_t size) {
  return guarded([&] {
    const auto lease = galleries().lease(gallery, Access::kExclusive);
    require(name, "name");
    require(embedding, "embedding");
    lease->enroll(name, {embedding, size});
  });
}

mme_status mme_gallery_remove(mme_gallery* gallery, const char* name) {
  return guarded([&] {
    const auto lease = galleries().lease(gallery, Access::kExclusive);
    require(name, "name");
    lease->remove(name);
  });
}

mme_status mme_gallery_search(mme_gallery* gallery, const float* embedding, size_t size, size_t k, mme_match* matches,
                              size_t* found) {
  return guarded([&] {
    const auto lease = galleries().lease(gallery, Access::kExclusive);
    require(embedding, "embedding");
    check_size(matches, "matches");
    require(found, "found");
    if (k == 0) fail(MME_INVALID_ARGUMENT, "k is 0; expected at least 1");
    // Elements are as large as the caller's version has them, which the first one says.
    const size_t stride = matches->struct_size;
    const size_t count = lease->find({embedding, size}, k);
    for (size_t i = 0; i < count; ++i) {
      const NamedGallery::Match match = lease->match(i);
      const mme_match value{stride, match.name->c_str(), match.score};
      std::memcpy(reinterpret_cast<std::byte*>(matches) + i * stride, &value, std::min(sizeof value, stride));
    }
    *found = count;
  });
}

}  // extern "C"
