#include <memory>

#include "preprocess/parameters.h"
#include "preprocess/preprocess.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

constexpr int kMostTokens = 1 << 16;
constexpr size_t kMostBytes = size_t{1} << 28;

class TextPreprocess : public Preprocess {
 public:
  TextPreprocess(std::shared_ptr<const Tokenizer> tokenizer, int64_t max_length)
      : tokenizer_(std::move(tokenizer)), max_length_(max_length) {}

  const char* modality() const override { return "text"; }
  ElementType type() const override { return ElementType::kInt32; }
  std::vector<int64_t> shape() const override { return {max_length_}; }

  void text(std::string_view text, Tensor& output) override {
    if (text.size() > kMostBytes) {
      fail(MME_BAD_INPUT, "text: ", text.size(), " bytes; expected at most ", kMostBytes);
    }
    if (const size_t wrong = first_invalid_utf8(text); wrong < text.size()) {
      fail(MME_BAD_INPUT, "text: byte ", wrong, " (", static_cast<int>(static_cast<uint8_t>(text[wrong])),
           ") is not UTF-8");
    }
    output.resize(ElementType::kInt32, {&max_length_, 1});
    tokenizer_->encode(text, scratch_, output.values<int32_t>());
  }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  int64_t max_length_;
  Tokenizer::Scratch scratch_;
};

}  // namespace

std::unique_ptr<Preprocess> make_text_preprocess(const nlohmann::json& json, PreprocessFiles& files) {
  Parameters parameters(json);
  parameters.choice<bool>("type", {{"text", true}});
  const std::string name = parameters.string("tokenizer");
  const int max_length = parameters.integer("max_length", 1, kMostTokens);
  parameters.finish();
  auto tokenizer = files.tokenizer(name);
  if (static_cast<size_t>(max_length) <= tokenizer->special_count()) {
    parameters.wrong("max_length", concat("more than the ", tokenizer->special_count(),
                                          " special tokens that the tokenizer adds to every text"));
  }
  return std::make_unique<TextPreprocess>(std::move(tokenizer), max_length);
}

}  // namespace mmedge
