// The store: preserved chunks in slots of a file, and the journal of what happened to snapshots. Layout and recovery:
// docs/formats.md.
//
// Order, for a copy: slot taken → written → (power) synced with others → landed → named by the index. Only then may the
// origin be overwritten. For a slot given back: record that freed it → out of the index → zeroed in the file → free.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cow_batches.h"
#include "cow_file.h"
#include "cow_format.h"
#include "cow_index.h"
#include "cow_io.h"
#include "cow_ranges.h"

namespace asof::cow {

struct StoreOptions {
  Uuid volume{};
  uint64_t volume_size = 0;
  uint32_t chunk_size = 65536;
  bool power = true;
  // The file outlives the process; false for a store in memory.
  bool persistent = true;
  uint64_t limit = 0;  // bytes of slots in use; 0 is none
  unsigned timeout_ms = 0;
  Uuid boot{};
};

struct SnapshotRecord {
  bool created = false;
  bool deleted = false;
  int error = 0;  // not 0: broken
  std::string why;
  uint32_t epoch = 0;
  int64_t time_ms = 0;
  Uuid group{};
  uint32_t group_size = 1;
  uint64_t hold_ns = 0;
  uint64_t switch_ns = 0;
  Ranges released;
};

struct Recovered {
  bool existed = false;
  bool clean = true;
  uint32_t epoch = 0;  // the highest that anything names; 0 for a new store
  std::map<Uuid, SnapshotRecord> snapshots;
  uint64_t copies = 0;
  uint64_t torn = 0;     // cut short by the stop and dropped, as the origin still held them
  uint64_t damaged = 0;  // do not match and are kept: what of them does not match reads as an error
  uint64_t journal = 0;   // the number of the journal's last record
  // Chunks, and the epoch in which each was written, of copies that nobody needs any more: their slots are given back, and
  // nothing else may say that the chunk was written.
  std::vector<std::pair<uint64_t, uint32_t>> dropped;
  std::string rot;        // not empty: a slot that may have said so cannot be read
  std::string forgot;     // not empty: what was noted anywhere without a sync may be lost, and why
  std::string why_break;  // not empty: every snapshot is invalid, and why
};

struct CopySpec {
  uint64_t chunk;
  uint32_t from;
  uint32_t to;
  uint32_t length;
};

class Journal;

class Store : public std::enable_shared_from_this<Store> {
 public:
  // Makes a new store of an empty file, or takes up what is there. `origin` decides about copies that were cut short.
  // `settle` is called when all has been read and before anything is written: it may raise the epoch, or refuse.
  // 0, or an errno with *why.
  using Settle = std::function<int(Recovered*, std::string*)>;
  static int Open(std::unique_ptr<File> file, const StoreOptions& options, File* origin, const Settle& settle,
                  std::shared_ptr<Store>* store, Recovered* recovered, std::string* why);
  ~Store();

  // Room for the chunks of kBatchBytes. nullptr where that would be waited for longer than a copy may take.
  std::shared_ptr<CopyBatch> TakeBatch();

  // Preserves the chunks of `batch`; they are in the index when it returns 0. ENOSPC at the limit, ETIMEDOUT, or what
  // the file said. On an error none is.
  int Copy(const std::shared_ptr<CopyBatch>& batch, const std::vector<CopySpec>& specs, std::vector<uint32_t>* slots);

  // Bytes [skip, skip + length) of `chunk` as a snapshot of `epoch` saw it. EIO with *why where there is no such copy or
  // it does not match its checksums.
  int ReadCopy(uint64_t chunk, uint32_t epoch, size_t skip, size_t length, uint8_t* into, std::string* why);

  // Gives slots back that are out of the index. Free does not wait for a store that may hang.
  void Free(std::vector<uint32_t> slots);
  void FreeNow(std::vector<uint32_t> slots);

  Index& index() { return index_; }
  Journal& journal() { return *journal_; }
  TimedRunner& runner() { return runner_; }
  const StoreOptions& options() const { return options_; }

  // Begins nothing on the file any more.
  void Shut() { runner_.Shut(); }

  int SyncAll();
  uint64_t Used() const;
  uint64_t Limit() const { return options_.limit; }
  uint64_t Syncs() const { return sync_.Syncs(); }
  void LetGo() { file_->LetGo(); }
  int FileSpace(uint64_t* held, uint64_t* free) { return file_->Space(held, free); }

 private:
  friend class Journal;
  friend class Recovery;

  Store(std::unique_ptr<File> file, const StoreOptions& options);
  // Takes the file from the earlier stores of this process, and against all others. A write that timed out lands when it
  // likes, whoever has the file by then: waits until no earlier store has anything under way on it. EBUSY, with *why, where
  // that takes too long, where one is in use still, and where another process has the file, be it a dead one.
  int TakeOver(std::string* why);
  int TakeUp(File* origin, const Settle& settle, Recovered* recovered, std::string* why);

  uint64_t SlotSize() const { return kHeader + options_.chunk_size; }
  uint64_t At(uint32_t slot) const { return kHeader + slot * SlotSize(); }
  uint32_t SegmentSpan() const { return static_cast<uint32_t>((kHeader + kSegmentBytes + SlotSize() - 1) / SlotSize()); }

  struct Run {
    uint32_t slot;
    uint32_t count;
  };
  // `count` slots, in as few runs as there are; contiguous ones only where `whole`. ENOSPC beyond the limit.
  int Take(uint32_t count, bool whole, bool limited, std::vector<Run>* runs);
  int Commit();
  void Fail(const std::vector<uint32_t>& slots, uint64_t first);
  void AddFree(uint32_t slot, uint32_t count);  // under mu_
  int ZeroHeader(uint32_t slot);
  int ZeroSlots(uint32_t slot, uint32_t count);
  void Landed(uint64_t sequence);
  uint64_t LandedUpTo();

  const std::unique_ptr<File> file_;
  const StoreOptions options_;
  Index index_;
  const std::shared_ptr<BatchPool> batches_;
  GroupSync sync_;
  TimedRunner runner_;
  std::unique_ptr<Journal> journal_;

  // Guards everything below. Nothing is read or written under it.
  mutable std::mutex mu_;
  std::map<uint32_t, uint32_t> free_;  // start → count
  uint32_t end_ = 0;                   // slots ever taken: the file's end
  uint64_t used_ = 0;                  // slots in use
  uint64_t sequence_ = 0;              // the last one given
  std::set<uint64_t> writing_;         // sequences given whose slots are not whole yet, or failed and are not zeroed yet
  std::map<uint32_t, uint64_t> failed_;  // slots of those → their sequence
  uint64_t landed_ = 0;                // power: on stable storage up to this one
  std::atomic<bool> cannot_punch_{false};
};

}  // namespace asof::cow
