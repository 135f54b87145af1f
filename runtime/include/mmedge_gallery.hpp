/* mmedge's galleries in C++20: named embeddings, enrolled, searched, kept in a file. Header only, over mmedge.h.
 * SPDX-License-Identifier: Apache-2.0
 *
 *   mmedge::Gallery gallery(model);
 *   gallery.enroll("ada", session.run().embedding);
 *   for (const mmedge::Match& match : gallery.search(session.run().embedding, 3))
 *     std::cout << match.name << ' ' << match.score << '\n';
 *   gallery.save("people.gallery");
 *
 * Lifetime, errors, threads and moves are as in mmedge.hpp; a gallery serves one thread at a time.
 */
#ifndef MMEDGE_GALLERY_HPP_
#define MMEDGE_GALLERY_HPP_

#include <mmedge.hpp>

namespace mmedge {

// One that was found; a view, valid until the gallery changes.
struct Match {
  std::string_view name;
  float score;  // of the name's best embedding
};

class Gallery {
 public:
  // mme_gallery_create. `model`: the graph_sha256 of the model whose embeddings it will hold.
  Gallery(std::size_t dimension, mme_metric metric, const std::string& model = {}) {
    mme_gallery* handle = nullptr;
    detail::check(mme_gallery_create(dimension, metric, model.c_str(), &handle));
    handle_.reset(handle);
  }

  // For the embeddings of `model`, compared as it says.
  explicit Gallery(const Model& model)
      : Gallery(model.embedding_size(), model.metric() == "euclidean" ? MME_EUCLIDEAN : MME_COSINE,
                std::string(model.graph_sha256())) {}

  // mme_gallery_load and mme_gallery_save.
  static Gallery load(const std::filesystem::path& path) {
    mme_gallery* handle = nullptr;
    detail::check(mme_gallery_load(path.string().c_str(), &handle));
    return Gallery(handle);
  }
  void save(const std::filesystem::path& path) const { detail::check(mme_gallery_save(get(), path.string().c_str())); }

  void enroll(const std::string& name, std::span<const float> embedding) {
    detail::check(mme_gallery_enroll(get(), name.c_str(), embedding.data(), embedding.size()));
  }
  void remove(const std::string& name) { detail::check(mme_gallery_remove(get(), name.c_str())); }

  // The `matches.size()` nearest names, best first; returns how many entries were written, mme_gallery_search(), into
  // structs whose struct_size is set here. Allocates nothing for up to 1024.
  std::size_t search(std::span<const float> embedding, std::span<mme_match> matches) const {
    if (!matches.empty()) matches.front().struct_size = sizeof(mme_match);
    std::size_t found = 0;
    detail::check(
        mme_gallery_search(get(), embedding.data(), embedding.size(), matches.size(), matches.data(), &found));
    return found;
  }
  // The same in a vector.
  std::vector<Match> search(std::span<const float> embedding, std::size_t k) const {
    std::vector<mme_match> matches(std::min(k, std::max(size(), std::size_t{1})));
    matches.resize(search(embedding, std::span(matches)));
    std::vector<Match> result;
    for (const mme_match& match : matches) result.push_back({match.name, match.score});
    return result;
  }

  // Embeddings in it.
  std::size_t size() const { return info().count; }
  std::size_t dimension() const { return info().dimension; }
  mme_metric metric() const { return static_cast<mme_metric>(info().metric); }
  // As given when it was made; "": not said. Valid as long as the gallery.
  std::string_view model() const { return info().model; }

  // The handle, for the C functions; it stays this object's.
  mme_gallery* get() const noexcept { return handle_.get(); }

 private:
  explicit Gallery(mme_gallery* handle) : handle_(handle) {}

  mme_gallery_info info() const {
    auto value = detail::sized<mme_gallery_info>();
    detail::check(mme_gallery_get_info(get(), &value));
    return value;
  }

  std::unique_ptr<mme_gallery, detail::Release<mme_gallery_destroy>> handle_;
};

}  // namespace mmedge

#endif  // MMEDGE_GALLERY_HPP_
