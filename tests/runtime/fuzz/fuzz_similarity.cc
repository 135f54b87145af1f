// Searches over galleries of every type, metric, stride and size, in buffers exactly as large as they claim.
#include <set>
#include <vector>

#include "reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader reader(data, size);
  const auto flags = reader.number<uint8_t>();
  mme_search search{};
  search.struct_size = sizeof search;
  search.metric = flags & 1 ? reader.number<int8_t>() : static_cast<int32_t>(reader.within(0, 2));
  constexpr int32_t kTypes[] = {MME_FLOAT32, MME_FLOAT16, MME_INT8};
  search.data_type = flags & 2 ? reader.number<int8_t>() : kTypes[reader.within(0, 2)];
  search.rows = reader.within(0, 300);
  search.dimension = reader.within(0, 200);
  const size_t element = search.data_type == MME_FLOAT32 ? 4 : search.data_type == MME_FLOAT16 ? 2 : 1;
  const size_t row = search.dimension * element;
  search.row_stride = flags & 4 ? reader.within(0, 2000) : flags & 8 ? row + reader.within(0, 9) * element : 0;
  search.scale = flags & 16 ? reader.number<float>() : 0.5F;
  const size_t k = flags & 32 ? reader.within(0, 400) : reader.within(1, 10);
  const size_t stride = search.row_stride ? search.row_stride : row;
  const size_t bytes = search.rows == 0 ? 0 : (search.rows - 1) * stride + row;
  const auto gallery = reader.buffer(bytes);
  const bool raw = flags & 64;
  if (!raw && search.data_type == MME_FLOAT32) {
    for (size_t at = 0; at + sizeof(float) <= bytes; at += sizeof(float)) {
      const auto value = static_cast<float>(static_cast<int8_t>(gallery[at]));
      std::memcpy(gallery.get() + at, &value, sizeof value);
    }
  } else if (!raw && search.data_type == MME_FLOAT16) {
    for (size_t at = 1; at < bytes; at += 2) gallery[at] &= 0xbf;  // no exponent of infinity or NaN
  }
  search.gallery = gallery.get();
  std::vector<float> query(search.dimension);
  for (float& value : query) value = raw ? reader.number<float>() : reader.number<int8_t>();
  std::vector<int64_t> indices(k, -1);
  std::vector<float> scores(k);
  size_t found = 0;
  if (!succeeded(mme_similarity_top_k(&search, query.data(), k, indices.data(), scores.data(), &found))) return 0;
  require(found == (k < search.rows ? k : search.rows), "min(k, rows) are found");
  std::set<int64_t> distinct;
  for (size_t i = 0; i < found; ++i) {
    require(indices[i] >= 0 && static_cast<size_t>(indices[i]) < search.rows, "an index is a row");
    require(distinct.insert(indices[i]).second, "a row is found once");
    if (i == 0 || raw) continue;
    const bool ordered = search.metric == MME_EUCLIDEAN ? scores[i - 1] <= scores[i] : scores[i - 1] >= scores[i];
    require(ordered, "best first");
    require(scores[i - 1] != scores[i] || indices[i - 1] < indices[i], "equal scores by row");
  }
  return 0;
}
