#include "cow_journal.h"

#include <algorithm>
#include <cerrno>

namespace asof::cow {
namespace {

// Segments beyond which the journal is rewritten, when most of it is history.
constexpr size_t kManySegments = 4;

template <typename T>
void Put(std::vector<uint8_t>* to, const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  to->insert(to->end(), bytes, bytes + sizeof value);
}

// Reads in order; what is past the end is zero and `bad` says so.
class Reader {
 public:
  explicit Reader(const std::vector<uint8_t>& from) : from_(from) {}
  template <typename T>
  T Get() {
    T value{};
    if (from_.size() - at_ < sizeof value) {
      bad = true;
    } else {
      memcpy(&value, from_.data() + at_, sizeof value);
      at_ += sizeof value;
    }
    return value;
  }
  std::string Text(size_t length) {
    length = std::min(length, from_.size() - at_);
    std::string text(reinterpret_cast<const char*>(from_.data()) + at_, length);
    at_ += length;
    return text;
  }
  bool bad = false;

 private:
  const std::vector<uint8_t>& from_;
  size_t at_ = 0;
};

}  // namespace

Journal::Payload Journal::CreatePayload(const Uuid& id, const SnapshotRecord& snapshot) {
  Payload payload;
  Put(&payload, id);
  Put(&payload, snapshot.epoch);
  Put(&payload, snapshot.group_size);
  Put(&payload, snapshot.time_ms);
  Put(&payload, snapshot.group);
  Put(&payload, snapshot.hold_ns);
  Put(&payload, snapshot.switch_ns);
  return payload;
}

Journal::Payload Journal::BreakPayload(const Uuid& id, int error, const std::string& why) {
  // So long that the record lies within one sector: it is there whole or not at all.
  const size_t length = std::min<size_t>(why.size(), 400);
  Payload payload;
  Put(&payload, id);
  Put(&payload, static_cast<uint32_t>(error));
  Put(&payload, static_cast<uint32_t>(length));
  payload.insert(payload.end(), why.begin(), why.begin() + static_cast<ptrdiff_t>(length));
  return payload;
}

std::vector<Journal::Payload> Journal::ReleasePayloads(const Uuid& id, const Ranges& ranges) {
  constexpr size_t kRuns = (kMaxPayload - 24) / 16;
  std::vector<Payload> payloads;
  auto it = ranges.Runs().begin();
  while (it != ranges.Runs().end()) {
    std::vector<std::pair<uint64_t, uint64_t>> runs;
    for (; it != ranges.Runs().end() && runs.size() < kRuns; ++it) runs.emplace_back(it->first, it->second - it->first);
    Payload payload;
    Put(&payload, id);
    Put(&payload, static_cast<uint32_t>(runs.size()));
    Put(&payload, uint32_t{0});
    for (const auto& [start, count] : runs) {
      Put(&payload, start);
      Put(&payload, count);
    }
    payloads.push_back(std::move(payload));
  }
  return payloads;
}

void Journal::Apply(RecordKind kind, const Payload& payload) {
  if (kind == RecordKind::kOpen) open_ = payload;
  if (kind < RecordKind::kCreate || kind > RecordKind::kRelease) return;
  Reader reader(payload);
  const Uuid id = reader.Get<Uuid>();
  if (kind == RecordKind::kDelete) {
    snapshots_[id].deleted = true;
    return;
  }
  SnapshotRecord& snapshot = snapshots_[id];
  if (kind == RecordKind::kCreate) {
    snapshot.created = true;
    snapshot.epoch = reader.Get<uint32_t>();
    snapshot.group_size = reader.Get<uint32_t>();
    snapshot.time_ms = reader.Get<int64_t>();
    snapshot.group = reader.Get<Uuid>();
    snapshot.hold_ns = reader.Get<uint64_t>();
    snapshot.switch_ns = reader.Get<uint64_t>();
    // A rewrite forgets deleted snapshots; the epochs that they used up stay in the open record.
    uint32_t epoch = 0;
    if (open_.size() >= sizeof epoch) {
      memcpy(&epoch, open_.data(), sizeof epoch);
      epoch = std::max(epoch, snapshot.epoch + 1);
      memcpy(open_.data(), &epoch, sizeof epoch);
    }
  } else if (kind == RecordKind::kBreak) {
    const auto error = static_cast<int>(reader.Get<uint32_t>());
    const auto length = reader.Get<uint32_t>();
    if (snapshot.error != 0) return;  // the first reason stays
    snapshot.error = error;
    snapshot.why = reader.Text(length);
  } else {
    const auto count = reader.Get<uint32_t>();
    reader.Get<uint32_t>();
    for (uint32_t i = 0; i < count && !reader.bad; i++) {
      const auto start = reader.Get<uint64_t>();
      const auto length = reader.Get<uint64_t>();
      snapshot.released.Add(start, start + length);
    }
  }
}

std::vector<std::pair<RecordKind, Journal::Payload>> Journal::State() const {
  std::vector<std::pair<RecordKind, Payload>> records;
  if (!open_.empty()) records.emplace_back(RecordKind::kOpen, open_);
  for (const auto& [id, snapshot] : snapshots_) {
    if (snapshot.deleted) continue;
    // A break may be there before its create.
    if (snapshot.created) records.emplace_back(RecordKind::kCreate, CreatePayload(id, snapshot));
    if (snapshot.error != 0) records.emplace_back(RecordKind::kBreak, BreakPayload(id, snapshot.error, snapshot.why));
    for (Payload& payload : ReleasePayloads(id, snapshot.released)) records.emplace_back(RecordKind::kRelease, std::move(payload));
  }
  return records;
}

int Journal::MakeSegment(Segment* segment) {
  const uint32_t span = store_->SegmentSpan();
  std::vector<Store::Run> runs;
  // Beyond the limit if need be: what it holds is what says that the limit was met.
  if (int err = store_->Take(span, true, false, &runs)) return err;
  const uint32_t slot = runs[0].slot;
  const uint64_t bytes = span * store_->SlotSize();
  // Zeros first and for certain: behind the header nothing may look like a record that is none.
  const std::vector<uint8_t> zeros(bytes);
  SlotHeader header;
  header.kind = SlotKind::kJournal;
  header.volume = store_->options_.volume;
  header.span = span;
  header.landed = store_->LandedUpTo();
  {
    const std::lock_guard lock(store_->mu_);
    header.sequence = ++store_->sequence_;
  }
  header.crc = header.Sum();
  uint8_t block[kHeader] = {};
  memcpy(block, &header, sizeof header);
  int err = store_->file_->Write(store_->At(slot), bytes, zeros.data());
  if (err == 0) err = store_->Commit();
  if (err == 0) err = store_->file_->Write(store_->At(slot), kHeader, block);
  if (err == 0) err = store_->Commit();
  if (err != 0) {
    std::vector<uint32_t> slots;
    for (uint32_t i = 0; i < span; i++) slots.push_back(slot + i);
    store_->FreeNow(std::move(slots));
    return err;
  }
  *segment = {slot, static_cast<uint32_t>((bytes - kHeader) / kHeader), 0};
  return 0;
}

int Journal::Write(RecordKind kind, const Payload& payload) {
  if (segments_.empty() || segments_.back().used == segments_.back().blocks) {
    if (!spare_) {
      if (int err = MakeSegment(&spare_segment_)) return err;
    }
    spare_ = false;
    segments_.push_back(spare_segment_);
  }
  Segment& segment = segments_.back();
  uint8_t block[kHeader] = {};
  RecordHeader header;
  header.kind = kind;
  header.volume = store_->options_.volume;
  header.sequence = sequence_ + 1;
  header.length = static_cast<uint32_t>(payload.size());
  header.crc = Crc32c(payload.data(), payload.size(), Crc32c(&header, offsetof(RecordHeader, crc)));
  memcpy(block, &header, sizeof header);
  if (!payload.empty()) memcpy(block + sizeof header, payload.data(), payload.size());
  if (int err = store_->file_->Write(store_->At(segment.slot) + kHeader + segment.used * kHeader, kHeader, block)) return err;
  // Counted only now: after a failure the same block and number are written again.
  sequence_++;
  segment.used++;
  Apply(kind, payload);
  return 0;
}

int Journal::Rewrite(bool must) {
  auto state = State();
  size_t blocks = 0;
  for (const Segment& segment : segments_) blocks += segment.blocks;
  if (!must && (segments_.size() < kManySegments || state.size() * 2 > blocks)) return 0;
  const std::vector<Segment> old = std::move(segments_);
  segments_.clear();
  const uint64_t begin = sequence_ + 1;
  std::erase_if(snapshots_, [](const auto& entry) { return entry.second.deleted; });
  Payload end;
  Put(&end, begin);
  int err = Write(RecordKind::kRewriteBegin, {});
  for (size_t i = 0; i < state.size() && err == 0; i++) err = Write(state[i].first, state[i].second);
  if (err == 0) err = store_->Commit();
  if (err == 0) err = Write(RecordKind::kRewriteEnd, end);
  if (err == 0) err = store_->Commit();
  if (err != 0) {
    // The old segments stay what counts; what was begun is more history behind them.
    segments_.insert(segments_.begin(), old.begin(), old.end());
    return err;
  }
  std::vector<uint32_t> slots;
  for (const Segment& segment : old) {
    for (uint32_t i = 0; i < store_->SegmentSpan(); i++) slots.push_back(segment.slot + i);
  }
  store_->FreeNow(std::move(slots));
  return 0;
}

int Journal::AppendNow(RecordKind kind, const Payload& payload) {
  const std::lock_guard lock(mu_);
  if (int err = Write(kind, payload)) return err;
  if (int err = store_->Commit()) return err;
  // The reserve is made while there is room, and asked for before a snapshot is (Create).
  // Behind a close nothing is written: it is clean only as the last word.
  if (kind != RecordKind::kBreak && kind != RecordKind::kClose) {
    Rewrite(false);
    if (!spare_) spare_ = MakeSegment(&spare_segment_) == 0;
  }
  return 0;
}

int Journal::Append(RecordKind kind, Payload payload) {
  int err = 0;
  // The store holds the journal; the reference keeps both while this runs on past a time-out.
  store_->runner_.Run(
      [self = store_->shared_from_this(), this, kind, payload = std::move(payload)] { return AppendNow(kind, payload); },
      [](int) {}, &err);
  return err;
}

int Journal::Create(const Uuid& id, const SnapshotRecord& snapshot) {
  if (int err = Append(RecordKind::kCreate, CreatePayload(id, snapshot))) return err;
  const std::lock_guard lock(mu_);
  return spare_ ? 0 : ENOSPC;
}

int Journal::Break(const Uuid& id, int error, const std::string& why) {
  return Append(RecordKind::kBreak, BreakPayload(id, error, why));
}

int Journal::Delete(const Uuid& id) { return Append(RecordKind::kDelete, Payload(id.begin(), id.end())); }

int Journal::Release(const Uuid& id, const Ranges& ranges) {
  for (Payload& payload : ReleasePayloads(id, ranges)) {
    if (int err = Append(RecordKind::kRelease, std::move(payload))) return err;
  }
  return 0;
}

int Journal::Open(uint32_t epoch) {
  Payload payload;
  Put(&payload, epoch);
  Put(&payload, uint32_t{store_->options_.power});
  Put(&payload, store_->options_.boot);
  return Append(RecordKind::kOpen, std::move(payload));
}

int Journal::Close(uint32_t epoch) {
  if (int err = store_->SyncAll()) return err;
  Payload payload;
  Put(&payload, epoch);
  if (int err = Append(RecordKind::kClose, std::move(payload))) return err;
  return store_->SyncAll();
}

}  // namespace asof::cow
