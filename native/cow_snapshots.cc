// Snapshots of a volume: taking them over a group, breaking, deleting, releasing; what changed between them.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>

#include "cow_volume.h"

namespace asof::cow {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t Nanoseconds(Clock::duration d) { return static_cast<uint64_t>(std::chrono::nanoseconds(d).count()); }

}  // namespace

std::shared_ptr<Snapshot> Volume::FindSnapshot(const Uuid& id) const {
  const std::lock_guard lock(snap_mu_);
  for (const auto& snapshot : snapshots_) {
    if (snapshot->id == id) return snapshot;
  }
  return nullptr;
}

std::vector<SnapshotInfo> Volume::List() const {
  const std::lock_guard lock(snap_mu_);
  std::vector<SnapshotInfo> list;
  for (const auto& snapshot : snapshots_) {
    const std::shared_lock released(snapshot->released_mu);
    list.push_back({snapshot->id, snapshot->state, snapshot->record});
  }
  return list;
}

void Volume::RefreshNewest() {
  uint32_t newest = 0;
  bool released = false, drained = false;
  for (const auto& snapshot : snapshots_) {
    if (snapshot->state != SnapshotState::kLive) continue;
    newest = std::max(newest, snapshot->epoch);
    released = released || snapshot->has_released;
    drained = drained || snapshot->drained;
  }
  newest_live_.store(newest);
  any_released_.store(released);
  any_drained_.store(drained);
}

int Volume::Take(const std::vector<SnapshotRequest>& requests, const Uuid& group, unsigned timeout_ms, SnapshotResult* result) {
  // By address, so that two groups that share volumes cannot wait for each other in a circle.
  std::vector<size_t> order(requests.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return requests[a].volume.get() < requests[b].volume.get(); });
  std::vector<std::unique_lock<std::mutex>> locks;
  std::vector<std::shared_ptr<Snapshot>> taken(requests.size());
  for (const size_t i : order) {
    Volume& volume = *requests[i].volume;
    locks.emplace_back(volume.order_mu_);
    if (volume.closed_) return ESHUTDOWN;
    if (volume.store_->runner().Hung()) return ETIMEDOUT;
    auto snapshot = std::make_shared<Snapshot>();
    snapshot->id = requests[i].id;
    snapshot->record.created = true;
    snapshot->record.group = group;
    snapshot->record.group_size = static_cast<uint32_t>(requests.size());
    taken[i] = std::move(snapshot);
    const std::lock_guard lock(volume.snap_mu_);
    for (const auto& other : volume.snapshots_) {
      if (other->id == requests[i].id) return EEXIST;
    }
    volume.snapshots_.reserve(volume.snapshots_.size() + 1);  // no allocation while the gates are closed
  }

  const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  result->writes.resize(requests.size());
  const auto held = Clock::now();
  for (const size_t i : order) requests[i].volume->gate_.Close();
  bool drained = true;
  for (const size_t i : order) drained = drained && requests[i].volume->gate_.Drain(deadline);
  const auto switching = Clock::now();
  result->time_ms = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  if (drained) {
    for (const size_t i : order) {
      Volume& volume = *requests[i].volume;
      const uint32_t epoch = volume.epoch_.load(std::memory_order_relaxed);
      result->writes[i] = volume.Writes();
      taken[i]->epoch = taken[i]->record.epoch = epoch;
      taken[i]->record.time_ms = result->time_ms;
      const std::lock_guard lock(volume.snap_mu_);
      volume.snapshots_.push_back(taken[i]);
      volume.newest_live_.store(epoch);
      volume.epoch_.store(epoch + 1);
    }
  }
  const auto switched = Clock::now();
  for (const size_t i : order) requests[i].volume->gate_.Open();
  result->switch_ns = Nanoseconds(switched - switching);
  result->hold_ns = Nanoseconds(Clock::now() - held);
  if (!drained) return ETIMEDOUT;

  // Out of the hold: make it last. What was written before the switch and still stands on the origin is synced here; what
  // was overwritten since lies in the store, synced before that.
  int err = 0;
  for (size_t i = 0; i < requests.size(); i++) {
    Volume& volume = *requests[i].volume;
    {
      const std::lock_guard lock(volume.snap_mu_);
      taken[i]->record.hold_ns = result->hold_ns;
      taken[i]->record.switch_ns = result->switch_ns;
    }
    result->epochs.push_back(taken[i]->epoch);
    // Without a store on disk nothing will say that there was a power cut: what changed since is told from this moment on,
    // so that the origin must not fall back behind it.
    if (err == 0 && (volume.options_.power || !volume.options_.persistent)) err = volume.origin_->Sync();
    if (err == 0) err = volume.tracker_.SetEpoch(taken[i]->epoch + 1);
    if (err == 0) err = volume.store_->journal().Create(taken[i]->id, taken[i]->record);
  }
  if (err == 0) return 0;
  for (size_t i = 0; i < requests.size(); i++) {
    Volume& volume = *requests[i].volume;
    if (volume.store_->journal().Delete(taken[i]->id) != 0) volume.Owe(RecordKind::kDelete, taken[i]->id, 0, "");
    volume.Remove(taken[i], SnapshotState::kDeleted);
    volume.Sweep(taken[i]->epoch, taken[i]->epoch, false);
  }
  return err;
}

// The end of a snapshot's need, after the record of it is durable.
void Volume::Remove(const std::shared_ptr<Snapshot>& snapshot, SnapshotState state) {
  const std::lock_guard lock(snap_mu_);
  snapshot->state = state;
  if (state == SnapshotState::kDeleted) std::erase(snapshots_, snapshot);
  RefreshNewest();
  needs_version_.fetch_add(1);
}

// `wait`: the space is given back when it returns.
void Volume::Sweep(uint32_t low, uint32_t high, bool wait, const Ranges* chunks) {
  std::map<size_t, uint32_t> regions;
  const bool note = tracker_.HasFile() && store_->options().persistent;
  const auto unneeded = [&](uint64_t chunk, uint32_t from, uint32_t to) {
    if (Needed(chunk, from, to)) return false;
    // The copy stood for the note that its chunk was written; it must not go before there is one.
    if (note && !tracker_.Noted(chunk, to + 1)) {
      uint32_t& epoch = regions[tracker_.RegionOf(chunk)];
      epoch = std::max(epoch, to + 1);
    }
    return true;
  };
  std::vector<uint32_t> slots;
  if (chunks) {
    for (const auto& [first, end] : chunks->Runs()) store_->index().SweepChunks(first, end, low, high, unneeded, &slots);
  } else {
    slots = store_->index().Sweep(low, high, unneeded);
  }
  if (!regions.empty()) tracker_.NoteRegions(regions);
  if (wait) {
    store_->FreeNow(std::move(slots));
  } else {
    store_->Free(std::move(slots));
  }
}

int Volume::Delete(const Uuid& id) {
  const std::shared_ptr<Snapshot> snapshot = FindSnapshot(id);
  if (!snapshot) return ENOENT;
  if (int err = store_->journal().Delete(id)) return err;
  Remove(snapshot, SnapshotState::kDeleted);
  Sweep(snapshot->epoch, snapshot->epoch, true);
  return 0;
}

int Volume::Release(const Uuid& id, const std::vector<std::pair<uint64_t, uint64_t>>& ranges, int own) {
  const std::shared_ptr<Snapshot> snapshot = FindSnapshot(id);
  if (!snapshot) return ENOENT;
  if (snapshot->state != SnapshotState::kLive) return EIO;
  if (snapshot->handles > own) return EBUSY;
  Ranges chunks;
  for (const auto& [start, end] : ranges) {
    const uint64_t last = end >= options_.size ? Chunks() : end / options_.chunk_size;
    chunks.Add((start + options_.chunk_size - 1) / options_.chunk_size, last);
  }
  if (chunks.Empty()) return 0;
  if (int err = store_->journal().Release(id, chunks)) return err;
  {
    const std::unique_lock lock(snapshot->released_mu);
    for (const auto& [start, end] : chunks.Runs()) snapshot->record.released.Add(start, end);
  }
  {
    const std::lock_guard lock(snap_mu_);
    snapshot->has_released.store(true);
    any_released_.store(true);
  }
  needs_version_.fetch_add(1);
  Sweep(snapshot->epoch, snapshot->epoch, true, &chunks);
  return 0;
}

int Volume::Preserved(const Uuid& id, size_t limit, std::vector<std::pair<uint64_t, uint64_t>>* runs) {
  const std::shared_ptr<Snapshot> snapshot = FindSnapshot(id);
  if (!snapshot) return ENOENT;
  bool begun = false;
  {
    const std::lock_guard lock(snap_mu_);
    begun = snapshot->drained.exchange(true);
    if (snapshot->state == SnapshotState::kLive) any_drained_.store(true);
  }
  if (!begun) {
    // From here on copies are noted; what came before is in the index.
    Ranges before;
    store_->index().Each([&](uint64_t chunk, uint32_t from, uint32_t to, uint32_t) {
      if (from <= snapshot->epoch && snapshot->epoch <= to) before.Add(chunk, chunk + 1);
    });
    const std::lock_guard lock(snapshot->fresh_mu);
    for (const auto& [start, end] : before.Runs()) snapshot->fresh.Add(start, end);
  }
  Ranges all;
  {
    const std::lock_guard lock(snapshot->fresh_mu);
    std::swap(all, snapshot->fresh);
  }
  auto it = all.Runs().begin();
  for (; it != all.Runs().end() && runs->size() < limit; ++it) {
    runs->emplace_back(it->first * options_.chunk_size, std::min(it->second * options_.chunk_size, options_.size));
  }
  if (it == all.Runs().end()) return 0;
  const std::lock_guard lock(snapshot->fresh_mu);
  for (; it != all.Runs().end(); ++it) snapshot->fresh.Add(it->first, it->second);
  return 0;
}

void Volume::NotePreserved(const std::vector<CopySpec>& specs) {
  std::vector<std::shared_ptr<Snapshot>> drained;
  {
    const std::lock_guard lock(snap_mu_);
    for (const auto& snapshot : snapshots_) {
      if (snapshot->drained && snapshot->state == SnapshotState::kLive) drained.push_back(snapshot);
    }
  }
  for (const auto& snapshot : drained) {
    const std::lock_guard lock(snapshot->fresh_mu);
    for (const CopySpec& spec : specs) {
      const bool serves = spec.from <= snapshot->epoch && snapshot->epoch <= spec.to;
      if (serves && !snapshot->Released(spec.chunk, spec.chunk)) snapshot->fresh.Add(spec.chunk, spec.chunk + 1);
    }
  }
}

void Volume::BreakNeeding(uint64_t first, uint64_t count, uint32_t epoch, int error, const std::string& why) {
  // Whoever fails at the same time waits here until the record is durable: before that nobody may overwrite the origin.
  const std::lock_guard once(break_mu_);
  std::vector<std::shared_ptr<Snapshot>> these;
  {
    const std::lock_guard lock(snap_mu_);
    for (const auto& snapshot : snapshots_) {
      if (snapshot->state != SnapshotState::kLive || snapshot->epoch >= epoch) continue;
      for (uint64_t chunk = first; chunk < first + count; chunk++) {
        if (generations_.Get(chunk) > snapshot->epoch || snapshot->Released(chunk, chunk)) continue;
        these.push_back(snapshot);
        break;
      }
    }
  }
  BreakThese(these, error, why);
}

void Volume::BreakThese(const std::vector<std::shared_ptr<Snapshot>>& these, int error, const std::string& why) {
  bool recorded = true;
  for (const auto& snapshot : these) {
    {
      const std::lock_guard lock(snap_mu_);
      snapshot->record.error = error;
      snapshot->record.why = why;
    }
    if (!recorded || store_->journal().Break(snapshot->id, error, why) != 0) {
      recorded = false;
      Owe(RecordKind::kBreak, snapshot->id, error, why);
    }
  }
  for (const auto& snapshot : these) {
    Remove(snapshot, SnapshotState::kBroken);
    Tell({Event::Kind::kBroken, snapshot->id, store_->Used(), options_.limit, why});
    const std::lock_guard lock(janitor_mu_);
    sweeps_.emplace_back(snapshot->epoch, snapshot->epoch);
  }
  janitor_wake_.notify_all();
}

int Volume::BreakAll(int error, const std::string& why) {
  const std::lock_guard once(break_mu_);
  std::vector<std::shared_ptr<Snapshot>> these;
  {
    const std::lock_guard lock(snap_mu_);
    for (const auto& snapshot : snapshots_) {
      if (snapshot->state == SnapshotState::kLive) these.push_back(snapshot);
    }
  }
  BreakThese(these, error, why);
  return 0;
}

// The store cannot take the record now. The tracker's file says it instead, for all snapshots so far, until it can.
void Volume::Owe(RecordKind kind, const Uuid& id, int error, const std::string& why) {
  if (tracker_.SetVoid(epoch_.load()) != 0) {
    Tell({Event::Kind::kUnrecorded, id, 0, 0, "neither the store nor the tracker can be written: a restart would not know that a snapshot is invalid"});
  }
  const std::lock_guard lock(janitor_mu_);
  owed_.push_back({kind, id, error, why});
}

void Volume::RunJanitor() {
  ServeDiskOnThisThread("asof-janitor");
  std::unique_lock lock(janitor_mu_);
  while (!stop_) {
    if (!sweeps_.empty()) {
      const auto [low, high] = sweeps_.front();
      sweeps_.pop_front();
      lock.unlock();
      Sweep(low, high, false);
      lock.lock();
      continue;
    }
    if (owed_.empty()) {
      janitor_wake_.wait(lock, [this] { return stop_ || !sweeps_.empty() || !owed_.empty(); });
      continue;
    }
    const Owed owed = owed_.front();
    lock.unlock();
    const bool done = owed.kind == RecordKind::kBreak ? store_->journal().Break(owed.id, owed.error, owed.why) == 0
                                                      : store_->journal().Delete(owed.id) == 0;
    lock.lock();
    if (done) {
      owed_.erase(owed_.begin());
      if (owed_.empty()) {
        lock.unlock();
        tracker_.SetVoid(0);
        lock.lock();
      }
    } else {
      janitor_wake_.wait_for(lock, std::chrono::seconds(1), [this] { return stop_ || !sweeps_.empty(); });
    }
  }
}

Changes Volume::ChangesSince(uint32_t since, uint32_t until, uint64_t from, size_t limit) {
  Changes out;
  out.next = options_.size;
  if (since + 1 < tracker_.TrackedSince()) {
    out.exact = false;
    out.why = tracker_.Why();
    if (from < options_.size) out.runs = {static_cast<double>(from), static_cast<double>(options_.size - from)};
    return out;
  }
  bool guessed = false;
  uint64_t start = 0, end = 0;
  const auto flush = [&] {
    if (end == start) return;
    const uint64_t at = start * options_.chunk_size;
    out.runs.push_back(static_cast<double>(at));
    out.runs.push_back(static_cast<double>(std::min(end * options_.chunk_size, options_.size) - at));
  };
  const uint64_t chunks = Chunks();
  for (uint64_t chunk = from / options_.chunk_size; chunk < chunks; chunk++) {
    // Nothing in a page that is not there, unless a region is suspect.
    if (chunk % ChunkMap::kPage == 0 && !generations_.At(chunk / ChunkMap::kPage) && !tracker_.HasSuspects()) {
      chunk += ChunkMap::kPage - 1;
      continue;
    }
    const uint32_t generation = generations_.Get(chunk);
    bool changed = generation > since;
    if (changed && until != 0 && generation > until) {
      // Written after `until` too: since when had it stood then?
      uint32_t since_then = 0;
      if (store_->index().Find(chunk, until, &since_then) != Index::kNone) changed = since_then > since;
    }
    if (!changed && tracker_.Suspect(chunk) > since) changed = guessed = true;
    if (!changed) continue;
    if (chunk != end || end == start) {
      flush();
      start = end = chunk;
      if (out.runs.size() / 2 >= limit) {
        out.next = chunk * options_.chunk_size;
        break;
      }
    }
    end = chunk + 1;
  }
  flush();
  if (guessed) {
    out.exact = false;
    out.why = "the volume was not closed: every region of " + std::to_string(options_.region_size >> 10) +
              " KiB that was written before that counts as changed whole";
  }
  return out;
}

int Volume::Distrust(const std::string& why) {
  const std::lock_guard order(order_mu_);
  if (closed_) return ESHUTDOWN;
  gate_.Close();
  gate_.Drain(Clock::time_point::max());
  const uint32_t epoch = epoch_.load() + 1;
  epoch_.store(epoch);
  tracker_.Distrust(epoch, why);
  gate_.Open();
  const int err = tracker_.SetEpoch(epoch);
  BreakAll(EIO, why);
  return err;
}

int Volume::Close() {
  const std::lock_guard order(order_mu_);
  if (closed_) return 0;
  closed_ = true;
  gate_.Close();
  gate_.Drain(Clock::time_point::max());
  gate_.Shut();
  ended_ = true;
  gate_.Open();
  {
    const std::lock_guard lock(janitor_mu_);
    stop_ = true;
  }
  janitor_wake_.notify_all();
  if (janitor_.joinable()) janitor_.join();
  int err = origin_->Sync();
  const std::lock_guard lock(janitor_mu_);
  // What is owed stays owed: no clean mark, and the tracker's word holds.
  if (err == 0 && !owed_.empty()) err = EIO;
  if (err == 0) err = store_->journal().Close(epoch_.load());
  if (err == 0) err = tracker_.Save(generations_, epoch_.load(), store_->journal().Sequence());
  store_->Shut();
  LetGo();
  return err;
}

void Volume::Abandon() {
  // First of all the origin: nothing that is under way may overwrite what it could no longer preserve or note.
  ended_ = true;
  gate_.Shut();
  origin_->LetGo();
  store_->Shut();
  tracker_.Abandon();
  LetGo();
}

// A mount may hold disks of this volume for a while; nobody else shall have to wait for that.
void Volume::LetGo() {
  origin_->LetGo();
  store_->LetGo();
  tracker_.LetGo();
}

}  // namespace asof::cow
