// Reading whole files, and those that a bundle or a preprocessing names, which may not lie outside their directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mmedge.h"

namespace mmedge {

// What is in a regular file; less or nothing where it cannot be read.
std::vector<uint8_t> read_file(const std::filesystem::path& path);

// Reads a file of `directory` of at most `most` bytes; it may be neither absolute nor outside, by name or through a
// link. Throws `fault`; the message names the file, not the directory.
std::vector<uint8_t> read_inside(const std::filesystem::path& directory, const std::string& name, uintmax_t most,
                                 mme_status fault);

}  // namespace mmedge
