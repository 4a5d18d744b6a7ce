// The journal of the store: what happened to epochs and snapshots, one record of 4 KiB each. Written seldom, one at a time.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cow_store.h"

namespace asof::cow {

class Journal {
 public:
  explicit Journal(Store* store) : store_(store) {}

  // Each returns 0 when the record is as durable as the policy says. ETIMEDOUT: it may still arrive.
  int Create(const Uuid& id, const SnapshotRecord& snapshot);
  int Break(const Uuid& id, int error, const std::string& why);
  int Delete(const Uuid& id);
  int Release(const Uuid& id, const Ranges& ranges);
  int Open(uint32_t epoch);
  // Last, when all else is on stable storage; syncs whatever the policy.
  int Close(uint32_t epoch);
  // The number of the last record.
  uint64_t Sequence() {
    const std::lock_guard lock(mu_);
    return sequence_;
  }

 private:
  friend class Recovery;
  using Payload = std::vector<uint8_t>;

  struct Segment {
    uint32_t slot;
    uint32_t blocks;  // records that it has room for
    uint32_t used;
  };

  int Append(RecordKind kind, Payload payload);
  // The rest runs under mu_, as the caller's own work or on the runner's thread.
  int AppendNow(RecordKind kind, const Payload& payload);
  int Write(RecordKind kind, const Payload& payload);
  int MakeSegment(Segment* segment);
  int Rewrite(bool must);
  void Apply(RecordKind kind, const Payload& payload);
  std::vector<std::pair<RecordKind, Payload>> State() const;

  static Payload CreatePayload(const Uuid& id, const SnapshotRecord& snapshot);
  static Payload BreakPayload(const Uuid& id, int error, const std::string& why);
  static std::vector<Payload> ReleasePayloads(const Uuid& id, const Ranges& ranges);

  Store* const store_;
  // Held over a record's write and sync: records reach the disk in their order, so that a gap is never a torn tail.
  std::mutex mu_;
  std::vector<Segment> segments_;  // the last is written; those before are full
  bool spare_ = false;             // spare_segment_ is made
  Segment spare_segment_{};
  uint64_t sequence_ = 0;
  std::map<Uuid, SnapshotRecord> snapshots_;  // what the records say together
  Payload open_;                              // the last open record, which a rewrite carries on
};

}  // namespace asof::cow
