// Taking a store up: docs/formats.md, "Recovery". What can be told for certain is restored; what cannot makes the
// snapshots invalid, with the reason.
#include <algorithm>
#include <cerrno>

#include "cow_journal.h"
#include "cow_store.h"

namespace asof::cow {

class Recovery {
 public:
  Recovery(Store* store, File* origin, Recovered* out) : store_(*store), journal_(*store->journal_), origin_(*origin), out_(*out) {}

  int Create(std::string* why) {
    Superblock super;
    super.chunk_size = store_.options_.chunk_size;
    super.volume = store_.options_.volume;
    super.volume_size = store_.options_.volume_size;
    super.crc = super.Sum();
    uint8_t block[kHeader] = {};
    memcpy(block, &super, sizeof super);
    int err = store_.file_->Write(0, kHeader, block);
    if (err == 0 && store_.options_.persistent) err = store_.SyncAll();
    if (err != 0) *why = std::string("the store cannot be written: ") + strerror(err);
    return err;
  }

  int Load(std::string* why) {
    int err = CheckSuperblock(why);
    if (err == 0) err = ReadHeaders(why);
    if (err == 0) err = ReadJournal(why);
    if (err == 0) err = SettleCopies(why);
    return err;
  }

 private:
  struct Copy {
    uint32_t slot;
    SlotHeader header;
  };
  struct Record {
    RecordKind kind;
    uint64_t sequence;
    uint32_t segment;
    Journal::Payload payload;
  };

  static int Fail(std::string* why, int err, const std::string& what) {
    *why = what;
    return err;
  }

  int CheckSuperblock(std::string* why) {
    Superblock super;
    uint8_t block[sizeof super];
    if (int err = store_.file_->Read(0, sizeof block, block)) return Fail(why, err, std::string("the store cannot be read: ") + strerror(err));
    memcpy(&super, block, sizeof super);
    const StoreOptions& want = store_.options_;
    if (super.magic != kSuperMagic) return Fail(why, EINVAL, "the file is not a copy-on-write store, and not empty");
    if (super.version != 1) return Fail(why, EINVAL, "the store has version " + std::to_string(super.version) + "; version 1 can be read");
    if (super.crc != super.Sum()) return Fail(why, EINVAL, "the store's first block is damaged");
    if (super.volume != want.volume) return Fail(why, EINVAL, "the store belongs to volume " + UuidText(super.volume) + ", not " + UuidText(want.volume));
    if (super.chunk_size != want.chunk_size) {
      return Fail(why, EINVAL, "the store has chunks of " + std::to_string(super.chunk_size) + " bytes, not " + std::to_string(want.chunk_size));
    }
    if (super.volume_size != want.volume_size) {
      return Fail(why, EINVAL, "the store is of a volume of " + std::to_string(super.volume_size) + " bytes, not " + std::to_string(want.volume_size));
    }
    return 0;
  }

  int ReadHeaders(std::string* why) {
    uint64_t size = 0;
    if (int err = store_.file_->Size(&size)) return Fail(why, err, "the store's size is unknown");
    const uint64_t slot_size = store_.SlotSize();
    const auto slots = size <= kHeader ? 0 : static_cast<uint32_t>((size - kHeader + slot_size - 1) / slot_size);
    store_.end_ = slots;
    alignas(8) uint8_t block[kHeader];
    for (uint32_t slot = 0; slot < slots;) {
      size_t got = 0;
      if (int err = store_.file_->ReadSome(store_.At(slot), kHeader, block, &got)) {
        Rot("slot " + std::to_string(slot) + " of the store cannot be read: " + strerror(err));
        stale_.push_back(slot);
        slot++;
        continue;
      }
      memset(block + got, 0, kHeader - got);
      SlotHeader header;
      memcpy(&header, block, sizeof header);
      if (header.Valid(store_.options_.volume) && header.kind == SlotKind::kJournal && header.span == store_.SegmentSpan()) {
        segments_.push_back({slot, static_cast<uint32_t>((header.span * slot_size - kHeader) / kHeader), 0});
        store_.sequence_ = std::max(store_.sequence_, header.sequence);
        max_landed_ = std::max(max_landed_, header.landed);
        slot += header.span;
        store_.end_ = std::max(store_.end_, slot);
        continue;
      }
      if (header.Valid(store_.options_.volume) && header.kind == SlotKind::kCopy) {
        copies_.push_back({slot, header});
        store_.sequence_ = std::max(store_.sequence_, header.sequence);
        max_landed_ = std::max(max_landed_, header.landed);
      } else {
        // A record here is what a segment left that was given back.
        if (!AllZero(block, 512) && !IsRecord(block, nullptr)) Rot("slot " + std::to_string(slot) + " of the store is damaged: what it held is unknown");
        // Zeroed again where need be, so that one finding is reported once.
        (AllZero(block, 512) ? free_ : stale_).push_back(slot);
      }
      slot++;
    }
    return 0;
  }

  bool IsRecord(const uint8_t* block, Record* record) const {
    RecordHeader header;
    memcpy(&header, block, sizeof header);
    if (header.magic != kRecordMagic || header.volume != store_.options_.volume || header.length > kMaxPayload) return false;
    if (Crc32c(block + sizeof header, header.length, Crc32c(&header, offsetof(RecordHeader, crc))) != header.crc) return false;
    if (record) *record = {header.kind, header.sequence, 0, Journal::Payload(block + sizeof header, block + sizeof header + header.length)};
    return true;
  }

  int ReadJournal(std::string* why) {
    std::vector<Record> records;
    for (uint32_t s = 0; s < segments_.size(); s++) {
      Journal::Segment& segment = segments_[s];
      std::vector<uint8_t> blocks(segment.blocks * kHeader);
      size_t got = 0;
      if (int err = store_.file_->ReadSome(store_.At(segment.slot) + kHeader, blocks.size(), blocks.data(), &got)) {
        return Fail(why, err, std::string("the store's journal cannot be read: ") + strerror(err));
      }
      for (uint32_t i = 0; i < segment.blocks; i++) {
        Record record;
        if (!IsRecord(blocks.data() + i * kHeader, &record)) continue;
        record.segment = s;
        segment.used = i + 1;
        records.push_back(std::move(record));
      }
    }
    std::sort(records.begin(), records.end(), [](const Record& a, const Record& b) { return a.sequence < b.sequence; });
    uint64_t base = 1;
    for (const Record& record : records) {
      if (record.kind == RecordKind::kRewriteEnd && record.payload.size() == 8) memcpy(&base, record.payload.data(), 8);
    }
    uint64_t next = base;
    std::vector<bool> current(segments_.size());
    const Record* last = nullptr;
    uint32_t last_segment = 0;
    for (const Record& record : records) {
      if (record.sequence < base) continue;
      if (record.sequence != next) Break("record " + std::to_string(next) + " of the store's journal is missing");
      next = record.sequence + 1;
      current[record.segment] = true;
      last = &record;
      last_segment = record.segment;
      journal_.Apply(record.kind, record.payload);
      if (record.kind == RecordKind::kClose && record.payload.size() >= 4) Epoch(record.payload);
    }
    journal_.sequence_ = next - 1;
    // Nothing at all: the process ended between the first block and the first record. No snapshot was there.
    out_.clean = !last || last->kind == RecordKind::kClose;
    if (journal_.open_.size() >= 24) {
      Epoch(journal_.open_);
      uint32_t power = 0;
      memcpy(&power, journal_.open_.data() + 4, 4);
      const bool rebooted = memcmp(journal_.open_.data() + 8, store_.options_.boot.data(), 16) != 0;
      if (!out_.clean && rebooted && power == 0) {
        out_.forgot = "the machine stopped while the volume was in use, and the policy `process` does not outlast that";
        Break(out_.forgot);
      }
    }
    for (uint32_t s = 0; s < segments_.size(); s++) {
      if (current[s]) {
        if (s != last_segment) journal_.segments_.push_back(segments_[s]);
        store_.used_ += store_.SegmentSpan();
      } else {
        for (uint32_t i = 0; i < store_.SegmentSpan(); i++) stale_.push_back(segments_[s].slot + i);
      }
    }
    if (last) journal_.segments_.push_back(segments_[last_segment]);
    return 0;
  }

  void Epoch(const Journal::Payload& payload) {
    uint32_t epoch = 0;
    memcpy(&epoch, payload.data(), 4);
    out_.epoch = std::max(out_.epoch, epoch);
  }

  void Rot(const std::string& why) {
    Break(why);
    if (out_.rot.empty()) out_.rot = why;
  }

  void Break(const std::string& why) {
    if (out_.why_break.empty()) out_.why_break = why;
  }

  bool Needed(const SlotHeader& header) const {
    for (const auto& [id, snapshot] : journal_.snapshots_) {
      if (!snapshot.created || snapshot.deleted || snapshot.error != 0) continue;
      if (snapshot.epoch >= header.from && snapshot.epoch <= header.to && !snapshot.released.Has(header.chunk)) return true;
    }
    return false;
  }

  // Does what the slot holds match its checksums?
  bool Whole(const Copy& copy) {
    std::vector<uint8_t> slot(kHeader + copy.header.length);
    if (copy.header.length > store_.options_.chunk_size || store_.file_->Read(store_.At(copy.slot), slot.size(), slot.data()) != 0) return false;
    return TableOf(slot.data() + kHeader, copy.header.length) == copy.header.table_crc &&
           Crc32c(slot.data() + kTableAt, (copy.header.length + kSum - 1) / kSum * 4) == copy.header.table_crc;
  }

  bool OriginHolds(const SlotHeader& header) {
    std::vector<uint8_t> chunk(header.length);
    if (origin_.Read(header.chunk * store_.options_.chunk_size, header.length, chunk.data()) != 0) return false;
    return TableOf(chunk.data(), header.length) == header.table_crc;
  }

  static uint32_t TableOf(const uint8_t* data, size_t length) {
    std::vector<uint32_t> sums((length + kSum - 1) / kSum);
    Crc32cBlocks(data, length, sums.data());
    return Crc32c(sums.data(), sums.size() * 4);
  }

  int SettleCopies(std::string*) {
    if (!out_.why_break.empty()) {
      for (auto& [id, snapshot] : journal_.snapshots_) {
        if (snapshot.error != 0 || snapshot.deleted) continue;
        snapshot.error = EIO;
        snapshot.why = out_.why_break;
      }
    }
    for (const auto& [id, snapshot] : journal_.snapshots_) out_.epoch = std::max(out_.epoch, snapshot.epoch + 1);
    const uint64_t chunks = (store_.options_.volume_size + store_.options_.chunk_size - 1) / store_.options_.chunk_size;
    // The later of two equal copies is the one whose write was acknowledged.
    std::sort(copies_.begin(), copies_.end(), [](const Copy& a, const Copy& b) { return a.header.sequence > b.header.sequence; });
    for (const Copy& copy : copies_) {
      const SlotHeader& header = copy.header;
      out_.epoch = std::max(out_.epoch, header.to + 1);
      bool keep = header.chunk < chunks && Needed(header);
      if (keep && !out_.clean && header.sequence > max_landed_ && !Whole(copy)) {
        if (OriginHolds(header)) {
          out_.torn++;
          stale_.push_back(copy.slot);
          continue;  // the write did not happen
        }
        out_.damaged++;
      }
      if (keep) keep = store_.index_.Insert(header.chunk, header.from, header.to, copy.slot);
      if (keep) {
        store_.used_++;
        out_.copies++;
      } else {
        stale_.push_back(copy.slot);
        if (header.chunk < chunks) out_.dropped.emplace_back(header.chunk, header.to + 1);
      }
    }
    for (uint32_t slot : free_) store_.AddFree(slot, 1);
    store_.landed_ = store_.sequence_;
    return 0;
  }

 public:
  // The rest is written only when all could be read.
  int Start(uint32_t epoch, std::string* why) {
    int err = store_.options_.power || !out_.clean ? store_.SyncAll() : 0;
    // What was found wrong goes on record before it is mended: all the breaks at once, in a journal without gaps.
    if (err == 0 && !out_.why_break.empty()) {
      const std::lock_guard lock(journal_.mu_);
      err = journal_.Rewrite(true);
    }
    if (err == 0) err = journal_.Open(epoch);
    // Whatever the policy: where this record was lost with the power, the store would look as it did after its last clean stop.
    if (err == 0 && store_.options_.persistent) err = store_.SyncAll();
    if (err != 0) return Fail(why, err, std::string("the store cannot be written: ") + strerror(err));
    store_.used_ += stale_.size();
    store_.FreeNow(std::move(stale_));
    out_.snapshots = journal_.snapshots_;
    return 0;
  }

 private:
  Store& store_;
  Journal& journal_;
  File& origin_;
  Recovered& out_;
  std::vector<Journal::Segment> segments_;
  std::vector<Copy> copies_;
  std::vector<uint32_t> free_;
  std::vector<uint32_t> stale_;  // to be zeroed
  uint64_t max_landed_ = 0;
};

int Store::Open(std::unique_ptr<File> file, const StoreOptions& options, File* origin, const Settle& settle,
                std::shared_ptr<Store>* store, Recovered* recovered, std::string* why) {
  std::shared_ptr<Store> made(new Store(std::move(file), options));
  if (int err = made->TakeOver(why)) return err;
  const int err = made->TakeUp(origin, settle, recovered, why);
  // What was begun may still be under way: nobody else has the file before that has ended.
  if (err != 0) {
    made->Shut();
  } else {
    *store = std::move(made);
  }
  return err;
}

int Store::TakeUp(File* origin, const Settle& settle, Recovered* recovered, std::string* why) {
  journal_ = std::make_unique<Journal>(this);
  Recovery recovery(this, origin, recovered);
  uint8_t super[kHeader];
  size_t got = 0;
  if (int err = file_->ReadSome(0, kHeader, super, &got)) {
    *why = std::string("the store cannot be read: ") + strerror(err);
    return err;
  }
  // A first block of zeros is a store whose making was cut short: nothing was ever promised on it.
  const bool fresh = got == 0 || (got == kHeader && AllZero(super, kHeader));
  recovered->existed = !fresh;
  if (int err = fresh ? recovery.Create(why) : recovery.Load(why)) return err;
  // After a stop in the middle of an epoch the next one begins, so that what was written before is told from what is now.
  recovered->epoch = std::max<uint32_t>(recovered->epoch, 1) + (recovered->clean ? 0 : 1);
  recovered->journal = journal_->Sequence();
  if (int err = settle(recovered, why)) return err;
  return recovery.Start(recovered->epoch, why);
}

}  // namespace asof::cow
