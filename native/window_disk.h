// A part of a disk that is a disk: a partition. It has the bytes, the defects and the memory of the disk that it lies in;
// nothing of it is known to JavaScript but where it begins, so that a read never asks more than one of the whole disk does.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include <errno.h>
#include <unistd.h>

#include "disk.h"

namespace asof {

class WindowDisk final : public Disk {
 public:
  // [start, start + size) lies within `whole`.
  WindowDisk(std::shared_ptr<Disk> whole, uint64_t start, uint64_t size)
      : whole_(std::move(whole)), start_(start), size_(size) {}

  uint64_t Size() const override { return size_; }
  uint32_t SectorSize() const override { return whole_->SectorSize(); }

  int Read(uint64_t offset, size_t length, uint8_t* into, Reader* reader) override {
    if (closed_) return ESHUTDOWN;
    if (offset > size_ || length > size_ - offset) return EINVAL;
    return whole_->Read(start_ + offset, length, into, reader);
  }

  int Seek(uint64_t offset, int whence, uint64_t* result) override {
    if (closed_) return ESHUTDOWN;
    if (offset >= size_) return ENXIO;
    uint64_t found;
    if (const int error = whole_->Seek(start_ + offset, whence, &found)) return error;
    // What follows the window is as good as the end of a file: no data, but a hole.
    if (whence == SEEK_DATA && found - start_ >= size_) return ENXIO;
    *result = std::min(found - start_, size_);
    return 0;
  }

  // Counted by who asks (src/partition-tree.ts), and never waited for.
  bool Allocated(uint64_t* bytes, unsigned) override {
    *bytes = allocated_;
    if (*bytes <= size_) return true;
    *bytes = size_;
    return false;
  }

  bool MayWait(uint64_t offset, size_t length, bool write) override {
    return offset < size_ && whole_->MayWait(start_ + offset, std::min<uint64_t>(length, size_ - offset), write);
  }

  std::unique_ptr<Reader> OpenReader() override { return whole_->OpenReader(); }
  int WholeFile() override { return -1; }

  // The disk that it lies in stays open, and waits for what is under way when it is closed itself.
  void Close() override { closed_ = true; }

  void SetAllocated(uint64_t bytes) { allocated_ = bytes; }

 private:
  const std::shared_ptr<Disk> whole_;
  const uint64_t start_;
  const uint64_t size_;
  std::atomic<bool> closed_{false};
  std::atomic<uint64_t> allocated_{UINT64_MAX};
};

}  // namespace asof
