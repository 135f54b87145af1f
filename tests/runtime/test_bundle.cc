// Opening bundles that are not as they were written.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "support.h"

namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void write(const fs::path& file, const std::string& text) { std::ofstream(file, std::ios::binary) << text; }

// A copy of digits.mme to spoil.
class BundleTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder);
    fs::create_directories(folder.parent_path());
    fs::copy(bundle_path("digits.mme"), folder);
  }
  void TearDown() override { fs::remove_all(folder.parent_path()); }

  void edit_manifest(const std::function<void(nlohmann::json&)>& edit) {
    auto manifest = nlohmann::json::parse(read(folder / "manifest.json"));
    edit(manifest);
    write_manifest(manifest.dump());
  }

  void write_manifest(const std::string& text) {
    write(folder / "manifest.json", text);
    std::array<unsigned char, 32> digest{};
    SHA256_CTX context;
    SHA256_Init(&context);
    SHA256_Update(&context, text.data(), text.size());
    SHA256_Final(digest.data(), &context);
    std::string line;
    for (const unsigned char byte : digest) {
      line += "0123456789abcdef"[byte >> 4];
      line += "0123456789abcdef"[byte & 15];
    }
    write(folder / "manifest.sha256", line + "  manifest.json\n");
  }

  std::string refusal() {
    mme_model* model = nullptr;
    EXPECT_EQ(mme_bundle_check(folder.c_str()), MME_BUNDLE_INVALID) << mme_last_error();
    EXPECT_EQ(mme_model_open(folder.c_str(), nullptr, &model), MME_BUNDLE_INVALID) << mme_last_error();
    EXPECT_EQ(model, nullptr);
    return mme_last_error();
  }

  fs::path folder = fs::temp_directory_path() / ("mmedge-test-" + std::to_string(getpid())) / "damaged.mme";
};

TEST_F(BundleTest, AnUntouchedCopyOpens) {
  mme_model* model = nullptr;
  ASSERT_EQ(mme_model_open(folder.c_str(), nullptr, &model), MME_OK) << mme_last_error();
  EXPECT_EQ(mme_model_close(model), MME_OK);
}

TEST_F(BundleTest, OneNestedTooDeepIsRefused) {
  constexpr size_t kDepth = 100000;
  const std::string nested = std::string(kDepth, '[') + std::string(kDepth, ']');
  for (const char* key : {"\"schema_version\":", "\"preprocess\":", "\"unknown\":"}) {
    write_manifest("{" + (key + nested) + "}");
    EXPECT_NE(refusal().find("nested deeper than 64 levels"), std::string::npos) << mme_last_error();
  }
  mme_preprocessor* preprocessor = nullptr;
  EXPECT_EQ(mme_preprocessor_create(("{\"type\":" + nested + "}").c_str(), &preprocessor), MME_INVALID_ARGUMENT);
}

TEST_F(BundleTest, TwoPortsOfOneNameAreRefused) {
  edit_manifest([](nlohmann::json& manifest) { manifest["inputs"][1]["name"] = manifest["inputs"][0]["name"]; });
  EXPECT_NE(refusal().find("two inputs or two outputs are named \"image\""), std::string::npos) << mme_last_error();
  edit_manifest([](nlohmann::json& manifest) { manifest["inputs"][1]["name"] = manifest["presence"]; });
  EXPECT_NE(refusal().find("named \"presence\""), std::string::npos) << mme_last_error();
  edit_manifest([](nlohmann::json& manifest) {
    manifest["inputs"][1]["name"] = "audio";
    manifest["outputs"][1]["name"] = manifest["outputs"][0]["name"];
  });
  EXPECT_NE(refusal().find("named \"logits\""), std::string::npos) << mme_last_error();
}

TEST_F(BundleTest, EveryFileTruncatedAnywhereIsRefused) {
  for (const char* name : {"manifest.json", "manifest.sha256", "model.onnx"}) {
    const std::string whole = read(folder / name);
    for (size_t length = 0; length < whole.size(); length += 1 + whole.size() / 40) {
      write(folder / name, whole.substr(0, length));
      EXPECT_NE(refusal().find("damaged.mme"), std::string::npos) << mme_last_error();
    }
    write(folder / name, whole);
  }
}

TEST_F(BundleTest, OneFlippedByteAnywhereIsRefused) {
  for (const char* name : {"manifest.json", "manifest.sha256", "model.onnx"}) {
    const std::string whole = read(folder / name);
    for (size_t at = 0; at < whole.size(); at += 1 + whole.size() / 100) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ 0x20);
      write(folder / name, flipped);
      refusal();
    }
    write(folder / name, whole);
  }
}

TEST_F(BundleTest, AFilePastItsLimitIsRefusedUnread) {
  constexpr uintmax_t most = uintmax_t{64} << 20;
  fs::resize_file(folder / "manifest.json", most + 1);
  EXPECT_NE(refusal().find("has 67108865 bytes; expected at most 67108864"), std::string::npos) << mme_last_error();
}

TEST_F(BundleTest, AMissingFileIsNamed) {
  for (const char* name : {"manifest.json", "manifest.sha256", "model.onnx"}) {
    const std::string whole = read(folder / name);
    fs::remove(folder / name);
    EXPECT_NE(refusal().find(name), std::string::npos) << mme_last_error();
    write(folder / name, whole);
  }
}

TEST_F(BundleTest, AMessageBeginsWithTheBundleWhateverThatIsCalled) {
  const fs::path before = fs::current_path();
  fs::current_path(folder.parent_path());
  fs::rename(folder, "m");  // as what is said of manifest.json begins
  write("m/manifest.sha256", "");
  EXPECT_EQ(mme_bundle_check("m"), MME_BUNDLE_INVALID);
  EXPECT_EQ(std::string(mme_last_error()).find("m: manifest.json does not match"), 0U) << mme_last_error();
  fs::current_path(before);
}

TEST_F(BundleTest, PathsThatLeadOutsideAreRefused) {
  write(folder.parent_path() / "outside.onnx", read(folder / "model.onnx"));
  fs::create_symlink("../outside.onnx", folder / "link.onnx");
  for (const std::string& path : {std::string("../outside.onnx"), (folder.parent_path() / "outside.onnx").string(),
                                  std::string("link.onnx"), std::string("x/../../outside.onnx")}) {
    edit_manifest([&](nlohmann::json& manifest) {
      nlohmann::json file = manifest["files"].begin().value();
      manifest["files"] = {{path, file}};
      manifest["graphs"][0]["path"] = path;
    });
    EXPECT_NE(refusal().find("leads outside the directory"), std::string::npos) << mme_last_error();
  }
}

TEST_F(BundleTest, TheGraphIsTheOneWrittenForTheProvider) {
  edit_manifest([](auto& manifest) {
    auto other = manifest["graphs"][0];
    other["target"] = "tensorrt";
    other["path"] = "gone.onnx";
    manifest["graphs"].insert(manifest["graphs"].begin(), other);
  });
  mme_model* model = nullptr;
  ASSERT_EQ(mme_model_open(folder.c_str(), nullptr, &model), MME_OK) << mme_last_error();
  EXPECT_EQ(mme_model_close(model), MME_OK);
  mme_model_options options = {.struct_size = sizeof options, .provider = "tensorrt"};
  EXPECT_EQ(mme_model_open(folder.c_str(), &options, &model), MME_BUNDLE_INVALID);
  EXPECT_NE(std::string(mme_last_error()).find("gone.onnx"), std::string::npos) << mme_last_error();
}

TEST_F(BundleTest, IntegersForAnotherProviderAreRefused) {
  edit_manifest([](auto& manifest) { manifest["graphs"][0]["precision"] = "int8"; });
  mme_model* model = nullptr;
  ASSERT_EQ(mme_model_open(folder.c_str(), nullptr, &model), MME_OK) << mme_last_error();
  EXPECT_EQ(mme_model_close(model), MME_OK);
  mme_model_options options = {.struct_size = sizeof options, .provider = "tensorrt"};
  EXPECT_EQ(mme_model_open(folder.c_str(), &options, &model), MME_BUNDLE_INVALID);
  const std::string expected = "no INT8 graph for provider \"tensorrt\", only one for onnxruntime";
  EXPECT_NE(std::string(mme_last_error()).find(expected), std::string::npos) << mme_last_error();
}

TEST_F(BundleTest, OneForAnotherProviderAloneIsSound) {
  edit_manifest([](auto& manifest) {
    manifest["graphs"][0]["precision"] = "int8";
    manifest["graphs"][0]["target"] = "tensorrt";
  });
  EXPECT_EQ(mme_bundle_check(folder.c_str()), MME_OK) << mme_last_error();
  mme_model* model = nullptr;
  EXPECT_EQ(mme_model_open(folder.c_str(), nullptr, &model), MME_BUNDLE_INVALID);
  const std::string expected = "no INT8 graph for provider \"cpu\", only one for tensorrt";
  EXPECT_NE(std::string(mme_last_error()).find(expected), std::string::npos) << mme_last_error();
}

TEST_F(BundleTest, ACheckLooksForEveryGraph) {
  edit_manifest([](auto& manifest) {
    auto other = manifest["graphs"][0];
    other["target"] = "tensorrt";
    other["path"] = "gone.onnx";
    manifest["graphs"].push_back(other);
  });
  EXPECT_EQ(mme_bundle_check(folder.c_str()), MME_BUNDLE_INVALID);
  EXPECT_NE(std::string(mme_last_error()).find("gone.onnx"), std::string::npos) << mme_last_error();
}

TEST_F(BundleTest, ANewerSchemaSaysWhatIsSupported) {
  edit_manifest([](nlohmann::json& manifest) { manifest["schema_version"] = 99; });
  const std::string message = refusal();
  EXPECT_NE(message.find("99"), std::string::npos) << message;
  EXPECT_NE(message.find("reads 1 to 1"), std::string::npos) << message;
}

TEST_F(BundleTest, AManifestWithPartsMissingOrOfAnotherTypeIsRefused) {
  const std::string whole = read(folder / "manifest.json");
  const auto keys = nlohmann::json::parse(whole);
  for (const auto& [key, value] : keys.items()) {
    if (key == "evidence" || key == "provenance") continue;  // said to people, not to the runtime
    edit_manifest([&, name = key](nlohmann::json& manifest) { manifest.erase(name); });
    // Settings of some tasks may be left out, by a bundle of the time before them too.
    if (std::set<std::string>{"multi_label", "threshold", "region_threshold", "metric"}.contains(key)) {
      EXPECT_EQ(mme_bundle_check(folder.c_str()), MME_OK) << mme_last_error();
    } else {
      refusal();
    }
    write(folder / "manifest.json", whole);
    edit_manifest([&, name = key](nlohmann::json& manifest) { manifest[name] = 7.5; });
    refusal();
    write(folder / "manifest.json", whole);
  }
}

TEST_F(BundleTest, AManifestThatDoesNotFitItsGraphIsRefused) {
  const std::string whole = read(folder / "manifest.json");
  const std::vector<std::function<void(nlohmann::json&)>> edits{
      [](nlohmann::json& m) { m["inputs"][0]["name"] = "picture"; },
      [](nlohmann::json& m) { m["inputs"][0]["shape"] = {1, 16, 16}; },
      [](nlohmann::json& m) { m["inputs"][0]["shape"] = {1, -7, 0}; },
      [](nlohmann::json& m) { m["inputs"][0]["shape"] = {1, 3.2e126, 32}; },
      [](nlohmann::json& m) { m["inputs"][1]["shape"] = {40, UINT64_MAX}; },
      [](nlohmann::json& m) { m["inputs"][1]["shape"] = {40, 101.0}; },
      [](nlohmann::json& m) { m["files"]["model.onnx"]["size"] = 4e300; },
      [](nlohmann::json& m) { m["files"]["model.onnx"]["size"] = "44692"; },
      [](nlohmann::json& m) { m["inputs"][0]["preprocess"]["width"] = 16; },
      [](nlohmann::json& m) { m["inputs"].erase(1); },
      [](nlohmann::json& m) { m["labels"].erase(0); },
      [](nlohmann::json& m) { m["presence"] = "image"; },
      [](nlohmann::json& m) { m["outputs"][0]["name"] = "scores"; },
  };
  for (const auto& edit : edits) {
    edit_manifest(edit);
    mme_model* model = nullptr;
    EXPECT_EQ(mme_model_open(folder.c_str(), nullptr, &model), MME_BUNDLE_INVALID) << mme_last_error();
    write(folder / "manifest.json", whole);
  }
}

TEST_F(BundleTest, ATaskHasItsOutputsAndSettingsAndNoOthers) {
  using Edit = std::function<void(nlohmann::json&)>;
  const auto another = [](nlohmann::json& m, const char* kind, nlohmann::json shape) {
    m["outputs"].push_back({{"name", kind}, {"kind", kind}, {"dtype", "float32"}, {"shape", std::move(shape)}});
  };
  const std::vector<std::tuple<const char*, Edit, const char*>> cases{
      {"multilabel.mme", [](auto& m) { m["task"] = "poetry"; }, "task \"poetry\" is not known"},
      {"multilabel.mme", [](auto& m) { m["outputs"][0]["kind"] = "odds"; }, "output kind \"odds\" is not known"},
      {"multilabel.mme", [](auto& m) { m["outputs"][0]["kind"] = "embedding"; }, "needs an output of kind logits"},
      {"multilabel.mme", [](auto& m) { m["labels"].push_back("x"); }, "has shape [3]; expected [4]"},
      {"multilabel.mme", [](auto& m) { m["labels"] = {}; }, "malformed"},
      {"multilabel.mme", [](auto& m) { m["labels"] = nlohmann::json::array(); }, "needs labels"},
      {"multilabel.mme", [](auto& m) { m["threshold"] = -0.1; }, "threshold is -0.1; expected 0 to 1"},
      {"multilabel.mme", [](auto& m) { m["metric"] = "cosine"; }, "a metric is given"},
      {"multilabel.mme", [&](auto& m) { another(m, "logits", {3}); }, "has 2 outputs; expected 1"},
      {"multilabel.mme", [&](auto& m) { another(m, "embedding", {3}); }, "has 2 outputs; expected 1"},
      {"multilabel.mme", [&](auto& m) { another(m, "modality_weights", {2}); }, "has shape [2]; expected [1]"},
      {"embedding.mme", [](auto& m) { m["metric"] = nullptr; }, "metric is \"\"; expected"},
      {"embedding.mme", [](auto& m) { m["metric"] = "dot"; }, "metric is \"dot\"; expected"},
      {"embedding.mme", [](auto& m) { m["multi_label"] = true; }, "multi_label is set"},
      {"embedding.mme", [](auto& m) { m["outputs"][1]["shape"] = {2, 4}; }, "has shape [2,4]; expected [-1]"},
      {"embedding.mme", [](auto& m) { m["outputs"].erase(1); }, "needs an output of kind embedding"},
      {"vqa.mme", [](auto& m) { m["outputs"][0]["shape"] = {48}; }, "has shape [48]; expected [-1,-1]"},
      {"vqa.mme", [](auto& m) { m["outputs"].erase(0); }, "needs an output of kind relevance"},
      {"vqa.mme", [](auto& m) { m["region_threshold"] = 1.5; }, "region_threshold is 1.5"},
      {"vqa.mme", [](auto& m) { m["inputs"][0]["modality"] = "audio"; }, "has 0 image inputs; expected one"},
      {"vqa.mme", [](auto& m) { m["inputs"][1]["modality"] = "image"; }, "has 2 image inputs; expected one"},
  };
  for (const auto& [bundle, edit, message] : cases) {
    fs::remove_all(folder);
    fs::copy(bundle_path(bundle), folder);
    EXPECT_EQ(mme_bundle_check(folder.c_str()), MME_OK) << mme_last_error();
    edit_manifest(edit);
    EXPECT_NE(refusal().find(message), std::string::npos) << message << ": " << mme_last_error();
  }
}

TEST_F(BundleTest, AnEmptyDirectoryAndNoDirectoryAreRefused) {
  fs::remove_all(folder);
  EXPECT_NE(refusal().find("no such bundle directory"), std::string::npos);
  fs::create_directories(folder);
  EXPECT_NE(refusal().find("manifest.json"), std::string::npos);
  EXPECT_EQ(mme_bundle_check(nullptr), MME_INVALID_ARGUMENT);
}

}  // namespace
