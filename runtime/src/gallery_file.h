// A gallery as a file, version 1, little endian:
//
//   | bytes       | what                                                                            |
//   |-------------|---------------------------------------------------------------------------------|
//   | 8           | "MMEGALRY"                                                                      |
//   | 4, 4        | version; mme_metric                                                             |
//   | 8, 8, 8     | dimension; embeddings; names                                                    |
//   | 8, 8        | bytes of the model's hash; bytes of all names, their lengths included           |
//   | so many     | the model's hash, then for each name, by first enrolment, its length (4) and it |
//   | 4 each      | of each embedding the number of its name, by enrolment                          |
//   | 4 each      | of each embedding its floats                                                    |
//   | 32          | SHA-256 of all before                                                           |
#pragma once

#include <filesystem>

#include "gallery.h"

namespace mmedge {

// In whole or not at all, and on the disk when it returns. Throws MME_INVALID_ARGUMENT where nothing can be written.
void save_gallery(const NamedGallery& gallery, const std::filesystem::path& path);

// Throws MME_BAD_INPUT where it is missing, damaged or of a newer version.
NamedGallery load_gallery(const std::filesystem::path& path);

}  // namespace mmedge
