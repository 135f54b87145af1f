// What is done to a text before it is split: the "normalizer" of a tokenizer file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizer/fields.h"

namespace mmedge {

// A text on its way, with how much of it came of the original's first character: Metaspace's prepend_scheme "first"
// asks where a piece stood there.
struct NormalizedText {
  std::string text;
  size_t from_start = 0;
};

// Memory that normalizing reuses.
struct NormalizerScratch {
  std::string text;
  std::vector<uint64_t> points;
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void run(NormalizedText& text, NormalizerScratch& scratch) const = 0;
};

// Throws MME_INVALID_ARGUMENT naming what is not known.
std::unique_ptr<const Normalizer> read_normalizer(Fields fields);

}  // namespace mmedge
