// How a text is split before the model sees it: the "pre_tokenizer" of a tokenizer file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/fields.h"

namespace mmedge {

// A part of a text, or a token that was found in it already.
struct Piece {
  size_t begin, size;
  size_t from_start;   // as NormalizedText has it, of this piece
  int32_t token = -1;  // -1: still to be split
};

struct PieceList {
  std::string text;
  std::vector<Piece> pieces;

  void clear() {
    text.clear();
    pieces.clear();
  }
  std::string_view text_of(const Piece& piece) const { return std::string_view(text).substr(piece.begin, piece.size); }
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Splits every piece that is no token. `scratch` is memory to reuse.
  virtual void run(PieceList& list, PieceList& scratch) const = 0;
};

// Throws MME_INVALID_ARGUMENT naming what is not known.
std::unique_ptr<const PreTokenizer> read_pre_tokenizer(Fields fields);

}  // namespace mmedge
