// The files below the copy-on-write layer: origin, store and tracker, behind one interface, so that a test can put a
// disk that loses its cache, fails or hangs (cow_model.h) where a file descriptor is.
//
// All members may be called from any thread at once. Each returns 0 or an errno; a failed write may have written any
// part of its bytes.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

namespace asof::cow {

class File {
 public:
  virtual ~File() = default;

  // Reads up to `length` bytes; *got is less only at the end of the file.
  virtual int ReadSome(uint64_t offset, size_t length, uint8_t* into, size_t* got) = 0;
  virtual int Write(const iovec* parts, int count, uint64_t offset) = 0;
  // fdatasync(2): writes that had ended before it began are on stable storage when it returns 0.
  virtual int Sync() = 0;
  // The range reads as zeros afterwards; `punch` gives its space back too. EOPNOTSUPP where it cannot.
  virtual int Zero(uint64_t offset, uint64_t length, bool punch) = 0;
  virtual int Truncate(uint64_t size) = 0;
  virtual int Size(uint64_t* bytes) = 0;
  // lseek(2) with SEEK_DATA or SEEK_HOLE.
  virtual int Seek(uint64_t offset, int whence, uint64_t* result) = 0;
  // What the file holds on its file system, and what is free there.
  virtual int Space(uint64_t* held, uint64_t* free) = 0;
  // Takes the file for whoever holds its open file description (cow_lock.h). 0; EBUSY with *who has it; or an errno.
  virtual int Lock(std::string* /*who*/) { return 0; }
  // Gives the file back to others, with its locks, however long this object lives: a reader may still hold it. What is
  // called later fails with EBADF.
  virtual void LetGo() {}
  // Whether the bytes may lie on a device that software makes (loop, dm, nbd, …), so that reading them may lead back to a
  // mount of this process. True where that cannot be told.
  virtual bool MayLeadBack() const { return false; }
  // Equal for two that are the same bytes.
  virtual std::pair<uint64_t, uint64_t> Identity() const { return {reinterpret_cast<uintptr_t>(this), 0}; }

  // The whole range, or EIO where the file ends within it.
  int Read(uint64_t offset, size_t length, uint8_t* into);
  int Write(uint64_t offset, size_t length, const uint8_t* from);
};

// Owns the descriptor.
class PosixFile final : public File {
 public:
  explicit PosixFile(int fd);
  ~PosixFile() override;
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;

  using File::Write;
  int ReadSome(uint64_t offset, size_t length, uint8_t* into, size_t* got) override;
  int Write(const iovec* parts, int count, uint64_t offset) override;
  int Sync() override;
  int Zero(uint64_t offset, uint64_t length, bool punch) override;
  int Truncate(uint64_t size) override;
  int Size(uint64_t* bytes) override;
  int Seek(uint64_t offset, int whence, uint64_t* result) override;
  int Space(uint64_t* held, uint64_t* free) override;
  int Lock(std::string* who) override;
  void LetGo() override;
  bool MayLeadBack() const override;
  std::pair<uint64_t, uint64_t> Identity() const override;

 private:
  const int fd_;
};

// A store without a file: pages that exist once they were written. Lost with the process.
class MemoryFile final : public File {
 public:
  using File::Write;
  int ReadSome(uint64_t offset, size_t length, uint8_t* into, size_t* got) override;
  int Write(const iovec* parts, int count, uint64_t offset) override;
  int Sync() override { return 0; }
  int Zero(uint64_t offset, uint64_t length, bool punch) override;
  int Truncate(uint64_t size) override;
  int Size(uint64_t* bytes) override;
  int Seek(uint64_t offset, int whence, uint64_t* result) override;
  int Space(uint64_t* held, uint64_t* free) override;

 private:
  static constexpr size_t kPage = 65536;
  static constexpr size_t kShards = 16;
  struct Shard {
    // Guards the pages and their bytes. Two writers of one page take turns; nothing else is promised or needed, as a
    // slot has one writer and is read only once the index names it.
    std::mutex mu;
    std::unordered_map<uint64_t, std::unique_ptr<uint8_t[]>> pages;
  };
  Shard& ShardOf(uint64_t page) { return shards_[page % kShards]; }

  std::array<Shard, kShards> shards_;
  std::atomic<uint64_t> size_{0};
  std::atomic<uint64_t> held_{0};
};

}  // namespace asof::cow
