// A disk that can be written, on top of one that cannot: the writable view of a point. The disk below is never changed.
//
// A block is read from below until it has been written, whole, into the layer; from then on from there. First writes of a
// block take turns (a lock for each 1 MiB, of 64); a later write takes none, and no read ever does: what lies below does not
// change, so that a read beside a first write gives the old bytes or the new ones.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "overlay_layer.h"
#include "writable_disk.h"

namespace asof::overlay {

class OverlayDisk final : public WritableDisk {
 public:
  OverlayDisk(std::shared_ptr<Disk> base, std::unique_ptr<Layer> layer)
      : base_(std::move(base)), layer_(std::move(layer)), map_(layer_->map()), hold_(base_->OpenReader()) {}

  uint64_t Size() const override { return base_->Size(); }
  uint32_t SectorSize() const override { return base_->SectorSize(); }
  int Read(uint64_t offset, size_t length, uint8_t* into, Reader* reader) override;
  int Seek(uint64_t offset, int whence, uint64_t* result) override;
  // An upper bound where the disk below has one, or where it is not known which of its bytes lie below written blocks.
  bool Allocated(uint64_t* bytes, unsigned wait_ms) override;
  std::unique_ptr<Reader> OpenReader() override;
  int WholeFile() override { return -1; }
  void Close() override { closed_ = true; }

  // Where only a part of a block is written, the rest comes from below: EIO, and nothing has changed, where it cannot be
  // read. A whole block heals what is bad below.
  int Write(uint64_t offset, size_t length, const uint8_t* from) override;
  int Flush() override;
  int WriteZeroes(uint64_t offset, uint64_t length, bool punch) override;

  // Close, and then: what is under way ends, what was written is stable, the layer's file is let go. An errno where not
  // all of it could be. The disk below may be closed afterwards. It may wait for JavaScript, and so not be called there.
  int End();

  unsigned readers() const { return *readers_; }  // open files
  uint64_t written() const { return map_.written() * kBlock; }
  uint64_t Held() { return layer_->Held(); }

 private:
  // Bytes of a block that is written in part.
  struct Fill {
    size_t length = 0;
    uint8_t bytes[kBlock];
  };
  class Locked;

  int ReadHead(uint64_t offset, Fill* head);
  int ReadTail(uint64_t end, Fill* tail);
  // All of [offset, end) is zeros; `head` and `tail` lie around it.
  int ZeroLocked(uint64_t offset, uint64_t end, const Fill& head, const Fill& tail);

  const std::shared_ptr<Disk> base_;
  const std::unique_ptr<Layer> layer_;
  Map& map_;
  std::unique_ptr<Reader> hold_;  // whoever asks whether the disk below is in use, is told that it is
  const std::shared_ptr<std::atomic<unsigned>> readers_ = std::make_shared<std::atomic<unsigned>>(0);
  std::atomic<bool> closed_{false};
  bool ended_ = false;           // by whoever has it alone
  std::shared_mutex under_way_;  // shared by whatever is under way; End waits for it
  std::array<std::mutex, 64> stripes_;
};

}  // namespace asof::overlay
