#include "region.h"

#include <algorithm>

#include "js_value.h"

namespace asof {
namespace {

constexpr size_t kNumbers = 8;           // ROW of src/block/region.ts
constexpr size_t kMaxRows = 1 << 20;     // a window of 64 MiB in sectors of 512 bytes has 131,072
constexpr size_t kMaxReason = 500;       // bytes of one sentence
constexpr size_t kNodeBytes = 160;       // of the map's node and the counts of the shared pointer

// One run from `n`; its start is filled in by the caller. Null where it is one, else what is wrong with it.
const char* DecodeRow(const double* n, uint32_t files, size_t reasons, Row* row, uint64_t* length) {
  uint64_t kind, file, offset, packed, codec, unpacked, skip;
  if (!ToInteger(n[0], kKinds - 1, &kind)) return "an unknown kind";
  if (!ToInteger(n[1], kMaxOffset, length) || *length == 0) return "a length out of range";
  *row = Row{};
  row->kind = kind;
  switch (static_cast<Kind>(kind)) {
    case Kind::kZero:
      return nullptr;
    case Kind::kBad:
      if (reasons == 0 || !ToInteger(n[4], reasons - 1, &packed)) return "no reason";
      row->packed_length = static_cast<uint32_t>(packed);
      return nullptr;
    case Kind::kData:
    case Kind::kPacked:
      break;
  }
  if (files == 0 || !ToInteger(n[2], files - 1, &file)) return "an unknown file";
  if (!ToInteger(n[3], kMaxOffset, &offset)) return "a file offset out of range";
  row->file = static_cast<uint32_t>(file);
  row->offset = offset;
  if (static_cast<Kind>(kind) == Kind::kData) {
    return *length <= kMaxOffset - offset ? nullptr : "a file offset out of range";
  }
  if (!ToInteger(n[4], kMaxBlock, &packed) || packed == 0) return "a packed length out of range";
  if (!ToInteger(n[5], kCodecs - 1, &codec)) return "an unknown codec";
  if (!ToInteger(n[6], kMaxBlock, &unpacked) || unpacked == 0) return "an unpacked length out of range";
  if (!ToInteger(n[7], unpacked, &skip) || *length > unpacked - skip) return "a run beyond its block";
  row->packed_length = static_cast<uint32_t>(packed);
  row->codec = codec;
  row->unpacked_length = static_cast<uint32_t>(unpacked);
  row->skip = static_cast<uint32_t>(skip);
  return nullptr;
}

}  // namespace

size_t Region::RowAt(uint64_t offset) const {
  auto after = std::upper_bound(rows.begin(), rows.end(), offset,
                                [](uint64_t value, const Row& row) { return value < row.start; });
  return static_cast<size_t>(after - rows.begin()) - 1;
}

size_t Region::Bytes() const {
  size_t bytes = sizeof(Region) + kNodeBytes + rows.capacity() * sizeof(Row);
  for (const auto& reason : reasons) bytes += sizeof(std::string) + reason.capacity();
  return bytes;
}

std::shared_ptr<const Region> DecodeRegion(RawRegion answer, uint64_t asked, uint64_t size, uint32_t files,
                                           std::string* why) {
  auto wrong = [why](const std::string& what) {
    *why = "the map of the image is not usable: " + what;
    return nullptr;
  };
  size_t count = answer.count / kNumbers;
  if (count == 0 || count > kMaxRows || answer.count % kNumbers != 0 || answer.reasons.size() > count) {
    return wrong("a region of " + std::to_string(answer.count) + " numbers");
  }
  auto region = std::make_shared<Region>();
  uint64_t at;
  if (!ToInteger(answer.start, kMaxOffset, &at) || at > asked) return wrong("a region that begins elsewhere");
  region->start = at;
  region->rows.resize(count);
  for (size_t i = 0; i < count; ++i) {
    uint64_t length;
    Row* row = &region->rows[i];
    if (auto what = DecodeRow(answer.numbers + i * kNumbers, files, answer.reasons.size(), row, &length)) {
      return wrong(what);
    }
    if (at >= size || length > size - at) return wrong("a run beyond the end of the disk");
    row->start = at;
    at += length;
  }
  if (at <= asked) return wrong("a region that ends before what was asked for");
  region->end = at;
  for (auto& reason : answer.reasons) {
    if (reason.size() > kMaxReason) reason.resize(kMaxReason);
    reason.shrink_to_fit();
  }
  region->reasons = std::move(answer.reasons);
  return region;
}

}  // namespace asof
