// The live device and a snapshot as disks (disk.h), for the mount and for JavaScript.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cow_volume.h"
#include "disk.h"
#include "writable_disk.h"

namespace asof::cow {

struct DiskDefect {
  uint64_t offset;
  uint64_t length;
  std::string why;
};

class SnapshotDisk final : public Disk {
 public:
  SnapshotDisk(std::shared_ptr<Volume> volume, std::shared_ptr<Snapshot> snapshot)
      : volume_(std::move(volume)), snapshot_(std::move(snapshot)) {}

  uint64_t Size() const override { return volume_->options().size; }
  uint32_t SectorSize() const override { return volume_->options().sector_size; }
  // EIO for a broken snapshot or a released range, ESHUTDOWN for a deleted one.
  int Read(uint64_t offset, size_t length, uint8_t* into, asof::Reader* reader) override;
  // A hole of the origin is one of the snapshot where, looked at afterwards, no chunk of it was written later: as in Read. What
  // is preserved counts as data, zeros too, and so does everything once a range was released, which reads as an error.
  int Seek(uint64_t offset, int whence, uint64_t* result) override;
  bool Allocated(uint64_t* bytes, unsigned wait_ms) override;
  bool MayWait(uint64_t, size_t, bool) override { return volume_->ReadMayWait(); }
  std::unique_ptr<asof::Reader> OpenReader() override;
  int WholeFile() override { return -1; }
  void Close() override { closed_ = true; }

  std::vector<DiskDefect> Defects() const;

 private:
  int StateError() const;
  void Defect(uint64_t offset, uint64_t length, const std::string& why);
  bool Later(uint64_t chunk) const { return volume_->generations_.Get(chunk) > snapshot_->epoch; }
  int NextData(uint64_t at, uint64_t* result) const;
  uint64_t NextHole(uint64_t at) const;
  int ReadPreserved(uint64_t chunk, uint64_t offset, size_t length, uint8_t* into);

  const std::shared_ptr<Volume> volume_;
  const std::shared_ptr<Snapshot> snapshot_;
  std::atomic<bool> closed_{false};
  mutable std::mutex mu_;
  std::vector<DiskDefect> defects_;
  std::mutex count_mu_;  // of the two below: how far Allocated has come
  uint64_t counted_ = 0;
  uint64_t allocated_ = 0;
};

class LiveDisk final : public WritableDisk {
 public:
  explicit LiveDisk(std::shared_ptr<Volume> volume) : volume_(std::move(volume)) {}

  uint64_t Size() const override { return volume_->options().size; }
  uint32_t SectorSize() const override { return volume_->options().sector_size; }
  int Read(uint64_t offset, size_t length, uint8_t* into, asof::Reader*) override {
    return closed_ ? ESHUTDOWN : volume_->Read(offset, length, into);
  }
  int Seek(uint64_t offset, int whence, uint64_t* result) override;
  bool Allocated(uint64_t* bytes, unsigned wait_ms) override;
  bool MayWait(uint64_t offset, size_t length, bool write) override {
    return write ? volume_->WriteMayWait(offset, length) : volume_->ReadMayWait();
  }
  std::unique_ptr<asof::Reader> OpenReader() override { return nullptr; }
  int WholeFile() override { return -1; }
  void Close() override { closed_ = true; }

  int Write(uint64_t offset, size_t length, const uint8_t* from) override {
    return closed_ ? ESHUTDOWN : volume_->Write(offset, length, from);
  }
  int Flush() override { return closed_ ? ESHUTDOWN : volume_->Flush(); }
  int WriteZeroes(uint64_t offset, uint64_t length, bool punch) override {
    return closed_ ? ESHUTDOWN : volume_->WriteZeroes(offset, length, punch);
  }

 private:
  const std::shared_ptr<Volume> volume_;
  std::atomic<bool> closed_{false};
};

// nullptr where there is no such snapshot.
std::shared_ptr<SnapshotDisk> OpenSnapshotDisk(const std::shared_ptr<Volume>& volume, const Uuid& id);

}  // namespace asof::cow
