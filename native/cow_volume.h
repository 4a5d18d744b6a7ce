// A volume under the copy-on-write layer: the live device's writes, its snapshots, what changed.
//
// State of a chunk c, with E the current epoch and g = generation(c):
//   g = E   written in this epoch: writes pass
//   g < E   the next write is its first: if a living snapshot's epoch lies in [g, E - 1], the chunk is preserved first,
//           as what it was from g to E - 1; then g becomes E; then the origin is written.
// A snapshot of epoch e reads c from the origin while g <= e, else from the preserved copy that serves e. Nothing else is
// needed: the cost of a write does not depend on how many snapshots there are.
//
// A snapshot's read never makes a writer wait. It reads the origin, then looks at the generation again: the writer moves it
// before it writes, so a read that met later data finds it moved, throws the bytes away and takes the preserved copy, which
// was named by the index before the generation moved.
//
// Locks, in the order in which they may nest: order_mu_ → the gate → chunks (ascending) → break_mu_ → snap_mu_. No I/O
// under snap_mu_.
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "cow_file.h"
#include "cow_gate.h"
#include "cow_journal.h"
#include "cow_ranges.h"
#include "cow_store.h"
#include "cow_tracker.h"

namespace asof::cow {

enum class OnCowError { kBreakSnapshot, kBreakWrite };

struct VolumeOptions {
  Uuid volume{};
  uint64_t size = 0;
  uint32_t sector_size = 512;
  uint32_t chunk_size = 65536;
  uint32_t region_size = 16 << 20;
  bool power = true;
  OnCowError on_error = OnCowError::kBreakSnapshot;
  unsigned timeout_ms = 0;
  uint64_t limit = 0;
  uint64_t low_water = 0;  // bytes left of the limit, or of the file system, at which the event comes
  // The volume is new: an empty tracker and store mean that nothing was written before, not that they were lost.
  bool create = false;
  bool persistent = true;
  // The volume has been in an earlier epoch than this for certain: where the tracker is lost, the count does not begin anew.
  uint32_t least_epoch = 0;
  Uuid boot{};
};

struct OpenReport {
  bool existed = false;
  bool clean = true;
  uint32_t epoch = 0;
  uint64_t copies = 0;
  uint64_t torn = 0;
  uint64_t damaged = 0;
  std::string broken;    // not empty: every snapshot is invalid, and why
  std::string tracking;  // not empty: nothing is known of what changed before, and why
};

enum class SnapshotState { kLive, kBroken, kDeleted };

// What of a snapshot is looked at while it is read or written around.
struct Snapshot {
  Uuid id{};
  uint32_t epoch = 0;
  std::atomic<SnapshotState> state{SnapshotState::kLive};
  std::atomic<bool> has_released{false};
  std::atomic<int> handles{0};       // open files on it
  SnapshotRecord record;             // error and why under snap_mu_; `released` under released_mu; the rest never changes
  mutable std::shared_mutex released_mu;
  // Somebody drains it: chunks that are preserved for it are noted, so that they can be asked for.
  std::atomic<bool> drained{false};
  std::mutex fresh_mu;
  Ranges fresh;  // preserved, and not asked for yet; under fresh_mu

  bool Released(uint64_t first, uint64_t last) const {
    if (!has_released.load(std::memory_order_acquire)) return false;
    const std::shared_lock lock(released_mu);
    return record.released.Overlaps(first, last + 1);
  }
};

struct SnapshotInfo {
  Uuid id{};
  SnapshotState state = SnapshotState::kLive;
  SnapshotRecord record;
};

struct Event {
  enum class Kind { kLowWater, kBroken, kUnrecorded, kTrackerLost } kind;
  Uuid snapshot{};
  uint64_t used = 0;
  uint64_t limit = 0;
  std::string why;
};

struct Activity {
  uint64_t writes = 0, bytes = 0, first_writes = 0, copies = 0, waits = 0, flushes = 0, notes = 0, syncs = 0;
  uint64_t store_used = 0, store_limit = 0, store_held = 0, store_free = 0, preserved = 0;
  uint32_t epoch = 0;
};

struct Changes {
  std::vector<double> runs;  // start and length in bytes alternate
  uint64_t next = 0;         // where to go on; the volume's size where that was all
  bool exact = true;
  std::string why;
};

class Volume;

struct SnapshotRequest {
  std::shared_ptr<Volume> volume;
  Uuid id{};
};

struct SnapshotResult {
  uint64_t hold_ns = 0;
  uint64_t switch_ns = 0;
  int64_t time_ms = 0;
  std::vector<uint32_t> epochs;
  // Writes that each volume had met at the switch, when none was under way.
  std::vector<uint64_t> writes;
};

class Volume : public std::enable_shared_from_this<Volume> {
 public:
  using Listener = std::function<void(const Event&)>;

  // A null store file is a store in memory, a null tracker one that forgets. `listener` is called from any thread.
  static int Open(const VolumeOptions& options, std::unique_ptr<File> origin, std::unique_ptr<File> store,
                  std::unique_ptr<File> tracker, Listener listener, std::shared_ptr<Volume>* volume, OpenReport* report,
                  std::string* why);
  ~Volume();

  // The live device. 0 or an errno; the range lies within the size.
  int Read(uint64_t offset, size_t length, uint8_t* into) { return Ended(ended_ ? 0 : origin_->Read(offset, length, into)); }
  int Write(uint64_t offset, size_t length, const uint8_t* from);
  int WriteZeroes(uint64_t offset, uint64_t length, bool punch);
  int Flush();
  File& origin() { return *origin_; }
  // For a hold from outside: cow_hold.h.
  Gate& gate() { return gate_; }
  // As Disk::MayWait has it.
  bool WriteMayWait(uint64_t offset, size_t length) const;
  bool ReadMayWait() const { return leads_back_; }

  // One moment of all the volumes (each once). ETIMEDOUT where writes under way did not end within `timeout_ms`; the
  // snapshots exist, as durably as each policy says, when it returns 0, and none does otherwise.
  static int Take(const std::vector<SnapshotRequest>& requests, const Uuid& group, unsigned timeout_ms, SnapshotResult* result);

  std::vector<SnapshotInfo> List() const;
  int Delete(const Uuid& id);
  // Whole chunks within [start, end) bytes: no longer kept for this snapshot, reads of them are EIO from now on. EBUSY
  // while more than `own` files are open on it. Other snapshots keep what they need of the same chunks.
  int Release(const Uuid& id, const std::vector<std::pair<uint64_t, uint64_t>>& ranges, int own);
  // Chunks that the store has for this snapshot, as runs of bytes: at first all, then those that came since; at most
  // `limit` runs, the rest the next time. A hint of what is to be read first: one may be told twice.
  int Preserved(const Uuid& id, size_t limit, std::vector<std::pair<uint64_t, uint64_t>>* runs);
  int BreakAll(int error, const std::string& why);
  std::shared_ptr<Snapshot> FindSnapshot(const Uuid& id) const;  // null where there is none

  // What was written after the snapshot of epoch `since`, up to the one of epoch `until` (0: up to now), from byte `from`
  // on: at most `limit` runs at once, so that an answer takes bounded memory.
  Changes ChangesSince(uint32_t since, uint32_t until, uint64_t from = 0, size_t limit = SIZE_MAX);
  // Somebody else wrote: nothing before now is known, and no snapshot holds.
  int Distrust(const std::string& why);

  Activity Counters();
  // Writes so far, zeroes and discards too; exact where none is under way.
  uint64_t Writes() const;
  const VolumeOptions& options() const { return options_; }
  // Writes under way end; all is made durable; the next start finds it clean. Later writes are ESHUTDOWN.
  int Close();
  // As a killed process leaves it: nothing is begun on its files any more.
  void Abandon();
  // Closed or abandoned: of the live device and of every snapshot, all is ESHUTDOWN from then on.
  bool ended() const { return ended_; }

 private:
  friend class SnapshotDisk;

  struct Busy {
    std::mutex mu;
    std::condition_variable freed;
    std::unordered_set<uint64_t> chunks;
  };
  struct Owed {
    RecordKind kind;
    Uuid id;
    int error;
    std::string why;
  };

  Volume(const VolumeOptions& options, std::unique_ptr<File> origin, std::unique_ptr<File> tracker, Listener listener);

  // What a call on the origin gave: the descriptor of a volume that ended meanwhile leads nowhere.
  int Ended(int err) const { return ended_ ? ESHUTDOWN : err; }
  void LetGo();

  uint64_t Chunks() const { return (options_.size + options_.chunk_size - 1) / options_.chunk_size; }
  uint32_t ChunkBytes(uint64_t chunk) const;
  void LockChunk(uint64_t chunk);
  void UnlockChunk(uint64_t chunk);

  int Preserve(uint64_t first, uint64_t last);
  int PreserveWindow(uint64_t first, uint64_t last, uint32_t epoch);
  int CopyRun(uint64_t first, uint64_t count, uint32_t epoch, uint64_t version);
  int CopyBatchOf(uint64_t first, uint64_t count, uint32_t epoch, uint64_t version);
  bool Needed(uint64_t chunk, uint32_t from, uint32_t to) const;
  void BreakNeeding(uint64_t first, uint64_t count, uint32_t epoch, int error, const std::string& why);
  void BreakThese(const std::vector<std::shared_ptr<Snapshot>>& these, int error, const std::string& why);
  void Owe(RecordKind kind, const Uuid& id, int error, const std::string& why);
  void Remove(const std::shared_ptr<Snapshot>& snapshot, SnapshotState state);
  void RefreshNewest();  // under snap_mu_
  // Of all chunks, or of `chunks` alone.
  void Sweep(uint32_t low, uint32_t high, bool wait, const Ranges* chunks = nullptr);
  void NotePreserved(const std::vector<CopySpec>& specs);
  void CheckLowWater();
  void Tell(const Event& event) {
    if (listener_) listener_(event);
  }
  void RunJanitor();

  const VolumeOptions options_;
  const std::unique_ptr<File> origin_;
  const Listener listener_;
  bool leads_back_ = false;  // the origin or the store does (File::MayLeadBack)
  std::shared_ptr<Store> store_;
  Tracker tracker_;
  ChunkMap generations_;
  Gate gate_;

  // Changed only while the gate is closed and drained, so that it stands still for whoever is inside.
  std::atomic<uint32_t> epoch_{1};
  // The highest epoch of a living snapshot, 0 where none is. Raised like epoch_; lowered at any time, after the record
  // that says why is durable.
  std::atomic<uint32_t> newest_live_{0};
  // Of living snapshots, whether one has released anything, or is drained; changed under snap_mu_.
  std::atomic<bool> any_released_{false};
  std::atomic<bool> any_drained_{false};
  // Counts every end of a need for copies: a copier that finds it moved looks again whether its copy is needed.
  std::atomic<uint64_t> needs_version_{0};

  mutable std::mutex snap_mu_;
  std::vector<std::shared_ptr<Snapshot>> snapshots_;  // ascending epochs; live and broken

  std::mutex break_mu_;  // one break at a time: who comes second finds it done and on record
  std::mutex order_mu_;  // creating, closing, distrusting: one at a time
  bool closed_ = false;  // under order_mu_
  std::atomic<bool> ended_{false};
  std::array<Busy, 64> busy_;

  std::atomic<uint64_t> first_writes_{0}, copies_{0}, waits_{0}, flushes_{0};
  std::atomic<bool> low_told_{false};
  std::atomic<uint64_t> copies_to_check_{0};

  // The janitor frees what broken snapshots held and writes the records that could not be written.
  std::mutex janitor_mu_;
  std::condition_variable janitor_wake_;
  std::deque<std::pair<uint32_t, uint32_t>> sweeps_;
  std::vector<Owed> owed_;
  bool stop_ = false;
  std::thread janitor_;
};

}  // namespace asof::cow
