#include "files.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "error.h"

namespace mmedge {

namespace fs = std::filesystem;

std::vector<uint8_t> read_file(const fs::path& path) {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  std::vector<uint8_t> bytes(error ? 0 : size);
  std::ifstream stream(path, std::ios::binary);
  stream.read(reinterpret_cast<char*>(bytes.data()), std::ssize(bytes));
  bytes.resize(static_cast<size_t>(stream.gcount()));
  return bytes;
}

std::vector<uint8_t> read_inside(const fs::path& directory, const std::string& name, uintmax_t most, mme_status fault) {
  const fs::path relative(name);
  bool inside = !name.empty() && relative.is_relative() && name.find('\0') == std::string::npos;
  for (const fs::path& part : relative) inside = inside && part != "..";
  std::error_code error;
  const fs::path root = fs::canonical(directory, error);
  const fs::path file = inside && !error ? fs::canonical(root / relative, error) : fs::path();
  if (inside && error) {
    fail(fault, "file \"", name, "\" is missing (", error.message(), ")");
  }
  const auto [end, unused] = std::mismatch(root.begin(), root.end(), file.begin(), file.end());
  if (!inside || end != root.end()) {
    fail(fault, "path \"", name, "\" leads outside the directory");
  }
  if (!fs::is_regular_file(file, error)) {
    fail(fault, "\"", name, "\" is not a regular file");
  }
  const uintmax_t size = fs::file_size(file, error);
  if (error || size > most) {
    fail(fault, "file \"", name, "\" has ", size, " bytes; expected at most ", most);
  }
  std::vector<uint8_t> bytes = read_file(file);
  if (bytes.size() != size) {
    fail(fault, "file \"", name, "\" cannot be read");
  }
  return bytes;
}

}  // namespace mmedge
