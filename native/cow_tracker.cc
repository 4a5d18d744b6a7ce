#include "cow_tracker.h"

#include <algorithm>
#include <cerrno>

namespace asof::cow {
namespace {

constexpr uint64_t kMagic = 0x314b5254464f5341;  // "ASOFTRK1"
constexpr uint32_t kTableMagic = 0x47455241;     // "AREG"
constexpr size_t kEntries = 1000;
constexpr size_t kMaxWhy = 400;

struct Header {
  uint64_t magic = kMagic;
  uint32_t version = 1;
  uint32_t chunk_size = 0;
  Uuid volume{};
  uint64_t volume_size = 0;
  uint64_t sequence = 0;
  uint32_t region_size = 0;
  uint32_t epoch = 0;
  uint32_t clean = 0;
  uint32_t since = 0;
  uint32_t table = 0;
  uint32_t area = 0;
  uint64_t map_bytes = 0;
  uint32_t map_crc = 0;
  uint32_t why_length = 0;
  uint64_t journal = 0;
  uint32_t void_epoch = 0;
  uint32_t crc = 0;
};
static_assert(offsetof(Header, crc) == 100);
constexpr size_t kWhyAt = 104;

struct TableBlock {
  uint32_t magic = kTableMagic;
  uint32_t table = 0;
  uint64_t sequence = 0;
  uint32_t crc = 0;
  uint32_t zero = 0;
  Uuid volume{};
  uint32_t epochs[kEntries] = {};
  uint32_t rest[14] = {};
  uint32_t Sum() const {
    const uint32_t head = Crc32c(this, offsetof(TableBlock, crc));
    return Crc32c(&zero, sizeof(TableBlock) - offsetof(TableBlock, zero), head);
  }
};
static_assert(sizeof(TableBlock) == kHeader);

struct SavedPage {
  uint64_t number;
  uint32_t generations[ChunkMap::kPage];
};

}  // namespace

Tracker::Tracker(std::unique_ptr<File> file, const TrackerOptions& options)
    : file_(std::move(file)),
      options_(options),
      regions_((options.volume_size + options.region_size - 1) / options.region_size),
      blocks_((regions_ + kEntries - 1) / kEntries),
      sync_(file_ ? std::make_unique<GroupSync>(file_.get()) : nullptr),
      noted_(new std::atomic<uint32_t>[regions_]()),
      pending_(regions_),
      block_sequence_(blocks_),
      block_place_(blocks_) {}

Tracker::~Tracker() = default;

uint64_t Tracker::MapAt(uint32_t area) const {
  const uint64_t chunks = (options_.volume_size + options_.chunk_size - 1) / options_.chunk_size;
  const uint64_t most = ((chunks / ChunkMap::kPage + 2) * sizeof(SavedPage) + regions_ * 8 + 2 * kHeader - 1) / kHeader * kHeader;
  return TableAt(blocks_, 0) + (area - 1) * most;
}

int Tracker::Lock(std::string* why) {
  if (!file_) return 0;
  std::string who;
  int err = tenure_.Take(file_->Identity(), kPatienceMs, &who);
  if (err != 0) {
    *why = "the tracker's file is in use: " + who;
    return err;
  }
  err = file_->Lock(&who);
  if (err == EBUSY) *why = "the tracker's file is locked by " + who;
  if (err != 0 && err != EBUSY) *why = std::string("the tracker's file cannot be locked: ") + strerror(err);
  return err;
}

Tracker::Found Tracker::Load(ChunkMap* map, std::string* why) {
  if (!file_) return Found::kNone;
  uint8_t blocks[2][kHeader] = {};
  size_t got = 0;
  if (int err = file_->ReadSome(0, 2 * kHeader, blocks[0], &got)) {
    *why = std::string("the tracker's file cannot be read: ") + strerror(err);
    return Found::kUnusable;
  }
  if (AllZero(blocks[0], 2 * kHeader)) return Found::kNone;
  Header best;
  best.sequence = 0;
  for (const auto& block : blocks) {
    Header header;
    memcpy(&header, block, sizeof header);
    if (header.magic != kMagic || header.version != 1 || header.volume != options_.volume || header.why_length > kMaxWhy) continue;
    if (Crc32c(block + kWhyAt, header.why_length, Crc32c(block, offsetof(Header, crc))) != header.crc) continue;
    if (header.sequence <= best.sequence) continue;
    best = header;
    why_.assign(reinterpret_cast<const char*>(block) + kWhyAt, header.why_length);
  }
  if (best.sequence == 0) {
    *why = "the tracker's file is damaged or of another volume";
    return Found::kUnusable;
  }
  sequence_ = best.sequence;
  epoch_ = best.epoch;
  table_ = best.table;
  if (best.chunk_size != options_.chunk_size || best.volume_size != options_.volume_size || best.region_size != options_.region_size) {
    *why = "the tracker is of a volume of " + std::to_string(best.volume_size) + " bytes in chunks of " +
           std::to_string(best.chunk_size) + ", not " + std::to_string(options_.volume_size) + " in " + std::to_string(options_.chunk_size);
    return Found::kUnusable;
  }
  since_ = best.since;
  journal_ = best.journal;
  void_epoch_ = best.void_epoch;
  std::vector<uint32_t> suspects(regions_);
  bool any = false;
  if (best.area != 0) {
    std::vector<uint8_t> saved(best.map_bytes);
    if (best.map_bytes > MapAt(2) - MapAt(1) || file_->Read(MapAt(best.area), saved.size(), saved.data()) != 0 ||
        Crc32c(saved.data(), saved.size()) != best.map_crc) {
      *why = "the tracker's saved map is damaged";
      return Found::kUnusable;
    }
    size_t at = 0;
    for (uint64_t number = 0; at + 8 <= saved.size(); at += sizeof(SavedPage)) {
      memcpy(&number, saved.data() + at, 8);
      if (number == UINT64_MAX || at + sizeof(SavedPage) > saved.size()) break;
      for (size_t i = 0; i < ChunkMap::kPage; i++) {
        uint32_t generation;
        memcpy(&generation, saved.data() + at + 8 + i * 4, 4);
        const uint64_t chunk = number * ChunkMap::kPage + i;
        if (generation != 0 && chunk * options_.chunk_size < options_.volume_size) map->Set(chunk, generation);
      }
    }
    for (at += 8; at + 8 <= saved.size(); at += 8) {
      uint32_t entry[2];
      memcpy(entry, saved.data() + at, 8);
      if (entry[0] >= regions_) continue;
      suspects[entry[0]] = entry[1];
      any = true;
    }
    area_ = best.area;
    map_bytes_ = best.map_bytes;
    map_crc_ = best.map_crc;
  }
  if (best.clean == 0) {
    for (size_t block = 0; block < blocks_; block++) {
      TableBlock kept;
      bool valid = false;
      bool garbage = false;
      for (unsigned place = 0; place < 2; place++) {
        TableBlock read;
        if (file_->ReadSome(TableAt(block, place), kHeader, reinterpret_cast<uint8_t*>(&read), &got) != 0) {
          garbage = true;
          continue;
        }
        memset(reinterpret_cast<uint8_t*>(&read) + got, 0, kHeader - got);
        if (AllZero(reinterpret_cast<uint8_t*>(&read), kHeader)) continue;
        if (read.magic != kTableMagic || read.volume != options_.volume || read.crc != read.Sum()) {
          garbage = true;
          continue;
        }
        if (valid && read.sequence < kept.sequence) continue;
        kept = read;
        valid = true;
        block_place_[block] = place;
      }
      const size_t first = block * kEntries;
      const size_t count = std::min(kEntries, regions_ - first);
      // One place torn and the other good is what a cut leaves. None good: all of it may have been written.
      for (size_t i = 0; i < count; i++) {
        const uint32_t epoch = valid ? (kept.table == table_ ? kept.epochs[i] : 0) : garbage ? epoch_ : 0;
        if (epoch > suspects[first + i]) suspects[first + i] = epoch;
        any = any || epoch != 0;
      }
    }
  }
  if (any) suspects_ = std::move(suspects);
  return best.clean != 0 ? Found::kClean : Found::kUnclean;
}

void Tracker::Distrust(uint32_t epoch, const std::string& why) {
  const std::lock_guard lock(mu_);
  since_ = epoch;
  why_ = why.substr(0, kMaxWhy);
}

int Tracker::WriteHeader(bool clean) {
  uint8_t block[kHeader] = {};
  Header header;
  header.chunk_size = options_.chunk_size;
  header.volume = options_.volume;
  header.volume_size = options_.volume_size;
  header.sequence = sequence_ + 1;
  header.region_size = options_.region_size;
  header.epoch = epoch_;
  header.clean = clean;
  header.since = since_;
  header.table = table_;
  header.area = area_;
  header.map_bytes = map_bytes_;
  header.map_crc = map_crc_;
  header.why_length = static_cast<uint32_t>(why_.size());
  header.journal = journal_;
  header.void_epoch = void_epoch_;
  memcpy(block, &header, sizeof header);
  memcpy(block + kWhyAt, why_.data(), why_.size());
  header.crc = Crc32c(block + kWhyAt, why_.size(), Crc32c(block, offsetof(Header, crc)));
  memcpy(block + offsetof(Header, crc), &header.crc, 4);
  if (int err = file_->Write((header.sequence % 2) * kHeader, kHeader, block)) return err;
  sequence_++;
  return 0;
}

int Tracker::Begin(uint32_t epoch) {
  if (!file_) return 0;
  {
    const std::lock_guard lock(mu_);
    epoch_ = epoch;
    // Old notes are in suspects_, and saved with the map; until then they must stay valid, so the table goes on.
    for (size_t i = 0; i < suspects_.size(); i++) pending_[i] = suspects_[i];
    if (suspects_.empty()) table_++;
    if (int err = WriteHeader(false)) return err;
  }
  return sync_->Commit();
}

int Tracker::SetEpoch(uint32_t epoch) {
  if (!file_) return 0;
  return Within([&] { return SetEpochNow(epoch); });
}

int Tracker::SetEpochNow(uint32_t epoch) {
  {
    const std::lock_guard lock(mu_);
    epoch_ = std::max(epoch_, epoch);
    if (int err = WriteHeader(false)) return err;
  }
  return Commit();
}

int Tracker::WriteTable(size_t block) {
  TableBlock out;
  out.table = table_;
  // Higher than before across restarts too: each start writes a header.
  out.sequence = (sequence_ << 32) + ++block_sequence_[block];
  out.volume = options_.volume;
  const size_t first = block * kEntries;
  memcpy(out.epochs, pending_.data() + first, std::min(kEntries, regions_ - first) * 4);
  out.crc = out.Sum();
  // Never over the newest good one.
  const unsigned place = 1 - block_place_[block];
  if (int err = file_->Write(TableAt(block, place), kHeader, reinterpret_cast<const uint8_t*>(&out))) return err;
  block_place_[block] = static_cast<uint8_t>(place);
  return 0;
}

int Tracker::SetVoid(uint32_t epoch) {
  if (!file_) return ENOENT;
  return Within([&] { return SetVoidNow(epoch); });
}

int Tracker::SetVoidNow(uint32_t epoch) {
  {
    const std::lock_guard lock(mu_);
    if (void_epoch_ == epoch) return 0;
    void_epoch_ = epoch;
    if (int err = WriteHeader(false)) return err;
  }
  return Commit();
}

int Tracker::Note(uint64_t first, uint64_t last, uint32_t epoch) {
  std::map<size_t, uint32_t> regions;
  for (size_t r = RegionOf(first); r <= RegionOf(last); r++) regions[r] = epoch;
  return NoteRegions(regions);
}

int Tracker::NoteRegions(const std::map<size_t, uint32_t>& regions) {
  if (!file_) return 0;
  return Within([&] { return NoteNow(regions); });
}

int Tracker::NoteNow(const std::map<size_t, uint32_t>& regions) {
  int err = 0;
  {
    const std::lock_guard lock(mu_);
    for (auto it = regions.begin(); it != regions.end() && err == 0;) {
      const size_t block = it->first / kEntries;
      bool more = false;
      for (; it != regions.end() && it->first / kEntries == block; ++it) {
        if (pending_[it->first] >= it->second) continue;
        pending_[it->first] = it->second;
        more = true;
      }
      if (more) err = WriteTable(block);
    }
  }
  // Also where another thread wrote the same note just now: its sync may not have begun.
  if (err == 0) err = Commit();
  if (err != 0) {
    // The volume goes on; a tracker that cannot be relied on must not look as if it could.
    const std::lock_guard lock(mu_);
    lost_ = true;
    file_->Truncate(0);
    file_->Sync();
    return err;
  }
  notes_.fetch_add(1, std::memory_order_relaxed);
  for (const auto& [region, epoch] : regions) {
    uint32_t before = noted_[region].load();
    while (before < epoch && !noted_[region].compare_exchange_weak(before, epoch)) {
    }
  }
  return 0;
}

int Tracker::Save(const ChunkMap& map, uint32_t epoch, uint64_t journal_mark) {
  if (!file_) return 0;
  return Within([&] { return SaveNow(map, epoch, journal_mark); });
}

int Tracker::SaveNow(const ChunkMap& map, uint32_t epoch, uint64_t journal_mark) {
  const std::lock_guard lock(mu_);
  if (lost_) return EIO;
  const uint32_t area = area_ == 1 ? 2 : 1;
  uint64_t at = MapAt(area);
  uint64_t bytes = 0;
  uint32_t crc = 0;
  const auto put = [&](const void* from, size_t length) {
    const int err = file_->Write(at, length, static_cast<const uint8_t*>(from));
    at += length;
    bytes += length;
    crc = Crc32c(from, length, crc);
    return err;
  };
  for (size_t number = 0; number < map.Pages(); number++) {
    const ChunkMap::Page* page = map.At(number);
    if (!page) continue;
    SavedPage saved;
    saved.number = number;
    for (size_t i = 0; i < ChunkMap::kPage; i++) saved.generations[i] = (*page)[i].load(std::memory_order_relaxed);
    if (int err = put(&saved, 8 + sizeof saved.generations)) return err;
  }
  std::vector<uint32_t> tail{UINT32_MAX, UINT32_MAX};
  for (size_t region = 0; region < suspects_.size(); region++) {
    if (suspects_[region] == 0) continue;
    tail.push_back(static_cast<uint32_t>(region));
    tail.push_back(suspects_[region]);
  }
  if (int err = put(tail.data(), tail.size() * 4)) return err;
  if (int err = sync_->Commit()) return err;
  const uint32_t before = area_;
  area_ = area;
  map_bytes_ = bytes;
  map_crc_ = crc;
  epoch_ = epoch;
  journal_ = journal_mark;
  if (int err = WriteHeader(true)) return err;
  if (int err = sync_->Commit()) return err;
  if (before != 0) file_->Zero(MapAt(before), MapAt(2) - MapAt(1), true);
  return 0;
}

std::string Tracker::Why() const {
  const std::lock_guard lock(mu_);
  return why_;
}

}  // namespace asof::cow
