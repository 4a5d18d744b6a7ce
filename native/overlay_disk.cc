#include "overlay_disk.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace asof::overlay {
namespace {

constexpr uint64_t kStripe = 1 << 20;  // bytes that share a lock

uint64_t BlockOf(uint64_t offset) { return offset / kBlock; }
uint64_t BlocksTo(uint64_t end) { return (end + kBlock - 1) / kBlock; }

const uint8_t kZeros[2 * kBlock] = {};

// What is written in one piece: up to three parts, none of them empty.
class Parts {
 public:
  Parts& Add(const uint8_t* bytes, size_t length) {
    if (length > 0) parts_[count_++] = {const_cast<uint8_t*>(bytes), length};
    return *this;
  }
  const iovec* data() const { return parts_; }
  int count() const { return count_; }

 private:
  iovec parts_[3];
  int count_ = 0;
};

class OpenFile final : public Reader {
 public:
  OpenFile(std::unique_ptr<Reader> below, std::shared_ptr<std::atomic<unsigned>> count)
      : below_(std::move(below)), count_(std::move(count)) {
    ++*count_;
  }
  ~OpenFile() override { --*count_; }
  Reader* below() const { return below_.get(); }

 private:
  const std::unique_ptr<Reader> below_;
  const std::shared_ptr<std::atomic<unsigned>> count_;
};

}  // namespace

// The locks of [offset, end), from the lowest up, so that no two wait for each other.
class OverlayDisk::Locked {
 public:
  Locked(std::array<std::mutex, 64>* stripes, uint64_t offset, uint64_t end) : stripes_(stripes) {
    const uint64_t first = offset / kStripe, last = (end - 1) / kStripe;
    for (uint64_t i = first; i <= last && i < first + 64; i++) held_ |= uint64_t{1} << (i % 64);
    for (size_t i = 0; i < 64; i++) {
      if (held_ >> i & 1) (*stripes_)[i].lock();
    }
  }
  ~Locked() {
    for (size_t i = 0; i < 64; i++) {
      if (held_ >> i & 1) (*stripes_)[i].unlock();
    }
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  std::array<std::mutex, 64>* const stripes_;
  uint64_t held_ = 0;
};

int OverlayDisk::Read(uint64_t offset, size_t length, uint8_t* into, Reader* reader) {
  const std::shared_lock alive(under_way_);
  if (closed_) return ESHUTDOWN;
  Reader* below = reader ? static_cast<OpenFile*>(reader)->below() : nullptr;
  const uint64_t end = offset + length;
  for (uint64_t at = offset; at < end;) {
    bool written;
    const uint64_t stop = std::min(end, map_.RunEnd(BlockOf(at), BlocksTo(end), &written) * kBlock);
    uint8_t* to = into + (at - offset);
    const int err = written ? layer_->Read(at, stop - at, to) : base_->Read(at, stop - at, to, below);
    if (err) return err;
    at = stop;
  }
  return 0;
}

int OverlayDisk::ReadHead(uint64_t offset, Fill* head) {
  if (offset % kBlock == 0 || map_.Get(BlockOf(offset))) return 0;
  head->length = offset % kBlock;
  return base_->Read(offset - head->length, head->length, head->bytes, nullptr) == 0 ? 0 : EIO;
}

int OverlayDisk::ReadTail(uint64_t end, Fill* tail) {
  // The last block of the disk ends with the disk.
  const uint64_t stop = std::min(BlocksTo(end) * kBlock, Size());
  if (end == stop || map_.Get(BlockOf(end))) return 0;
  tail->length = stop - end;
  return base_->Read(end, tail->length, tail->bytes, nullptr) == 0 ? 0 : EIO;
}

int OverlayDisk::Write(uint64_t offset, size_t length, const uint8_t* from) {
  const std::shared_lock alive(under_way_);
  if (closed_) return ESHUTDOWN;
  if (length == 0) return 0;
  const uint64_t end = offset + length;
  Parts parts;
  if (map_.All(BlockOf(offset), BlocksTo(end))) return layer_->Write(parts.Add(from, length).data(), 1, offset);

  const Locked locked(&stripes_, offset, end);
  Fill head, tail;
  if (int err = ReadHead(offset, &head)) return err;
  if (int err = ReadTail(end, &tail)) return err;
  parts.Add(head.bytes, head.length).Add(from, length).Add(tail.bytes, tail.length);
  if (int err = layer_->Write(parts.data(), parts.count(), offset - head.length)) return err;
  return map_.Set(BlockOf(offset), BlocksTo(end));
}

int OverlayDisk::WriteZeroes(uint64_t offset, uint64_t length, bool) {
  const std::shared_lock alive(under_way_);
  if (closed_) return ESHUTDOWN;
  if (length == 0) return 0;
  const uint64_t end = offset + length;
  const Locked locked(&stripes_, offset, end);
  Fill head, tail;
  if (int err = ReadHead(offset, &head)) return err;
  if (int err = ReadTail(end, &tail)) return err;
  if (int err = ZeroLocked(offset, end, head, tail)) return err;
  return map_.Set(BlockOf(offset), BlocksTo(end));
}

int OverlayDisk::ZeroLocked(uint64_t offset, uint64_t end, const Fill& head, const Fill& tail) {
  const uint64_t whole = BlocksTo(offset) * kBlock;
  const uint64_t stop = end == Size() ? BlocksTo(end) * kBlock : BlockOf(end) * kBlock;
  if (whole >= stop) {  // no block is zeroed whole
    Parts parts;
    parts.Add(head.bytes, head.length).Add(kZeros, end - offset).Add(tail.bytes, tail.length);
    return layer_->Write(parts.data(), parts.count(), offset - head.length);
  }
  if (offset < whole) {
    Parts parts;
    parts.Add(head.bytes, head.length).Add(kZeros, whole - offset);
    if (int err = layer_->Write(parts.data(), parts.count(), offset - head.length)) return err;
  }
  if (stop < end) {
    Parts parts;
    parts.Add(kZeros, end - stop).Add(tail.bytes, tail.length);
    if (int err = layer_->Write(parts.data(), parts.count(), stop)) return err;
  }
  return layer_->Zero(whole, stop - whole);
}

int OverlayDisk::Flush() {
  const std::shared_lock alive(under_way_);
  return closed_ ? ESHUTDOWN : layer_->Flush();
}

int OverlayDisk::Seek(uint64_t offset, int whence, uint64_t* result) {
  const std::shared_lock alive(under_way_);
  if (closed_) return ESHUTDOWN;
  const uint64_t size = Size(), blocks = BlocksTo(size);
  if (offset >= size) return ENXIO;
  // What is below has been asked once for each of its runs, not for each of ours.
  uint64_t known = 0;
  for (uint64_t at = offset; at < size;) {
    bool written;
    const uint64_t stop = std::min(size, map_.RunEnd(BlockOf(at), blocks, &written) * kBlock);
    uint64_t found = at;
    if (written || known <= at) {
      const int err = written ? layer_->Seek(at, whence, &found) : base_->Seek(at, whence, &found);
      if (err == ENXIO) found = !written ? size : whence == SEEK_HOLE ? at : stop;
      else if (err == EINVAL || err == EOPNOTSUPP) found = whence == SEEK_DATA ? at : stop;  // all is data
      else if (err) return err;
      if (!written) known = found;
    } else {
      found = known;
    }
    if (found < stop) {
      *result = found;
      return 0;
    }
    at = stop;
  }
  *result = size;
  return whence == SEEK_HOLE ? 0 : ENXIO;
}

bool OverlayDisk::Allocated(uint64_t* bytes, unsigned wait_ms) {
  const std::shared_lock alive(under_way_);
  if (closed_) {
    *bytes = Size();
    return true;
  }
  const bool known = base_->Allocated(bytes, wait_ms);
  const uint64_t size = Size();
  *bytes = std::min(size, std::min(*bytes, size - std::min(size, written())) + std::min(layer_->Held(), written()));
  return known;
}

std::unique_ptr<Reader> OverlayDisk::OpenReader() { return std::make_unique<OpenFile>(base_->OpenReader(), readers_); }

int OverlayDisk::End() {
  closed_ = true;
  const std::unique_lock alone(under_way_);
  if (std::exchange(ended_, true)) return 0;
  hold_.reset();
  return layer_->Close();
}

}  // namespace asof::overlay
