// A machine to pull the plug of, for tests: files with a volatile cache in front of what is stable.
//
// A write lands in the cache; a sync makes everything that had ended before it stable. Cut makes a new machine from what
// would be left: of each 512-byte sector any of the versions written since the last sync, or the stable one, in any
// combination, as a disk that reorders and tears may leave it. All files of a machine are cut at one moment, and the
// old machine answers EIO from then on.
//
// Each file can also be slow, fail, hang, be full, or lie about syncs: of all that is written to it, or of one kind of it
// alone, as if the sync that should have made that kind stable had been forgotten.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cow_file.h"

namespace asof::cow {

// Of a store's blocks, by what they begin with: preserved chunks, with their headers; records of the journal.
enum class Written : uint8_t { kOther, kCopy, kRecord };

struct Faults {
  unsigned read_ms = 0, write_ms = 0, sync_ms = 0;  // how long each takes
  int read_error = 0, write_error = 0, sync_error = 0;
  uint64_t after = 0;      // so many operations pass before the errors begin
  uint64_t capacity = 0;   // bytes; ENOSPC beyond; 0 is none
  bool hang = false;       // writes and syncs wait until it is cleared
  bool drop_sync = false;  // a sync says yes and does nothing
  Written unsynced = Written::kOther;  // a sync leaves these where they are (kOther: none)
  bool no_punch = false;
};

class Machine : public std::enable_shared_from_this<Machine> {
 public:
  explicit Machine(const std::vector<uint64_t>& sizes);

  std::unique_ptr<File> Open(size_t file);
  std::shared_ptr<Machine> Cut(uint64_t seed);
  void SetFaults(size_t file, const Faults& faults);
  std::vector<uint8_t> Bytes(size_t file) const;
  void SetBytes(size_t file, std::vector<uint8_t> bytes);
  size_t Files() const { return contents_.size(); }

 private:
  friend class ModelFile;
  struct Pending {
    uint64_t offset;
    std::vector<uint8_t> bytes;
    Written kind;
  };
  struct Content {
    std::vector<uint8_t> cache;
    std::vector<uint8_t> stable;
    std::vector<Pending> pending;
    uint64_t applied = 0;  // pending entries made stable so far: numbers the first of `pending`
    Faults faults;
  };

  void Put(Content& content, uint64_t offset, const uint8_t* from, size_t length, Written kind);

  // Guards everything. Slow and hanging operations wait outside of it.
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::vector<Content> contents_;
  bool off_ = false;
};

}  // namespace asof::cow
