// The image files of an engine: duplicated descriptors, open until the engine closes. Nothing here writes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

namespace asof {

// What a read of a file got: `got` bytes from the start of the range, then, where that is not all of it, the reason.
struct FileRead {
  size_t got;
  int error;  // an errno; 0 where the file ended
};

class File {
 public:
  File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

  // Closes the file, but keeps its number: that leads to a place that cannot be read. Nobody reads meanwhile.
  void LetGo();

  // Reads until all is there, the file ends, or an error.
  FileRead Read(uint64_t offset, size_t length, uint8_t* into) const;

 private:
  const int fd_;
  const std::string path_;
};

// Numbers of files only grow, and a number once given stays valid while the table lives: so that a look-up needs no
// lock. Files are added by the JavaScript thread alone.
class FileTable {
 public:
  FileTable() = default;
  ~FileTable();
  FileTable(const FileTable&) = delete;
  FileTable& operator=(const FileTable&) = delete;

  // Duplicates `fd`. 0 and *id, or an errno: EBADF where it is not open for reading, EMFILE where the table is full.
  int Add(int fd, std::string path, uint32_t* id);

  // Of every file. By the JavaScript thread.
  void LetGo();

  uint32_t Count() const { return count_.load(std::memory_order_acquire); }

  // `id` is less than a Count() seen before.
  const File& operator[](uint32_t id) const {
    return *chunks_[id / kChunk].load(std::memory_order_acquire)->files[id % kChunk];
  }

 private:
  static constexpr uint32_t kChunk = 64;
  static constexpr uint32_t kChunks = 1024;
  struct Chunk {
    std::unique_ptr<File> files[kChunk];
  };

  std::atomic<uint32_t> count_{0};
  std::atomic<Chunk*> chunks_[kChunks] = {};
};

}  // namespace asof
