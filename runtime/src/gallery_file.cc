#include "gallery_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <tuple>

#include "error.h"
#include "sha256.h"

namespace mmedge {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "the file is written as it lies in memory");

constexpr uint32_t kVersion = 1;
constexpr std::array<char, 8> kMagic{'M', 'M', 'E', 'G', 'A', 'L', 'R', 'Y'};
constexpr size_t kDigestBytes = 32;

struct Header {
  std::array<char, 8> magic;
  uint32_t version, metric;
  uint64_t dimension, embeddings, names, model_bytes, name_bytes;
};
static_assert(sizeof(Header) == 56, "the header is packed");

using Bytes = std::vector<uint8_t>;

void append(Bytes& bytes, const void* data, size_t size) {
  const auto* first = static_cast<const uint8_t*>(data);
  bytes.insert(bytes.end(), first, first + size);
}

std::array<uint8_t, kDigestBytes> digest(std::span<const uint8_t> bytes) {
  const std::string text = sha256(bytes);
  std::array<uint8_t, kDigestBytes> result{};
  for (size_t i = 0; i < kDigestBytes; ++i) {
    result[i] = static_cast<uint8_t>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  }
  return result;
}

Bytes to_bytes(const NamedGallery& gallery) {
  uint64_t name_bytes = 0;
  for (const std::string& name : gallery.names()) name_bytes += sizeof(uint32_t) + name.size();
  const Header header{kMagic,
                      kVersion,
                      static_cast<uint32_t>(gallery.metric()),
                      gallery.dimension(),
                      gallery.count(),
                      gallery.names().size(),
                      gallery.model().size(),
                      name_bytes};
  Bytes bytes;
  bytes.reserve(sizeof header + gallery.model().size() + name_bytes + gallery.owners().size_bytes() +
                gallery.rows().size_bytes() + kDigestBytes);
  append(bytes, &header, sizeof header);
  append(bytes, gallery.model().data(), gallery.model().size());
  for (const std::string& name : gallery.names()) {
    const auto size = static_cast<uint32_t>(name.size());
    append(bytes, &size, sizeof size);
    append(bytes, name.data(), name.size());
  }
  append(bytes, gallery.owners().data(), gallery.owners().size_bytes());
  append(bytes, gallery.rows().data(), gallery.rows().size_bytes());
  const auto checksum = digest(bytes);
  append(bytes, checksum.data(), checksum.size());
  return bytes;
}

// A new file beside the one it is to replace, removed again unless it was renamed.
class NewFile {
 public:
  explicit NewFile(const fs::path& path) : path_(path) {
    std::error_code error;
    if (const fs::path target = fs::canonical(path, error); !error) path_ = target;  // behind links
    static std::atomic<unsigned> number{0};
    do {  // a process of this number may have left one, as every first one of a container has the same
      scratch_ = concat(path_.string(), ".", getpid(), ".", number.fetch_add(1), ".tmp");
      file_ = open(scratch_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (file_ < 0 && errno == EEXIST);
    if (file_ < 0) refuse();
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (file_ >= 0) close(file_);
    if (!scratch_.empty()) unlink(scratch_.c_str());
  }

  // Who may read it stays as it was. Only root can give it to its owner.
  void keep_mode() const {
    struct stat before{};
    if (stat(path_.c_str(), &before) != 0) return;
    std::ignore = fchown(file_, before.st_uid, before.st_gid);
    if (fchmod(file_, before.st_mode & 07777U) != 0) refuse();
  }

  void write(std::span<const uint8_t> bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::write(file_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse();
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }

  // Onto the disk first, so that no crash leaves a name without its bytes.
  void replace() {
    if (fsync(file_) != 0 || rename(scratch_.c_str(), path_.c_str()) != 0) refuse();
    scratch_.clear();
    const fs::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
    const int directory = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return;
    fsync(directory);
    close(directory);
  }

 private:
  [[noreturn]] void refuse() const {
    fail(MME_INVALID_ARGUMENT, path_.string(), ": the gallery cannot be written here: ", std::strerror(errno));
  }

  fs::path path_;
  std::string scratch_;
  int file_ = -1;
};

Bytes read(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) fail(MME_BAD_INPUT, "no such file; expected one that was saved");
  std::ifstream stream(path, std::ios::binary | std::ios::ate);
  if (!stream) fail(MME_BAD_INPUT, "it cannot be read");
  const auto size = static_cast<uint64_t>(stream.tellg());  // of what is open: another may take its name meanwhile
  stream.seekg(0);
  Header header{};
  if (size < sizeof header + kDigestBytes) fail(MME_BAD_INPUT, "it has ", size, " bytes, too few for a gallery");
  stream.read(reinterpret_cast<char*>(&header), sizeof header);
  if (!stream || header.magic != kMagic) fail(MME_BAD_INPUT, "it is not a gallery");
  if (header.version == 0 || header.version > kVersion) {
    fail(MME_BAD_INPUT, "found version ", header.version, "; this library reads 1 to ", kVersion, ", so update mmedge");
  }
  // Only a file that is as long as its own header says is read. Each bound is checked before it is multiplied.
  uint64_t left = size - sizeof header - kDigestBytes;
  const auto take = [&left](uint64_t count, uint64_t each) {
    const bool fits = each == 0 || count <= left / each;
    if (fits) left -= count * each;
    return fits;
  };
  if (header.dimension > NamedGallery::kMostDimensions || !take(header.model_bytes, 1) || !take(header.name_bytes, 1) ||
      !take(header.embeddings, sizeof(uint32_t) + header.dimension * sizeof(float)) || left != 0) {
    fail(MME_BAD_INPUT, "its ", size, " bytes are not those its header speaks of");
  }
  Bytes bytes(size);
  stream.seekg(0);
  stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!stream) fail(MME_BAD_INPUT, "it cannot be read");
  return bytes;
}

// The header was checked against the number of bytes; the digest says that they are what was written, not by whom.
NamedGallery from_bytes(std::span<const uint8_t> bytes) {
  const std::span<const uint8_t> content = bytes.first(bytes.size() - kDigestBytes);
  const auto expected = digest(content);
  if (!std::equal(expected.begin(), expected.end(), bytes.last(kDigestBytes).begin())) {
    fail(MME_BAD_INPUT, "it does not match its own SHA-256");
  }
  Header header{};
  std::memcpy(&header, content.data(), sizeof header);
  const auto* next = reinterpret_cast<const char*>(content.data()) + sizeof header;
  NamedGallery gallery(header.dimension, static_cast<int32_t>(header.metric), std::string(next, header.model_bytes));
  std::string_view names(next + header.model_bytes, header.name_bytes);
  std::vector<std::string_view> known;
  while (!names.empty()) {
    uint32_t length = 0;
    if (names.size() < sizeof length) fail(MME_BAD_INPUT, "a name is cut short");
    std::memcpy(&length, names.data(), sizeof length);
    names.remove_prefix(sizeof length);
    if (length > names.size()) fail(MME_BAD_INPUT, "a name is cut short");
    known.push_back(names.substr(0, length));
    names.remove_prefix(length);
  }
  const char* owners = next + header.model_bytes + header.name_bytes;
  const char* rows = owners + header.embeddings * sizeof(uint32_t);
  std::vector<float> row(header.dimension);
  for (uint64_t i = 0; i < header.embeddings; ++i) {
    uint32_t owner = 0;
    std::memcpy(&owner, owners + i * sizeof owner, sizeof owner);
    std::memcpy(row.data(), rows + i * row.size() * sizeof(float), row.size() * sizeof(float));
    if (owner >= known.size()) fail(MME_BAD_INPUT, "embedding ", i, " has no name");
    gallery.enroll(known[owner], row);
    if (gallery.owners().back() != owner) fail(MME_BAD_INPUT, "the names are not in the order of their enrolment");
  }
  if (gallery.names().size() != known.size() || header.names != known.size()) {
    fail(MME_BAD_INPUT, "it has ", known.size(), " names; expected ", header.names, ", each of an embedding");
  }
  return gallery;
}

}  // namespace

void save_gallery(const NamedGallery& gallery, const fs::path& path) {
  const Bytes bytes = to_bytes(gallery);
  NewFile file(path);
  file.keep_mode();
  file.write(bytes);
  file.replace();
}

NamedGallery load_gallery(const fs::path& path) {
  try {
    return from_bytes(read(path));
  } catch (const Error& error) {
    const mme_status status = error.status() == MME_INVALID_ARGUMENT ? MME_BAD_INPUT : error.status();
    fail(status, path.string(), ": not a usable gallery: ", error.what());
  }
}

}  // namespace mmedge
