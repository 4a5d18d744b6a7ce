// The tracker: what of the generations survives the process. Layout: docs/formats.md, "The tracker".
//
// The map itself is saved at a clean stop. For an unclean one each region is noted on disk before its first write in an
// epoch ("bit before write", as DRBD's activity log does), unless the store says the same on disk: a copy of a chunk
// means that the chunk was written. Afterwards all of a noted region counts as changed: more than the truth, never less.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cow_file.h"
#include "cow_format.h"
#include "cow_generation.h"
#include "cow_io.h"
#include "cow_lock.h"

namespace asof::cow {

struct TrackerOptions {
  Uuid volume{};
  uint64_t volume_size = 0;
  uint32_t chunk_size = 65536;
  uint32_t region_size = 16 << 20;
  bool power = true;
};

class Tracker {
 public:
  enum class Found { kNone, kClean, kUnclean, kUnusable };

  // `file` may be null: then nothing survives.
  Tracker(std::unique_ptr<File> file, const TrackerOptions& options);
  ~Tracker();

  // Takes the file, against everybody else. 0, or an errno with *why. First of all.
  int Lock(std::string* why);
  // Begins nothing on the file any more: whatever is asked of it is ESHUTDOWN. Others have it once what is under way ended.
  void Abandon() { tenure_.End(); }

  // Reads what is there; the saved generations go into `map`. kUnusable, with *why, where it cannot be trusted.
  Found Load(ChunkMap* map, std::string* why);
  uint32_t Epoch() const { return epoch_; }        // as loaded
  uint64_t JournalMark() const { return journal_; }  // as loaded

  // Forgets everything before `epoch` and says why from now on.
  void Distrust(uint32_t epoch, const std::string& why);

  // From here on there may be writes. 0 or an errno; what follows then tells nothing after an unclean stop.
  int Begin(uint32_t epoch);
  int SetEpoch(uint32_t epoch);

  bool Noted(uint64_t chunk, uint32_t epoch) const {
    return !file_ || noted_[RegionOf(chunk)].load(std::memory_order_acquire) >= epoch;
  }
  // Returns when the chunks' regions are noted, as durably as the policy says.
  int Note(uint64_t first, uint64_t last, uint32_t epoch);
  int NoteRegions(const std::map<size_t, uint32_t>& regions);  // region → epoch
  size_t RegionOf(uint64_t chunk) const { return chunk * options_.chunk_size / options_.region_size; }

  // Snapshots up to `epoch` are invalid, whatever the store says when it is read again: for a store that cannot be written
  // when one must be broken. 0 takes it back.
  int SetVoid(uint32_t epoch);
  uint32_t VoidEpoch() const { return void_epoch_; }  // as loaded

  // The clean stop.
  int Save(const ChunkMap& map, uint32_t epoch, uint64_t journal_mark);

  // The last epoch in which `chunk` may have been written unseen; 0 where none is.
  uint32_t Suspect(uint64_t chunk) const { return suspects_.empty() ? 0 : suspects_[RegionOf(chunk)]; }
  bool HasSuspects() const { return !suspects_.empty(); }
  // Writes of earlier epochs than this one may be unknown.
  uint32_t TrackedSince() const { return since_.load(std::memory_order_acquire); }
  std::string Why() const;
  uint64_t Notes() const { return notes_.load(std::memory_order_relaxed); }
  bool HasFile() const { return file_ != nullptr; }
  void LetGo() {
    tenure_.End();
    if (file_) file_->LetGo();
  }

 private:
  int WriteHeader(bool clean);
  int WriteTable(size_t block);
  int Commit() { return options_.power ? sync_->Commit() : 0; }
  uint64_t TableAt(size_t block, unsigned place) const { return 2 * kHeader + (block * 2 + place) * kHeader; }
  uint64_t MapAt(uint32_t area) const;

  int SetEpochNow(uint32_t epoch);
  int SetVoidNow(uint32_t epoch);
  int NoteNow(const std::map<size_t, uint32_t>& regions);
  int SaveNow(const ChunkMap& map, uint32_t epoch, uint64_t journal_mark);
  // Runs what writes to the file, unless it was given back.
  template <typename Work>
  int Within(Work work) {
    if (!tenure_.Enter()) return ESHUTDOWN;
    const int err = work();
    tenure_.Leave();
    return err;
  }

  const std::unique_ptr<File> file_;
  const TrackerOptions options_;
  Tenure tenure_;
  const size_t regions_;
  const size_t blocks_;
  std::unique_ptr<GroupSync> sync_;
  std::unique_ptr<std::atomic<uint32_t>[]> noted_;  // on disk for certain
  std::vector<uint32_t> suspects_;                  // fixed after Load, but for Distrust (no writes, no answers then)
  std::atomic<uint32_t> since_{1};
  std::atomic<uint64_t> notes_{0};

  // Guards the rest, over a block's write but not over its sync.
  mutable std::mutex mu_;
  std::vector<uint32_t> pending_;       // what the table's blocks say, ahead of noted_
  std::vector<uint64_t> block_sequence_;
  std::vector<uint8_t> block_place_;  // of its newest good copy
  uint64_t sequence_ = 0;
  uint32_t epoch_ = 0;
  uint32_t table_ = 0;
  uint32_t area_ = 0;
  uint64_t map_bytes_ = 0;
  uint32_t map_crc_ = 0;
  uint64_t journal_ = 0;
  uint32_t void_epoch_ = 0;
  std::string why_;
  bool lost_ = false;  // a note could not be written: no clean mark any more
};

}  // namespace asof::cow
