// The live device's path; snapshots are in cow_snapshots.cc. The state table is at the head of cow_volume.h.
#include "cow_volume.h"

#include <algorithm>
#include <cerrno>

namespace asof::cow {
namespace {

constexpr uint64_t kWindow = kBatchBytes;  // bytes of chunks locked and copied at once
constexpr uint32_t kForgotten = 1 << 16;  // epochs passed over where some may be forgotten
constexpr uint64_t kZeroPiece = 4 << 20;  // bytes of a long discard in one pass of the gate

std::string Size(uint64_t bytes) {
  return bytes < (16 << 20) ? std::to_string(bytes >> 10) + " KiB" : std::to_string(bytes >> 20) + " MiB";
}

}  // namespace

Volume::Volume(const VolumeOptions& options, std::unique_ptr<File> origin, std::unique_ptr<File> tracker, Listener listener)
    : options_(options),
      origin_(std::move(origin)),
      listener_(std::move(listener)),
      tracker_(std::move(tracker), {options.volume, options.size, options.chunk_size, options.region_size, options.power || !options.persistent}),
      generations_((options.size + options.chunk_size - 1) / options.chunk_size) {}

Volume::~Volume() {
  {
    const std::lock_guard lock(janitor_mu_);
    stop_ = true;
  }
  janitor_wake_.notify_all();
  if (janitor_.joinable()) janitor_.join();
  // Work that outlives this has the store still.
  if (store_) store_->Shut();
}

int Volume::Open(const VolumeOptions& options, std::unique_ptr<File> origin, std::unique_ptr<File> store,
                 std::unique_ptr<File> tracker, Listener listener, std::shared_ptr<Volume>* volume, OpenReport* report,
                 std::string* why) {
  uint64_t origin_size = 0;
  if (int err = origin->Size(&origin_size)) {
    *why = std::string("the origin's size is unknown: ") + strerror(err);
    return err;
  }
  if (origin_size < options.size) {
    *why = "the origin has " + std::to_string(origin_size) + " bytes, the volume " + std::to_string(options.size);
    return EINVAL;
  }
  // A store that is gone after a power cut does not say that there was one: then the tracker syncs, whatever the policy.
  VolumeOptions own = options;
  own.persistent = store != nullptr;
  std::shared_ptr<Volume> made(new Volume(own, std::move(origin), std::move(tracker), std::move(listener)));
  if (int err = made->tracker_.Lock(why)) return err;
  StoreOptions store_options;
  store_options.volume = options.volume;
  store_options.volume_size = options.size;
  store_options.chunk_size = options.chunk_size;
  store_options.persistent = store != nullptr;
  store_options.power = options.power && store != nullptr;
  store_options.limit = options.limit;
  store_options.timeout_ms = store ? options.timeout_ms : 0;
  store_options.boot = options.boot;
  if (!store) store = std::make_unique<MemoryFile>();
  made->leads_back_ = made->origin_->MayLeadBack() || store->MayLeadBack();
  Recovered recovered;
  uint32_t void_epoch = 0;
  std::string& lost = report->tracking;
  const auto settle = [&](Recovered* found_store, std::string* refused) {
    std::string unusable;
    const Tracker::Found found = made->tracker_.Load(&made->generations_, &unusable);
    void_epoch = made->tracker_.VoidEpoch();
    if (found == Tracker::Found::kUnusable) {
      lost = unusable;
    } else if (found == Tracker::Found::kNone) {
      if (!options.create) lost = made->tracker_.HasFile() ? "the tracker's file is empty" : "no tracker is kept";
    } else if (found == Tracker::Found::kClean && store_options.persistent && found_store->journal != made->tracker_.JournalMark()) {
      // The tracker is the first to learn of a start, so that a clean one has seen all that the store has.
      lost = "the tracker is not of the same time as the store";
    } else if (!found_store->forgot.empty()) {
      lost = found_store->forgot;
    } else if (found == Tracker::Found::kUnclean && !found_store->rot.empty()) {
      lost = found_store->rot;
    }
    // Epochs that were used since the last sync are not to be used again: what is asked about one of them is not known.
    if (!found_store->forgot.empty()) found_store->epoch += kForgotten;
    if (!lost.empty()) made->generations_.Clear();
    if (found != Tracker::Found::kNone) found_store->epoch = std::max(found_store->epoch, made->tracker_.Epoch());
    found_store->epoch = std::max(found_store->epoch, options.least_epoch);
    if (found == Tracker::Found::kUnclean || !lost.empty()) found_store->epoch++;
    report->clean = found_store->clean && found != Tracker::Found::kUnclean;
    if (!lost.empty()) made->tracker_.Distrust(found_store->epoch, lost);
    int err = made->tracker_.Begin(found_store->epoch);
    // Before the store gives their slots back.
    std::map<size_t, uint32_t> regions;
    for (const auto& [chunk, written] : found_store->dropped) {
      if (made->generations_.Get(chunk) >= written) continue;
      made->generations_.Set(chunk, written);
      uint32_t& last = regions[made->tracker_.RegionOf(chunk)];
      last = std::max(last, written);
    }
    if (err == 0 && !regions.empty()) err = made->tracker_.NoteRegions(regions);
    if (err != 0) *refused = std::string("the tracker's file cannot be written: ") + strerror(err);
    return err;
  };
  if (int err = Store::Open(std::move(store), store_options, made->origin_.get(), settle, &made->store_, &recovered, why)) return err;
  const uint32_t epoch = recovered.epoch;
  made->epoch_ = epoch;
  made->store_->index().Each([&](uint64_t chunk, uint32_t, uint32_t to, uint32_t) {
    if (made->generations_.Get(chunk) <= to) made->generations_.Set(chunk, to + 1);
  });
  for (const auto& [id, record] : recovered.snapshots) {
    if (!record.created || record.deleted) continue;
    auto snapshot = std::make_shared<Snapshot>();
    snapshot->id = id;
    snapshot->epoch = record.epoch;
    snapshot->record = record;
    snapshot->state = record.error != 0 ? SnapshotState::kBroken : SnapshotState::kLive;
    snapshot->has_released = !record.released.Empty();
    made->snapshots_.push_back(std::move(snapshot));
  }
  std::sort(made->snapshots_.begin(), made->snapshots_.end(), [](const auto& a, const auto& b) { return a->epoch < b->epoch; });
  made->RefreshNewest();
  report->existed = recovered.existed;
  report->epoch = epoch;
  report->copies = recovered.copies;
  report->torn = recovered.torn;
  report->damaged = recovered.damaged;
  report->broken = recovered.why_break;
  // What an earlier run wrote under a weaker policy, or a killed process left in the page cache.
  if (options.power) {
    if (int err = made->origin_->Sync()) {
      *why = std::string("the origin cannot be synced: ") + strerror(err);
      return err;
    }
  }
  made->janitor_ = std::thread([raw = made.get()] { raw->RunJanitor(); });
  if (void_epoch != 0 && lost.empty()) {
    std::vector<std::shared_ptr<Snapshot>> these;
    for (const auto& snapshot : made->snapshots_) {
      if (snapshot->epoch <= void_epoch && snapshot->state == SnapshotState::kLive) these.push_back(snapshot);
    }
    made->BreakThese(these, EIO, "the store failed and could not record which snapshots that broke");
    made->tracker_.SetVoid(0);
  }
  *volume = std::move(made);
  return 0;
}

uint32_t Volume::ChunkBytes(uint64_t chunk) const {
  return static_cast<uint32_t>(std::min<uint64_t>(options_.chunk_size, options_.size - chunk * options_.chunk_size));
}

void Volume::LockChunk(uint64_t chunk) {
  Busy& busy = busy_[chunk % busy_.size()];
  std::unique_lock lock(busy.mu);
  if (busy.chunks.contains(chunk)) {
    waits_.fetch_add(1, std::memory_order_relaxed);
    busy.freed.wait(lock, [&] { return !busy.chunks.contains(chunk); });
  }
  busy.chunks.insert(chunk);
}

void Volume::UnlockChunk(uint64_t chunk) {
  Busy& busy = busy_[chunk % busy_.size()];
  {
    const std::lock_guard lock(busy.mu);
    busy.chunks.erase(chunk);
  }
  busy.freed.notify_all();
}

bool Volume::Needed(uint64_t chunk, uint32_t from, uint32_t to) const {
  const std::lock_guard lock(snap_mu_);
  // The newest first: it is the one that needs it, but for released ranges.
  for (size_t i = snapshots_.size(); i-- > 0;) {
    const Snapshot& snapshot = *snapshots_[i];
    if (snapshot.epoch > to) continue;
    if (snapshot.epoch < from) return false;
    if (snapshot.state == SnapshotState::kLive && !snapshot.Released(chunk, chunk)) return true;
  }
  return false;
}

int Volume::Preserve(uint64_t first, uint64_t last) {
  const uint32_t epoch = epoch_.load(std::memory_order_acquire);
  const uint64_t window = std::max<uint64_t>(1, kWindow / options_.chunk_size);
  for (uint64_t chunk = first; chunk <= last; chunk++) {
    if (generations_.Get(chunk) == epoch) continue;
    const uint64_t end = std::min(last, chunk + window - 1);
    if (int err = PreserveWindow(chunk, end, epoch)) return err;
    chunk = end;
  }
  return 0;
}

int Volume::PreserveWindow(uint64_t first, uint64_t last, uint32_t epoch) {
  const uint64_t version = needs_version_.load();
  // Ascending, so that two writers whose ranges overlap cannot wait for each other in a circle.
  std::vector<uint64_t> locked;
  locked.reserve(last - first + 1);
  for (uint64_t chunk = first; chunk <= last; chunk++) {
    if (generations_.Get(chunk) == epoch) continue;
    LockChunk(chunk);
    if (generations_.Get(chunk) == epoch) {
      UnlockChunk(chunk);
    } else {
      locked.push_back(chunk);
    }
  }
  int err = 0;
  std::vector<bool> copied(locked.size());
  for (size_t i = 0; i < locked.size() && err == 0;) {
    const auto need = [&](uint64_t chunk) {
      const uint32_t generation = generations_.Get(chunk);
      if (newest_live_.load(std::memory_order_acquire) < std::max<uint32_t>(generation, 1)) return false;
      return !any_released_.load(std::memory_order_acquire) || Needed(chunk, generation, epoch - 1);
    };
    if (!need(locked[i])) {
      i++;
      continue;
    }
    size_t n = 1;
    while (i + n < locked.size() && locked[i + n] == locked[i] + n && need(locked[i + n])) n++;
    err = CopyRun(locked[i], n, epoch, version);
    if (err == 0) {
      for (size_t k = 0; k < n; k++) copied[i + k] = true;
    } else if (err < 0) {
      err = 0;  // the snapshots broke; the write goes on
    }
    i += n;
  }
  if (err == 0) {
    // Bit before write. A copy in a store that outlives the process says the same.
    for (size_t i = 0; i < locked.size(); i++) {
      if ((copied[i] && store_->options().persistent) || tracker_.Noted(locked[i], epoch)) continue;
      if (int lost = tracker_.Note(locked[i], locked.back(), epoch)) {
        Tell({Event::Kind::kTrackerLost, {}, 0, 0, std::string("the tracker cannot be written: ") + strerror(lost)});
        break;
      }
    }
    for (const uint64_t chunk : locked) generations_.Set(chunk, epoch);
    first_writes_.fetch_add(locked.size(), std::memory_order_relaxed);
    // The generation is seen by whoever sees a byte of what is written next (SnapshotDisk::Read has the other half).
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  for (const uint64_t chunk : locked) UnlockChunk(chunk);
  return err;
}

// 0: preserved. An errno: the write must fail with it. -1: the snapshots that needed it are broken, on record.
int Volume::CopyRun(uint64_t first, uint64_t count, uint32_t epoch, uint64_t version) {
  const int err = CopyBatchOf(first, count, epoch, version);
  if (err == 0) return 0;
  if (options_.on_error == OnCowError::kBreakWrite || ended_) return err;
  const std::string place = " when chunk " + std::to_string(first) + " was first written";
  std::string why;
  if (err == ENOSPC && options_.limit != 0 && store_->Used() + (kHeader + options_.chunk_size) * count > options_.limit) {
    why = "the store was full (" + Size(store_->Used()) + " of " + Size(options_.limit) + ")" + place;
  } else if (err == ENOSPC) {
    why = "the store's file system was full" + place;
  } else if (err == ETIMEDOUT) {
    why = "the store did not answer within " + std::to_string(options_.timeout_ms) + " ms" + place;
  } else {
    why = std::string("copying failed (") + strerror(err) + ")" + place;
  }
  BreakNeeding(first, count, epoch, err, why);
  return -1;
}

int Volume::CopyBatchOf(uint64_t first, uint64_t count, uint32_t epoch, uint64_t version) {
  std::shared_ptr<CopyBatch> batch = store_->TakeBatch();
  if (!batch) return ETIMEDOUT;
  const uint64_t offset = first * options_.chunk_size;
  const uint64_t bytes = std::min<uint64_t>(count * options_.chunk_size, options_.size - offset);
  if (int err = origin_->Read(offset, bytes, batch->data.get())) return err;
  std::vector<CopySpec> specs;
  specs.reserve(count);
  for (uint64_t i = 0; i < count; i++) specs.push_back({first + i, generations_.Get(first + i), epoch - 1, ChunkBytes(first + i)});
  std::vector<uint32_t> slots;
  if (int err = store_->Copy(batch, specs, &slots)) return err;
  batch.reset();
  copies_.fetch_add(count, std::memory_order_relaxed);
  if (any_drained_.load(std::memory_order_acquire)) NotePreserved(specs);
  // A snapshot may have gone while we copied, and the sweep for it may have passed before our copies were named: either
  // it saw them, or we see that the needs moved.
  if (needs_version_.load() != version) {
    std::vector<uint32_t> gone;
    for (size_t i = 0; i < specs.size(); i++) {
      if (Needed(specs[i].chunk, specs[i].from, specs[i].to)) continue;
      if (tracker_.HasFile()) tracker_.Note(specs[i].chunk, specs[i].chunk, epoch);
      if (store_->index().Remove(specs[i].chunk, slots[i])) gone.push_back(slots[i]);
    }
    store_->Free(std::move(gone));
  }
  CheckLowWater();
  return 0;
}

void Volume::CheckLowWater() {
  if (options_.low_water == 0) return;
  uint64_t left = UINT64_MAX;
  const uint64_t used = store_->Used();
  if (options_.limit != 0) left = options_.limit - std::min(options_.limit, used);
  if (copies_to_check_.fetch_add(1, std::memory_order_relaxed) % 64 == 0) {
    uint64_t held = 0, free = 0;
    if (store_->FileSpace(&held, &free) == 0 && free != 0) left = std::min(left, free);
  } else if (options_.limit == 0) {
    return;
  }
  if (left >= options_.low_water) {
    low_told_ = false;
  } else if (!low_told_.exchange(true)) {
    Tell({Event::Kind::kLowWater, {}, used, options_.limit, Size(left) + " are left in the store"});
  }
}

bool Volume::WriteMayWait(uint64_t offset, size_t length) const {
  if (leads_back_ || length == 0) return leads_back_;
  const uint32_t epoch = epoch_.load(std::memory_order_acquire);
  const uint64_t last = (offset + length - 1) / options_.chunk_size;
  for (uint64_t chunk = offset / options_.chunk_size; chunk <= last; chunk++) {
    if (generations_.Get(chunk) != epoch) return true;
  }
  return false;
}

int Volume::Write(uint64_t offset, size_t length, const uint8_t* from) {
  if (length == 0) return 0;
  Gate::Shard* shard = gate_.Enter();
  if (!shard) return ESHUTDOWN;
  int err = Preserve(offset / options_.chunk_size, (offset + length - 1) / options_.chunk_size);
  // One that was abandoned may have preserved and noted nothing.
  if (err == 0) err = ended_ ? ESHUTDOWN : origin_->File::Write(offset, length, from);
  shard->writes.fetch_add(1, std::memory_order_relaxed);
  shard->bytes.fetch_add(length, std::memory_order_relaxed);
  gate_.Leave(shard);
  return err == 0 ? 0 : Ended(err);
}

int Volume::WriteZeroes(uint64_t offset, uint64_t length, bool punch) {
  while (length > 0) {
    // In pieces: a discard of a whole disk must not keep a snapshot waiting until all of it is copied.
    const uint64_t n = std::min(length, kZeroPiece - offset % kZeroPiece);
    Gate::Shard* shard = gate_.Enter();
    if (!shard) return ESHUTDOWN;
    int err = Preserve(offset / options_.chunk_size, (offset + n - 1) / options_.chunk_size);
    if (err == 0 && ended_) err = ESHUTDOWN;
    if (err == 0) {
      err = origin_->Zero(offset, n, punch);
      if (err == EOPNOTSUPP && punch) err = origin_->Zero(offset, n, false);
      if (err == EOPNOTSUPP || err == EINVAL) {
        const std::vector<uint8_t> zeros(std::min<uint64_t>(n, kWindow));
        err = 0;
        for (uint64_t done = 0; done < n && err == 0;) {
          const size_t part = static_cast<size_t>(std::min<uint64_t>(zeros.size(), n - done));
          err = origin_->File::Write(offset + done, part, zeros.data());
          done += part;
        }
      }
    }
    shard->writes.fetch_add(1, std::memory_order_relaxed);
    shard->bytes.fetch_add(n, std::memory_order_relaxed);
    gate_.Leave(shard);
    if (err != 0) return err;
    offset += n;
    length -= n;
  }
  return 0;
}

int Volume::Flush() {
  flushes_.fetch_add(1, std::memory_order_relaxed);
  // With policy `power` every copy is on stable storage before its origin was written, so the origin is all there is.
  return Ended(ended_ ? 0 : origin_->Sync());
}

uint64_t Volume::Writes() const {
  uint64_t writes = 0;
  for (const Gate::Shard& shard : gate_.Shards()) writes += shard.writes.load(std::memory_order_relaxed);
  return writes;
}

Activity Volume::Counters() {
  Activity out;
  for (const Gate::Shard& shard : gate_.Shards()) {
    out.writes += shard.writes.load(std::memory_order_relaxed);
    out.bytes += shard.bytes.load(std::memory_order_relaxed);
  }
  out.first_writes = first_writes_;
  out.copies = copies_;
  out.waits = waits_;
  out.flushes = flushes_;
  out.notes = tracker_.Notes();
  out.syncs = store_->Syncs();
  out.store_used = store_->Used();
  out.store_limit = options_.limit;
  out.preserved = store_->index().Count();
  out.epoch = epoch_;
  store_->FileSpace(&out.store_held, &out.store_free);
  return out;
}

}  // namespace asof::cow
