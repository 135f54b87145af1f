// Galleries: searched against a plain search in float64, and kept in files that are not taken for granted.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <thread>

#include "support.h"

namespace {

bool modes_stay = false;

}  // namespace

// The system's own, or that of a file system which lets nobody change a mode.
extern "C" int fchmod(int file, mode_t mode) noexcept {
  if (!modes_stay) return static_cast<int>(syscall(SYS_fchmod, file, mode));
  errno = EPERM;
  return -1;
}

namespace {

namespace fs = std::filesystem;

struct Found {
  std::string name;
  float score;
};

class TestGallery {
 public:
  explicit TestGallery(size_t dimension, mme_metric metric = MME_COSINE, const char* model = nullptr) {
    EXPECT_EQ(mme_gallery_create(dimension, metric, model, &handle), MME_OK) << mme_last_error();
  }
  explicit TestGallery(const fs::path& path) { status = mme_gallery_load(path.c_str(), &handle); }
  TestGallery(const TestGallery&) = delete;
  TestGallery& operator=(const TestGallery&) = delete;
  ~TestGallery() {
    if (handle != nullptr) mme_gallery_destroy(handle);
  }

  mme_status enroll(const std::string& name, const std::vector<float>& embedding) const {
    return mme_gallery_enroll(handle, name.c_str(), embedding.data(), embedding.size());
  }

  std::vector<Found> search(const std::vector<float>& query, size_t k) const {
    std::vector<mme_match> matches(k);
    matches[0].struct_size = sizeof(mme_match);
    size_t found = 0;
    EXPECT_EQ(mme_gallery_search(handle, query.data(), query.size(), k, matches.data(), &found), MME_OK)
        << mme_last_error();
    std::vector<Found> result;
    for (size_t i = 0; i < found; ++i) result.push_back({matches[i].name, matches[i].score});
    return result;
  }

  mme_gallery_info info() const {
    mme_gallery_info info{sizeof(mme_gallery_info)};
    EXPECT_EQ(mme_gallery_get_info(handle, &info), MME_OK) << mme_last_error();
    return info;
  }

  mme_gallery* handle = nullptr;
  mme_status status = MME_OK;
};

std::vector<std::string> names(const std::vector<Found>& found) {
  std::vector<std::string> result;
  for (const Found& one : found) result.push_back(one.name);
  return result;
}

double score(mme_metric metric, const std::vector<float>& a, const std::vector<float>& b) {
  double dot = 0, aa = 0, bb = 0, distance = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
    distance += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  }
  return metric == MME_DOT ? dot : metric == MME_EUCLIDEAN ? std::sqrt(distance) : dot / std::sqrt(aa * bb);
}

TEST(Gallery, FindsEachNamesBestEmbedding) {
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  for (const mme_metric metric : {MME_COSINE, MME_DOT, MME_EUCLIDEAN}) {
    const TestGallery gallery(24, metric);
    std::map<std::string, std::vector<std::vector<float>>> kept;
    const auto vector = [&] {
      std::vector<float> values(24);
      for (float& value : values) value = normal(random);
      return values;
    };
    for (int i = 0; i < 3000; ++i) {  // more than one block of rows
      const std::string name = "name " + std::to_string(random() % 200);
      ASSERT_EQ(gallery.enroll(name, kept[name].emplace_back(vector())), MME_OK) << mme_last_error();
    }
    EXPECT_EQ(gallery.info().count, 3000U);
    for (int round = 0; round < 2; ++round) {
      const std::vector<float> query = vector();
      std::vector<std::pair<double, std::string>> expected;
      for (const auto& [name, rows] : kept) {
        double best = metric == MME_EUCLIDEAN ? HUGE_VAL : -HUGE_VAL;
        for (const auto& row : rows) {
          const double one = score(metric, query, row);
          best = metric == MME_EUCLIDEAN ? std::min(best, one) : std::max(best, one);
        }
        expected.emplace_back(metric == MME_EUCLIDEAN ? best : -best, name);
      }
      std::sort(expected.begin(), expected.end());
      for (const size_t k : {size_t{1}, size_t{7}, size_t{5000}}) {
        const auto found = gallery.search(query, k);
        ASSERT_EQ(found.size(), std::min(k, expected.size()));
        for (size_t i = 0; i < found.size(); ++i) {
          EXPECT_EQ(found[i].name, expected[i].second) << i;
          EXPECT_NEAR(found[i].score,
                      std::abs(expected[i].first) * (expected[i].first > 0 && metric != MME_EUCLIDEAN ? -1 : 1), 1e-4);
        }
      }
      // And once more with every third name gone.
      size_t number = 0;
      for (auto one = kept.begin(); one != kept.end();) {
        if (number++ % 3 == 0) {
          ASSERT_EQ(mme_gallery_remove(gallery.handle, one->first.c_str()), MME_OK) << mme_last_error();
          one = kept.erase(one);
        } else {
          ++one;
        }
      }
    }
  }
}

TEST(Gallery, EqualScoresStandInTheOrderOfEnrolment) {
  const TestGallery gallery(2);
  for (const char* name : {"second", "first", "third"}) ASSERT_EQ(gallery.enroll(name, {1, 0}), MME_OK);
  ASSERT_EQ(gallery.enroll("first", {2, 0}), MME_OK);
  EXPECT_EQ(names(gallery.search({3, 0}, 3)), (std::vector<std::string>{"second", "first", "third"}));
  ASSERT_EQ(mme_gallery_remove(gallery.handle, "second"), MME_OK);
  ASSERT_EQ(gallery.enroll("second", {1, 0}), MME_OK);
  EXPECT_EQ(names(gallery.search({3, 0}, 3)), (std::vector<std::string>{"first", "third", "second"}));
  EXPECT_EQ(mme_gallery_remove(gallery.handle, "nobody"), MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("\"nobody\""), std::string::npos) << mme_last_error();
}

TEST(Gallery, AnEmptyOneFindsNothing) {
  const TestGallery gallery(2, MME_EUCLIDEAN, "abc");
  EXPECT_EQ(gallery.search({1, 0}, 3).size(), 0U);
  EXPECT_STREQ(gallery.info().model, "abc");
  EXPECT_EQ(gallery.info().metric, MME_EUCLIDEAN);
  EXPECT_EQ(gallery.info().dimension, 2U);
  ASSERT_EQ(gallery.enroll("a", {1, 0}), MME_OK);
  ASSERT_EQ(mme_gallery_remove(gallery.handle, "a"), MME_OK);
  EXPECT_EQ(gallery.search({1, 0}, 3).size(), 0U);
}

TEST(Gallery, ANameIsUtf8OfOneTo1024Bytes) {
  const TestGallery gallery(1);
  for (const std::string& good : {std::string("\xe6\xbc\xa2 \xc3\xa9 \xf0\x9f\x98\x80"), std::string(1024, 'x')}) {
    EXPECT_EQ(gallery.enroll(good, {1}), MME_OK) << mme_last_error();
  }
  for (const std::string& bad :
       {std::string(), std::string(1025, 'x'), std::string("a\x80"), std::string("\xc0\xaf"),
        std::string("\xed\xa0\x80"), std::string("\xf4\x90\x80\x80"), std::string("\xe6\xbc"), std::string("\xff")}) {
    EXPECT_EQ(gallery.enroll(bad, {1}), MME_INVALID_ARGUMENT) << bad;
  }
  EXPECT_EQ(gallery.info().count, 2U);
}

TEST(Gallery, AnEmbeddingThatDoesNotFitIsRefusedAndNothingChanges) {
  const TestGallery gallery(2);
  EXPECT_EQ(gallery.enroll("a", {1, 2, 3}), MME_INVALID_ARGUMENT);
  EXPECT_EQ(gallery.enroll("a", {1, std::numeric_limits<float>::quiet_NaN()}), MME_BAD_INPUT);
  EXPECT_NE(std::string(mme_last_error()).find("element 1"), std::string::npos) << mme_last_error();
  EXPECT_EQ(gallery.info().count, 0U);
  EXPECT_EQ(gallery.search({1, 0}, 1).size(), 0U);
}

TEST(Gallery, MatchesAreWrittenAsFarApartAsTheCallersVersionHasThem) {
  const TestGallery gallery(1);
  ASSERT_EQ(gallery.enroll("a", {1}), MME_OK);
  ASSERT_EQ(gallery.enroll("b", {-1}), MME_OK);
  struct Newer {
    mme_match match;
    uint64_t more;
  };
  std::array<Newer, 2> matches{};
  for (Newer& one : matches) one.more = 0xa5;
  matches[0].match.struct_size = sizeof(Newer);
  const float query = 1;
  size_t found = 0;
  ASSERT_EQ(mme_gallery_search(gallery.handle, &query, 1, 2, &matches[0].match, &found), MME_OK) << mme_last_error();
  ASSERT_EQ(found, 2U);
  EXPECT_STREQ(matches[0].match.name, "a");
  EXPECT_STREQ(matches[1].match.name, "b");
  EXPECT_EQ(matches[1].match.score, -1);
  EXPECT_EQ(matches[1].match.struct_size, sizeof(Newer));
  EXPECT_EQ(matches[0].more, 0xa5U);
  EXPECT_EQ(matches[1].more, 0xa5U);
}

// ---- Files ----

class GalleryFileTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(folder);
    const TestGallery gallery(3, MME_EUCLIDEAN, "the model");
    for (int i = 0; i < 5; ++i) {
      const auto value = static_cast<float>(i);
      ASSERT_EQ(gallery.enroll(i % 2 ? "odd" : "even", {value, value / 3, -value}), MME_OK);
    }
    ASSERT_EQ(mme_gallery_save(gallery.handle, path.c_str()), MME_OK) << mme_last_error();
    whole = read();
  }
  void TearDown() override { fs::remove_all(folder); }

  std::string read() const {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  void write(const std::string& bytes) const { std::ofstream(path, std::ios::binary) << bytes; }

  // With a digest that fits, as nothing but a program that means it would write it.
  void write_signed(std::string bytes) const {
    bytes.resize(bytes.size() - 32);
    std::array<unsigned char, 32> digest{};
    SHA256_CTX context;
    SHA256_Init(&context);
    SHA256_Update(&context, bytes.data(), bytes.size());
    SHA256_Final(digest.data(), &context);
    write(bytes + std::string(digest.begin(), digest.end()));
  }

  std::string refusal() const {
    const TestGallery gallery(path);
    EXPECT_STREQ(mme_status_name(gallery.status), "MME_BAD_INPUT");
    EXPECT_EQ(gallery.handle, nullptr);
    EXPECT_NE(std::string(mme_last_error()).find(path.string()), std::string::npos) << mme_last_error();
    return mme_last_error();
  }

  fs::path folder = fs::temp_directory_path() / ("mmedge-gallery-" + std::to_string(getpid()));
  fs::path path = folder / "people.gallery";
  std::string whole;
};

TEST_F(GalleryFileTest, ComesBackAsItWas) {
  const TestGallery gallery(path);
  ASSERT_EQ(gallery.status, MME_OK) << mme_last_error();
  EXPECT_EQ(gallery.info().count, 5U);
  EXPECT_EQ(gallery.info().dimension, 3U);
  EXPECT_EQ(gallery.info().metric, MME_EUCLIDEAN);
  EXPECT_STREQ(gallery.info().model, "the model");
  const auto found = gallery.search({3, 1, -3}, 2);
  EXPECT_EQ(names(found), (std::vector<std::string>{"odd", "even"}));
  EXPECT_EQ(found[0].score, 0);
  ASSERT_EQ(mme_gallery_save(gallery.handle, path.c_str()), MME_OK);
  EXPECT_EQ(read(), whole);
}

TEST_F(GalleryFileTest, IsReplacedWholeAndNothingIsLeftBeside) {
  const TestGallery gallery(1);
  ASSERT_EQ(mme_gallery_save(gallery.handle, path.c_str()), MME_OK);
  EXPECT_EQ(TestGallery(path).info().count, 0U);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1);
}

TEST_F(GalleryFileTest, IsReplacedBesideWhatAnotherProcessOfItsNumberLeft) {
  const TestGallery gallery(1);
  const auto scratch = [&](int number) {
    return path.string() + "." + std::to_string(getpid()) + "." + std::to_string(number) + ".tmp";
  };
  for (int number = 0; number < 100; ++number) std::ofstream(scratch(number)) << "half of one";
  EXPECT_EQ(mme_gallery_save(gallery.handle, path.c_str()), MME_OK) << mme_last_error();
  EXPECT_EQ(TestGallery(path).info().count, 0U);
}

TEST_F(GalleryFileTest, IsWholeForWhoeverReadsItWhileItIsReplaced) {
  const TestGallery small(1), large(path);
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 200; ++i) mme_gallery_save((i % 2 == 0 ? small : large).handle, path.c_str());
    done = true;
  });
  while (!done) EXPECT_EQ(TestGallery(path).status, MME_OK) << mme_last_error();
  writer.join();
}

TEST_F(GalleryFileTest, StaysWhereItCannotBeWritten) {
  const TestGallery gallery(1);
  EXPECT_EQ(mme_gallery_save(gallery.handle, (folder / "none" / "x").c_str()), MME_INVALID_ARGUMENT);
  EXPECT_EQ(mme_gallery_save(gallery.handle, folder.c_str()), MME_INVALID_ARGUMENT);
  EXPECT_NE(std::string(mme_last_error()).find("cannot be written"), std::string::npos) << mme_last_error();
  EXPECT_EQ(read(), whole);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1);
  EXPECT_FALSE(fs::exists(folder.string() + "." + std::to_string(getpid()) + ".0.tmp"));
}

TEST_F(GalleryFileTest, NothingIsLeftOfOneWhoseModeCannotBeKept) {
  const auto count = [](const fs::path& at) { return std::distance(fs::directory_iterator(at), {}); };
  const TestGallery gallery(1);
  const auto open_files = count("/proc/self/fd");
  modes_stay = true;
  EXPECT_EQ(mme_gallery_save(gallery.handle, path.c_str()), MME_INVALID_ARGUMENT);
  modes_stay = false;
  EXPECT_EQ(count("/proc/self/fd"), open_files);
  EXPECT_EQ(count(folder), 1);
  EXPECT_EQ(read(), whole);
}

TEST_F(GalleryFileTest, CutAnywhereItIsRefused) {
  for (size_t length = 0; length < whole.size(); ++length) {
    write(whole.substr(0, length));
    refusal();
  }
  write(whole + "x");
  refusal();
}

TEST_F(GalleryFileTest, WithOneBitTurnedAnywhereItIsRefused) {
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string turned = whole;
    turned[at] = static_cast<char>(turned[at] ^ (1 << at % 8));
    write(turned);
    refusal();
  }
}

TEST_F(GalleryFileTest, AHeaderIsNotTakenAtItsWord) {
  for (const size_t field : {size_t{8}, size_t{16}, size_t{24}, size_t{32}, size_t{40}, size_t{48}}) {
    for (const uint64_t value : {uint64_t{0}, uint64_t{7}, uint64_t{1} << 31, uint64_t{1} << 62, UINT64_MAX,
                                 UINT64_MAX / 12, UINT64_MAX / 16 + 1}) {
      std::string lying = whole;
      std::memcpy(lying.data() + field, &value, field < 16 ? 4 : 8);
      write_signed(lying);
      refusal();
    }
  }
}

TEST_F(GalleryFileTest, WhatNoGalleryHoldsIsRefusedThoughItsDigestFits) {
  const size_t names_at = 56 + 9, owners_at = names_at + 4 + 4 + 4 + 3, rows_at = owners_at + 5 * 4;
  ASSERT_EQ(whole.size(), rows_at + 5 * 3 * 4 + 32);
  const auto refused = [&](size_t at, const std::string& bytes) {
    std::string changed = whole;
    changed.replace(at, bytes.size(), bytes);
    write_signed(changed);
    return refusal();
  };
  EXPECT_NE(refused(rows_at, std::string("\0\0\xc0\x7f", 4)).find("element 0"), std::string::npos);
  EXPECT_NE(refused(owners_at, std::string("\1\0\0\0", 4)).find("order"), std::string::npos);
  EXPECT_NE(refused(owners_at, std::string("\2\0\0\0", 4)).find("no name"), std::string::npos);
  EXPECT_NE(refused(owners_at + 4, std::string(4, 0) + std::string(4, 0) + std::string(4, 0)).find("names"),
            std::string::npos);
  EXPECT_NE(refused(names_at, std::string("\xff\0\0\0", 4)).find("cut short"), std::string::npos);
  EXPECT_NE(refused(names_at + 4, "\x80").find("UTF-8"), std::string::npos);
  EXPECT_NE(refused(names_at + 5, std::string(1, 0)).find("zero byte"), std::string::npos);
  EXPECT_NE(refused(names_at - 2, std::string(1, 0)).find("zero byte"), std::string::npos);
  EXPECT_NE(refused(0, "X").find("not a gallery"), std::string::npos);
  EXPECT_NE(refused(8, "\2").find("update mmedge"), std::string::npos);
  EXPECT_NE(refused(12, "\3").find("metric"), std::string::npos);
}

TEST_F(GalleryFileTest, WhatIsNoFileIsRefused) {
  fs::remove(path);
  EXPECT_NE(refusal().find("no such file"), std::string::npos);
  fs::create_directory(path);
  refusal();
  fs::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  refusal();
}

}  // namespace
