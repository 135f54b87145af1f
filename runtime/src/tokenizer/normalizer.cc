#include "tokenizer/normalizer.h"

#include <algorithm>

#include "tokenizer/charsmap.h"
#include "tokenizer/grapheme.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace mmedge {
namespace {

// Writes the text anew, code point by code point: `each` appends what one becomes.
template <class Each>
void rewrite(NormalizedText& text, NormalizerScratch& scratch, Each each) {
  std::string& output = scratch.text;
  output.clear();
  size_t from_start = 0;
  for (size_t at = 0; at < text.text.size();) {
    const bool start = at < text.from_start;
    each(decode_utf8(text.text, at), output);
    if (start) from_start = output.size();
  }
  text.from_start = from_start;
  text.text.swap(output);
}

void append_lowercase(const Unicode& unicode, char32_t c, std::string& output) {
  if (c < 0x80) {
    output.push_back(static_cast<char>(c - 'A' < 26 ? c | 0x20 : c));
    return;
  }
  const auto lower = unicode.lowercase(c);
  if (lower.empty()) append_utf8(output, c);
  for (const char32_t part : lower) append_utf8(output, part);
}

// The part of a changed text that came of the original's first character is all of it, or none.
void normalize_form(UnicodeForm form, NormalizedText& text, NormalizerScratch& scratch) {
  if (text.from_start == 0 || is_ascii(text.text)) {
    normalize(form, text.text, scratch.points);
    return;
  }
  // It ends where the rest begins to normalize alone.
  scratch.text.assign(text.text, 0, text.from_start);
  normalize(form, scratch.text, scratch.points);
  text.from_start = scratch.text.size();
  normalize(form, text.text, scratch.points);
}

class Form : public Normalizer {
 public:
  explicit Form(UnicodeForm form) : form_(form) {}
  void run(NormalizedText& text, NormalizerScratch& scratch) const override { normalize_form(form_, text, scratch); }

 private:
  UnicodeForm form_;
};

class Lowercase : public Normalizer {
 public:
  void run(NormalizedText& text, NormalizerScratch& scratch) const override {
    rewrite(text, scratch, [&](char32_t c, std::string& output) { append_lowercase(Unicode::get(), c, output); });
  }
};

class StripAccents : public Normalizer {
 public:
  void run(NormalizedText& text, NormalizerScratch& scratch) const override {
    const Unicode& unicode = Unicode::get();
    rewrite(text, scratch, [&](char32_t c, std::string& output) {
      if (!unicode.is(c, kMark)) append_utf8(output, c);
    });
  }
};

// The blocks that BERT takes for Chinese characters; some extensions are left out, as in the reference.
bool is_chinese(char32_t c) {
  static constexpr char32_t blocks[][2] = {{0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df},
                                           {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf},
                                           {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};
  for (const auto& [first, last] : blocks) {
    if (c >= first && c <= last) return true;
  }
  return false;
}

class Bert : public Normalizer {
 public:
  explicit Bert(Fields& fields)
      : clean_(fields.boolean("clean_text")),
        chinese_(fields.boolean("handle_chinese_chars")),
        lowercase_(fields.boolean("lowercase")),
        strip_(fields.has("strip_accents") ? fields.boolean("strip_accents") : lowercase_) {}

  void run(NormalizedText& text, NormalizerScratch& scratch) const override {
    const Unicode& unicode = Unicode::get();
    if (clean_ || chinese_) {
      rewrite(text, scratch, [&](char32_t c, std::string& output) {
        if (clean_ && unicode.is(c, kRemoved)) return;
        if (clean_ && unicode.is(c, kWhitespace)) c = ' ';
        if (!chinese_ || !is_chinese(c)) {
          append_utf8(output, c);
          return;
        }
        output.push_back(' ');
        append_utf8(output, c);
        output.push_back(' ');
      });
    }
    if (strip_) normalize_form(UnicodeForm::kNfd, text, scratch);
    if (strip_ || lowercase_) {
      rewrite(text, scratch, [&](char32_t c, std::string& output) {
        if (strip_ && unicode.is(c, kNonspacing)) return;
        lowercase_ ? append_lowercase(unicode, c, output) : append_utf8(output, c);
      });
    }
  }

 private:
  bool clean_, chinese_, lowercase_, strip_;
};

// Bytes of the first `count` code points.
size_t first_points(std::string_view text, size_t count) {
  size_t at = 0;
  for (; count > 0 && at < text.size(); --count) at += utf8_length(text[at]);
  return at;
}

class Precompiled : public Normalizer {
 public:
  explicit Precompiled(Fields& fields) : map_(fields.string("precompiled_charsmap")) {}

  // An entry applies to a whole grapheme where that is short, else to each of its code points.
  void run(NormalizedText& text, NormalizerScratch& scratch) const override {
    constexpr size_t longest = 5;
    std::string& output = scratch.text;
    output.clear();
    size_t from_start = 0, at = 0;
    bool extra = false;  // whether the last code point written was one beyond its entry's own
    // Each code point stands for the next one of the text, those beyond an entry's own for its last. What is dropped at
    // the very beginning is not counted, so that what follows stands for it; what is dropped later is stood for by the
    // code point before it, if that was one beyond.
    const auto add = [&](std::string_view part, std::string_view content) {
      if (at >= text.from_start) {
        if (content.empty() && extra) from_start -= std::min(from_start, output.size() - last_point(output));
        extra = false;
      } else if (!(output.empty() && content.empty())) {
        const auto rest = std::string_view(text.text).substr(at);
        const auto replaced = rest.substr(0, first_points(rest, count_points(part)));
        const size_t start = std::min(replaced.size(), text.from_start - at);
        const size_t points = start == replaced.size() ? SIZE_MAX : count_points(replaced.substr(0, start));
        from_start = output.size() + first_points(content, points);
        at += replaced.size();
        extra = points == SIZE_MAX && count_points(content) > count_points(part);
      }
      output.append(content);
    };
    Graphemes graphemes(text.text);
    for (std::string_view cluster = graphemes.next(); !cluster.empty(); cluster = graphemes.next()) {
      if (cluster.size() <= longest) {
        if (const auto content = map_.find(cluster)) {
          add(cluster, *content);
          continue;
        }
      }
      for (size_t i = 0; i < cluster.size();) {
        const auto part = cluster.substr(i, utf8_length(cluster[i]));
        add(part, map_.find(part).value_or(part));
        i += part.size();
      }
    }
    text.from_start = from_start;
    text.text.swap(output);
  }

 private:
  Charsmap map_;
};

// Of a string, or of two spaces and more.
class Replace : public Normalizer {
 public:
  explicit Replace(Fields& fields) : content_(fields.string("content")) {
    Fields pattern = fields.child("pattern");
    if (pattern.has("Regex")) {
      if (pattern.string("Regex") != " {2,}") pattern.wrong("Regex", "\" {2,}\", the only one this library knows");
    } else {
      pattern_ = pattern.string("String");
      if (pattern_.empty()) pattern.wrong("String", "at least one character");
    }
    pattern.finish();
  }

  void run(NormalizedText& text, NormalizerScratch& scratch) const override {
    const std::string& input = text.text;
    std::string& output = scratch.text;
    output.clear();
    size_t from_start = 0, done = 0;
    const auto copy = [&](size_t end) {
      if (done < text.from_start) from_start = output.size() + std::min(end, text.from_start) - done;
      output.append(input, done, end - done);
    };
    while (true) {
      const size_t begin = input.find(pattern_.empty() ? "  " : pattern_, done);
      if (begin == std::string::npos) break;
      const size_t end =
          pattern_.empty() ? std::min(input.find_first_not_of(' ', begin), input.size()) : begin + pattern_.size();
      copy(begin);
      output.append(content_);
      if (end <= text.from_start) from_start = output.size();
      done = end;
    }
    copy(input.size());
    text.from_start = from_start;
    text.text.swap(output);
  }

 private:
  std::string content_, pattern_;  // an empty pattern: two spaces and more
};

class Strip : public Normalizer {
 public:
  explicit Strip(Fields& fields) : left_(fields.boolean("strip_left")), right_(fields.boolean("strip_right")) {}

  void run(NormalizedText& text, NormalizerScratch& /*scratch*/) const override {
    const Unicode& unicode = Unicode::get();
    size_t begin = 0, end = 0;  // of what is kept
    bool any = false;
    for (size_t at = 0; at < text.text.size();) {
      const size_t before = at;
      if (unicode.is(decode_utf8(text.text, at), kWhitespace)) continue;
      if (!any) begin = before;
      any = true;
      end = at;
    }
    if (!left_) begin = 0;
    if (!any) begin = end = left_ ? text.text.size() : 0;
    if (right_) text.text.erase(end);
    begin = std::min(begin, text.text.size());
    text.text.erase(0, begin);
    text.from_start = std::min(text.from_start - std::min(begin, text.from_start), text.text.size());
  }

 private:
  bool left_, right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(Fields& fields) : content_(fields.string("prepend")) {}

  void run(NormalizedText& text, NormalizerScratch& /*scratch*/) const override {
    if (text.text.empty()) return;
    text.text.insert(0, content_);
    if (text.from_start > 0) text.from_start += content_.size();
  }

 private:
  std::string content_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(Fields& fields) {
    const auto& steps = fields.array("normalizers");
    for (size_t i = 0; i < steps.size(); ++i) {
      steps_.push_back(read_normalizer({steps[i], concat(fields.path(), ".normalizers[", i, "]")}));
    }
  }

  void run(NormalizedText& text, NormalizerScratch& scratch) const override {
    for (const auto& step : steps_) step->run(text, scratch);
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> steps_;
};

std::unique_ptr<const Normalizer> make(Fields& fields) {
  const std::string type = fields.type();
  if (type == "Sequence") return std::make_unique<Sequence>(fields);
  if (type == "BertNormalizer") return std::make_unique<Bert>(fields);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "NFC") return std::make_unique<Form>(UnicodeForm::kNfc);
  if (type == "NFD") return std::make_unique<Form>(UnicodeForm::kNfd);
  if (type == "NFKC") return std::make_unique<Form>(UnicodeForm::kNfkc);
  if (type == "NFKD") return std::make_unique<Form>(UnicodeForm::kNfkd);
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "Precompiled") return std::make_unique<Precompiled>(fields);
  if (type == "Replace") return std::make_unique<Replace>(fields);
  if (type == "Strip") return std::make_unique<Strip>(fields);
  if (type == "Prepend") return std::make_unique<Prepend>(fields);
  fields.wrong(
      "type",
      "Sequence, BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, StripAccents, Precompiled, Replace, Strip or "
      "Prepend");
}

}  // namespace

std::unique_ptr<const Normalizer> read_normalizer(Fields fields) {
  auto normalizer = make(fields);
  fields.finish();
  return normalizer;
}

}  // namespace mmedge
