// A disk whose bytes lie where its extent map says. Reads are one loop over runs; what the map does not know is asked
// for, once for all who wait.
//
// States: open, then closed for good. Close wakes those who wait for an answer and waits for those who read.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "defects.h"
#include "disk.h"
#include "engine.h"
#include "extent_map.h"
#include "read_ahead.h"

namespace asof {

class MappedDisk final : public Disk, public std::enable_shared_from_this<MappedDisk> {
 public:
  // Asks, without waiting, for the region that holds an offset; Answered follows. False where nobody can answer.
  // It may answer before it returns.
  using Ask = std::function<bool(uint64_t offset)>;

  MappedDisk(std::shared_ptr<Engine> engine, uint64_t size, uint32_t sector_size, bool zero_damage, Ask ask);
  ~MappedDisk() override { Close(); }

  uint64_t Size() const override { return size_; }
  uint32_t SectorSize() const override { return sector_size_; }
  int Read(uint64_t offset, size_t length, uint8_t* into, Reader* reader) override;
  int Seek(uint64_t offset, int whence, uint64_t* result) override;
  bool Allocated(uint64_t* bytes, unsigned wait_ms) override;
  std::unique_ptr<Reader> OpenReader() override;
  int WholeFile() override;
  void Close() override;

  // The answer to an Ask of `offset`: a region that holds it, or null and why there is none.
  void Answered(uint64_t offset, RegionPtr region, const std::string& why);

  // What the map knows from `offset` on: where it ends, and how many of those bytes are no zero runs. False where it
  // knows nothing of it.
  bool Known(uint64_t offset, uint64_t* end, uint64_t* allocated) const;

  void SetAllocated(uint64_t bytes);
  std::vector<Defect> ListDefects() const { return defects_.List(); }

 private:
  class Use;    // holds Close up
  struct Fault;  // sectors that a read could not vouch for
  struct Piece;  // a part of a packed block that a read wants
  struct Pending {
    bool done = false;
    int error = 0;
    RegionPtr region;
    std::string why;
  };

  int ReadSectors(uint64_t offset, size_t length, uint8_t* into);
  void ReadRows(const Region& region, uint64_t* at, uint64_t end, uint8_t* into, std::vector<Piece>* pieces,
                std::vector<Fault>* faults);
  void ReadData(const Row& row, uint64_t at, size_t length, uint8_t* into, std::vector<Fault>* faults);
  void ReadPiece(Piece* piece, bool past_cache);
  BlockPtr GetBlock(const BlockKey& key, std::string* why);
  bool LoadBlock(const BlockKey& key, uint8_t* into, std::string* why);
  // As far as the map is known, unpacks (where `unpack`) what of the span is packed into the cache, on the engine's
  // threads; asks for the region that comes then. Returns how far it came.
  uint64_t ReadAhead(SequentialReader::Span span, bool unpack, const SequentialReader::Position& position);
  int Settle(std::vector<Fault>* faults, uint64_t offset, size_t length, uint8_t* into);

  // The region that holds `offset`: 0, or EIO and *why, or ESHUTDOWN.
  int Resolve(uint64_t offset, RegionPtr* region, std::string* why);
  std::shared_ptr<Pending> AskOnce(uint64_t offset);

  const std::shared_ptr<Engine> engine_;
  const uint64_t size_;
  const uint32_t sector_size_;
  const bool zero_damage_;
  const Ask ask_;
  ExtentMap map_;
  Defects defects_;

  // Counted by every read; Close waits for 0. The two orders are sequentially consistent: a read that does not see
  // `closed_` is seen by Close.
  std::atomic<uint64_t> uses_{0};
  std::atomic<bool> closed_{false};

  // Guards what follows. `changed_` tells of an answer, of the allocation, and of the last use of a closed disk.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, std::shared_ptr<Pending>> pending_;  // by window
  bool allocated_known_ = false;
  uint64_t allocated_ = 0;
};

}  // namespace asof
