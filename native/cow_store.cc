#include "cow_store.h"

#include <algorithm>
#include <cerrno>

#include "cow_journal.h"
#include "cow_lock.h"

namespace asof::cow {

Store::Store(std::unique_ptr<File> file, const StoreOptions& options)
    : file_(std::move(file)),
      options_(options),
      index_((options.volume_size + options.chunk_size - 1) / options.chunk_size),
      batches_(std::make_shared<BatchPool>(options.chunk_size)),
      sync_(file_.get()),
      runner_(options.timeout_ms) {}

Store::~Store() = default;

int Store::TakeOver(std::string* why) {
  static std::mutex mu;
  static std::multimap<std::pair<uint64_t, uint64_t>, std::weak_ptr<Store>> all;  // under mu
  std::vector<std::shared_ptr<Store>> earlier;
  {
    const std::lock_guard lock(mu);
    std::erase_if(all, [](const auto& entry) { return entry.second.expired(); });
    const auto [from, to] = all.equal_range(file_->Identity());
    for (auto it = from; it != to; ++it) {
      if (auto store = it->second.lock()) earlier.push_back(std::move(store));
    }
    for (const auto& store : earlier) {
      if (store->runner_.IsShut()) continue;
      *why = "the store is in use: this process has it open already";
      return EBUSY;
    }
    // From here on whoever comes finds this one, and is refused.
    all.emplace(file_->Identity(), weak_from_this());
  }
  for (const auto& store : earlier) {
    if (store->runner_.Settle(std::max(kPatienceMs, options_.timeout_ms))) continue;
    *why = "an earlier use of the store still has a write under way, which may yet land";
    return EBUSY;
  }
  std::string who;
  const int err = file_->Lock(&who);
  if (err == EBUSY) *why = "the store is locked by " + who;
  if (err != 0 && err != EBUSY) *why = std::string("the store cannot be locked: ") + strerror(err);
  return err;
}

std::shared_ptr<CopyBatch> Store::TakeBatch() {
  if (auto batch = batches_->TryTake()) return batch;
  // Those that hang have theirs until they end.
  return runner_.Hung() ? nullptr : batches_->Take(options_.timeout_ms);
}

int Store::Take(uint32_t count, bool whole, bool limited, std::vector<Run>* runs) {
  const std::lock_guard lock(mu_);
  if (limited && options_.limit != 0 && (used_ + count) * SlotSize() > options_.limit) return ENOSPC;
  uint32_t need = count;
  for (auto it = free_.begin(); it != free_.end() && need > 0;) {
    if (whole && it->second < count) {
      ++it;
      continue;
    }
    const uint32_t n = std::min(need, it->second);
    runs->push_back({it->first, n});
    const Run left{it->first + n, it->second - n};
    it = free_.erase(it);
    if (left.count > 0) it = free_.emplace(left.slot, left.count).first;
    need -= n;
  }
  if (need > 0) {
    if (need > UINT32_MAX / 4 - end_) return ENOSPC;
    runs->push_back({end_, need});
    end_ += need;
  }
  used_ += count;
  return 0;
}

uint64_t Store::LandedUpTo() {
  const std::lock_guard lock(mu_);
  if (options_.power) return landed_;
  return writing_.empty() ? sequence_ : *writing_.begin() - 1;
}

void Store::Landed(uint64_t sequence) {
  const std::lock_guard lock(mu_);
  writing_.erase(sequence);
}

int Store::Commit() {
  if (!options_.power) return 0;
  return sync_.Commit(
      [this] {
        const std::lock_guard lock(mu_);
        return writing_.empty() ? sequence_ : *writing_.begin() - 1;
      },
      [this](uint64_t upto) {
        const std::lock_guard lock(mu_);
        landed_ = std::max(landed_, upto);
      });
}

int Store::SyncAll() { return sync_.Commit(); }

uint64_t Store::Used() const {
  const std::lock_guard lock(mu_);
  return used_ * SlotSize();
}

int Store::Copy(const std::shared_ptr<CopyBatch>& batch, const std::vector<CopySpec>& specs, std::vector<uint32_t>* slots) {
  auto runs = std::make_shared<std::vector<Run>>();
  const auto count = static_cast<uint32_t>(specs.size());
  if (int err = Take(count, false, true, runs.get())) return err;
  slots->clear();
  for (const Run& run : *runs) {
    for (uint32_t i = 0; i < run.count; i++) slots->push_back(run.slot + i);
  }
  const uint64_t landed = LandedUpTo();
  uint64_t first;
  {
    const std::lock_guard lock(mu_);
    first = sequence_ + 1;
    for (uint32_t i = 0; i < count; i++) writing_.insert(++sequence_);
  }
  auto parts = std::make_shared<std::vector<iovec>>();
  parts->reserve(count * 2);
  const size_t sums = options_.chunk_size / kSum;
  for (uint32_t i = 0; i < count; i++) {
    const CopySpec& spec = specs[i];
    uint8_t* at = batch->headers.get() + i * kHeader;
    uint8_t* data = batch->data.get() + static_cast<size_t>(i) * options_.chunk_size;
    auto* table = reinterpret_cast<uint32_t*>(at + kTableAt);
    const size_t blocks = (spec.length + kSum - 1) / kSum;
    Crc32cBlocks(data, spec.length, table);
    if (blocks < sums) memset(table + blocks, 0, (sums - blocks) * 4);
    SlotHeader header;
    header.volume = options_.volume;
    header.chunk = spec.chunk;
    header.from = spec.from;
    header.to = spec.to;
    header.sequence = first + i;
    header.landed = landed;
    header.length = spec.length;
    header.table_crc = Crc32c(table, blocks * 4);
    header.crc = header.Sum();
    memcpy(at, &header, sizeof header);
    parts->push_back({at, kHeader});
    parts->push_back({data, spec.length});
  }
  // The work owns all that it touches, as it may outlive this call by a time-out.
  auto self = shared_from_this();
  int err = 0;
  const TimedRunner::Outcome outcome = runner_.Run(
      [self, batch, runs, parts, first, count] {
        size_t done = 0;
        for (const Run& run : *runs) {
          const int failed = self->file_->Write(parts->data() + done * 2, static_cast<int>(run.count * 2), self->At(run.slot));
          if (failed != 0) return failed;
          done += run.count;
        }
        for (uint32_t i = 0; i < count; i++) self->Landed(first + i);
        return self->Commit();
      },
      [self, slots = *slots, first](int) { self->Fail(slots, first); }, &err);
  if (outcome == TimedRunner::Outcome::kAbandoned) return err;
  if (outcome == TimedRunner::Outcome::kRefused) {
    const std::lock_guard lock(mu_);
    for (uint32_t i = 0; i < count; i++) writing_.erase(first + i);
    for (const Run& run : *runs) AddFree(run.slot, run.count);
    used_ -= count;
    return err;
  }
  if (err != 0) {
    runner_.Detach([self, slots = *slots, first] {
      self->Fail(slots, first);
      return 0;
    });
    return err;
  }
  std::vector<uint32_t> twice;
  for (uint32_t i = 0; i < count; i++) {
    const CopySpec& spec = specs[i];
    if (!index_.Insert(spec.chunk, spec.from, spec.to, (*slots)[i])) twice.push_back((*slots)[i]);
  }
  if (!twice.empty()) Free(std::move(twice));
  return 0;
}

int Store::ReadCopy(uint64_t chunk, uint32_t epoch, size_t skip, size_t length, uint8_t* into, std::string* why) {
  const uint32_t slot = index_.Find(chunk, epoch);
  if (slot == Index::kNone) {
    *why = "the store holds no copy of chunk " + std::to_string(chunk) + " for this snapshot";
    return EIO;
  }
  const std::string place = "slot " + std::to_string(slot) + " of the store (chunk " + std::to_string(chunk) + ")";
  // A whole chunk comes in one read with its header; a part in two.
  alignas(8) uint8_t head[kHeader];
  if (int err = file_->Read(At(slot), kHeader, head)) {
    *why = place + " cannot be read: " + strerror(err);
    return EIO;
  }
  SlotHeader header;
  memcpy(&header, head, sizeof header);
  const auto* table = reinterpret_cast<const uint32_t*>(head + kTableAt);
  if (!header.Valid(options_.volume) || header.kind != SlotKind::kCopy || header.chunk != chunk || header.from > epoch ||
      header.to < epoch || header.length > options_.chunk_size || skip + length > header.length ||
      Crc32c(table, (header.length + kSum - 1) / kSum * 4) != header.table_crc) {
    *why = place + " does not hold what it should: its header is damaged";
    return EIO;
  }
  const size_t first = skip / kSum;
  const size_t last = (skip + length + kSum - 1) / kSum;
  const size_t start = first * kSum;
  const size_t span = std::min<size_t>(last * kSum, header.length) - start;
  std::unique_ptr<uint8_t[]> own;
  uint8_t* data = into;
  if (start != skip || span != length) {
    own.reset(new uint8_t[span]);
    data = own.get();
  }
  if (int err = file_->Read(At(slot) + kHeader + start, span, data)) {
    *why = place + " cannot be read: " + strerror(err);
    return EIO;
  }
  uint32_t sums[kMaxChunk / kSum];
  Crc32cBlocks(data, span, sums);
  for (size_t i = first; i < last; i++) {
    if (sums[i - first] == table[i]) continue;
    *why = place + " is damaged: the checksum of its bytes from " + std::to_string(i * kSum) + " does not match";
    return EIO;
  }
  if (own) memcpy(into, data + (skip - start), length);
  return 0;
}

int Store::ZeroHeader(uint32_t slot) {
  if (!cannot_punch_) {
    const int err = file_->Zero(At(slot), kHeader, true);
    if (err != EOPNOTSUPP) return err;
    cannot_punch_ = true;
  }
  static const uint8_t kZeros[kHeader] = {};
  return file_->Write(At(slot), kHeader, kZeros);
}

int Store::ZeroSlots(uint32_t slot, uint32_t count) {
  if (!cannot_punch_) {
    const int err = file_->Zero(At(slot), count * SlotSize(), true);
    if (err != EOPNOTSUPP) return err;
    cannot_punch_ = true;
  }
  for (uint32_t i = 0; i < count; i++) {
    if (int err = ZeroHeader(slot + i)) return err;
  }
  return 0;
}

// What lies in the slots is anybody's guess until they are zeroed: their sequences stay open until then, so that a
// recovery looks at them closely. One whose sync came too late counts as landed all the same, and no record says that it
// was given up: its header goes first and for certain, so that never a header is left that vouches for data that is not.
void Store::Fail(const std::vector<uint32_t>& slots, uint64_t first) {
  {
    const std::lock_guard lock(mu_);
    for (size_t i = 0; i < slots.size(); i++) {
      writing_.insert(first + i);
      failed_[slots[i]] = first + i;
    }
  }
  int err = 0;
  for (size_t i = 0; i < slots.size() && err == 0; i++) err = ZeroHeader(slots[i]);
  if (err == 0) err = Commit();
  if (err == 0) return FreeNow(slots);
  // As in FreeNow: not used again.
  const std::lock_guard lock(mu_);
  used_ -= slots.size();
}

void Store::AddFree(uint32_t slot, uint32_t count) {
  auto it = free_.emplace(slot, count).first;
  if (const auto next = std::next(it); next != free_.end() && it->first + it->second == next->first) {
    it->second += next->second;
    free_.erase(next);
  }
  if (it == free_.begin()) return;
  if (const auto prev = std::prev(it); prev->first + prev->second == it->first) {
    prev->second += it->second;
    free_.erase(it);
  }
}

void Store::Free(std::vector<uint32_t> slots) {
  if (slots.empty()) return;
  runner_.Detach([self = shared_from_this(), slots = std::move(slots)] {
    self->FreeNow(slots);
    return 0;
  });
}

void Store::FreeNow(std::vector<uint32_t> slots) {
  std::sort(slots.begin(), slots.end());
  for (size_t i = 0; i < slots.size();) {
    size_t n = 1;
    while (i + n < slots.size() && slots[i + n] == slots[i] + n) n++;
    const uint32_t start = slots[i];
    const auto count = static_cast<uint32_t>(n);
    i += n;
    {
      const std::lock_guard lock(mu_);
      used_ -= count;
    }
    // A slot that cannot be zeroed is not used again; the next start finds it free.
    if (ZeroSlots(start, count) != 0) continue;
    const std::lock_guard lock(mu_);
    for (uint32_t slot = start; slot < start + count && !failed_.empty(); slot++) {
      const auto it = failed_.find(slot);
      if (it == failed_.end()) continue;
      writing_.erase(it->second);
      failed_.erase(it);
    }
    AddFree(start, count);
  }
}

}  // namespace asof::cow
