// The bytes of the store: docs/formats.md, "The store". The machine is little-endian, as every one that the addon is
// built for.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "cow_checksum.h"

namespace asof::cow {

static_assert(std::endian::native == std::endian::little);

using Uuid = std::array<uint8_t, 16>;

constexpr uint64_t kHeader = 4096;  // bytes before the data of a slot; of a record; of the superblock
constexpr uint64_t kSum = 4096;     // bytes that one checksum of the table covers
constexpr uint32_t kMinChunk = 4096;
constexpr uint32_t kMaxChunk = 2 << 20;
constexpr uint64_t kSegmentBytes = 65536;  // records of a journal segment, at least

constexpr uint64_t kSuperMagic = 0x31574f43464f5341;  // "ASOFCOW1"
constexpr uint32_t kSlotMagic = 0x544c5341;           // "ASLT"
constexpr uint32_t kRecordMagic = 0x43455241;         // "AREC"

struct Superblock {
  uint64_t magic = kSuperMagic;
  uint32_t version = 1;
  uint32_t chunk_size = 0;
  Uuid volume{};
  uint64_t volume_size = 0;
  uint32_t crc = 0;
  uint32_t zero = 0;
  uint32_t Sum() const { return Crc32c(this, offsetof(Superblock, crc)); }
};

enum class SlotKind : uint16_t { kCopy = 1, kJournal = 2 };

struct SlotHeader {
  uint32_t magic = kSlotMagic;
  uint16_t version = 1;
  SlotKind kind = SlotKind::kCopy;
  Uuid volume{};
  uint64_t chunk = 0;
  uint32_t from = 0;
  uint32_t to = 0;
  uint64_t sequence = 0;
  uint64_t landed = 0;
  uint32_t length = 0;
  uint32_t table_crc = 0;
  uint32_t span = 1;
  uint32_t crc = 0;
  uint32_t Sum() const { return Crc32c(this, offsetof(SlotHeader, crc)); }
  bool Valid(const Uuid& of) const { return magic == kSlotMagic && version == 1 && crc == Sum() && volume == of; }
};
static_assert(sizeof(SlotHeader) == 72);
constexpr size_t kTableAt = 128;
static_assert(kTableAt + kMaxChunk / kSum * 4 <= kHeader);

enum class RecordKind : uint32_t {
  kOpen = 1,
  kClose = 2,
  kCreate = 3,
  kBreak = 4,
  kDelete = 5,
  kRelease = 6,
  kRewriteBegin = 7,
  kRewriteEnd = 8,
};

struct RecordHeader {
  uint32_t magic = kRecordMagic;
  RecordKind kind = RecordKind::kOpen;
  Uuid volume{};
  uint64_t sequence = 0;
  uint32_t length = 0;
  uint32_t crc = 0;
};
static_assert(sizeof(RecordHeader) == 40);
constexpr size_t kMaxPayload = kHeader - sizeof(RecordHeader);

inline bool AllZero(const uint8_t* bytes, size_t length) {
  return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

std::string UuidText(const Uuid& id);
// False where `text` is not a UUID.
bool ParseUuid(const std::string& text, Uuid* id);

}  // namespace asof::cow
