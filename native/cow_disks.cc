// What a volume shows to readers: the live device and its snapshots, as disks.
#include <unistd.h>

#include <cstring>

#include <algorithm>
#include <cerrno>

#include "cow_disks.h"

namespace asof::cow {
namespace {

constexpr uint64_t kOriginPiece = 1 << 20;  // bytes read from the origin between two looks at the generations
constexpr size_t kManyDefects = 1000;

}  // namespace

// An open file; a release is refused while others have one.
class SnapshotReader final : public asof::Reader {
 public:
  explicit SnapshotReader(std::shared_ptr<Snapshot> snapshot) : snapshot_(std::move(snapshot)) { snapshot_->handles++; }
  ~SnapshotReader() override { snapshot_->handles--; }

 private:
  const std::shared_ptr<Snapshot> snapshot_;
};

std::unique_ptr<asof::Reader> SnapshotDisk::OpenReader() { return std::make_unique<SnapshotReader>(snapshot_); }

int SnapshotDisk::StateError() const {
  if (closed_ || volume_->ended()) return ESHUTDOWN;
  switch (snapshot_->state.load()) {
    case SnapshotState::kLive:
      return 0;
    case SnapshotState::kBroken:
      return EIO;
    case SnapshotState::kDeleted:
      break;
  }
  return ESHUTDOWN;
}

void SnapshotDisk::Defect(uint64_t offset, uint64_t length, const std::string& why) {
  const std::lock_guard lock(mu_);
  for (const DiskDefect& defect : defects_) {
    if (defect.offset <= offset && offset + length <= defect.offset + defect.length && defect.why == why) return;
  }
  if (defects_.size() < kManyDefects) defects_.push_back({offset, length, why});
}

std::vector<DiskDefect> SnapshotDisk::Defects() const {
  std::vector<DiskDefect> list;
  {
    const std::lock_guard lock(mu_);
    list = defects_;
  }
  if (snapshot_->state.load() == SnapshotState::kBroken) {
    const std::lock_guard lock(volume_->snap_mu_);
    list = {{0, volume_->options_.size, snapshot_->record.why}};
  }
  std::sort(list.begin(), list.end(), [](const DiskDefect& a, const DiskDefect& b) { return a.offset < b.offset; });
  return list;
}

int SnapshotDisk::ReadPreserved(uint64_t chunk, uint64_t offset, size_t length, uint8_t* into) {
  std::string why;
  const int err = volume_->store_->ReadCopy(chunk, snapshot_->epoch, offset % volume_->options_.chunk_size, length, into, &why);
  // A snapshot that was broken, deleted or released meanwhile has no copies to miss.
  if (err != 0 && StateError() == 0 && !snapshot_->Released(chunk, chunk)) Defect(offset, length, why);
  return err;
}

int SnapshotDisk::Read(uint64_t offset, size_t length, uint8_t* into, asof::Reader*) {
  if (length == 0) return StateError();
  const Volume& volume = *volume_;
  const uint64_t size = volume.options_.chunk_size;
  const uint64_t first = offset / size, last = (offset + length - 1) / size;
  if (int err = StateError()) return err;
  if (snapshot_->Released(first, last)) return EIO;
  const uint64_t end = offset + length;
  for (uint64_t at = offset; at < end;) {
    uint64_t chunk = at / size;
    uint8_t* to = into + (at - offset);
    if (volume.generations_.Get(chunk) > snapshot_->epoch) {
      const uint64_t n = std::min(end, (chunk + 1) * size) - at;
      if (int err = ReadPreserved(chunk, at, n, to)) return err;
      at += n;
      continue;
    }
    uint64_t stop = std::min(end, (chunk + 1) * size);
    while (stop < end && stop - at < kOriginPiece && volume.generations_.Get(stop / size) <= snapshot_->epoch) {
      stop = std::min(end, stop + size);
    }
    const int err = volume.origin_->Read(at, stop - at, to);
    // Either the bytes are older than any later write, or the generation that such a write moved first is seen here.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    for (; at < stop; chunk++) {
      const uint64_t n = std::min(stop, (chunk + 1) * size) - at;
      if (volume.generations_.Get(chunk) > snapshot_->epoch) {
        if (int lost = ReadPreserved(chunk, at, n, into + (at - offset))) return lost;
      } else if (err != 0) {
        if (int gone = StateError()) return gone;
        // One bad sector must not hide what can be read before and after: the caller asks again in smaller pieces.
        Defect(at, n, std::string("the origin cannot be read: ") + strerror(err));
        return EIO;
      }
      at += n;
    }
  }
  // The same for what ended meanwhile: its copies may have been given to others while we read.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (int err = StateError()) return err;
  return snapshot_->Released(first, last) ? EIO : 0;
}

int SnapshotDisk::Seek(uint64_t offset, int whence, uint64_t* result) {
  if (int err = StateError()) return err;
  if (offset >= Size()) return ENXIO;
  *result = whence == SEEK_HOLE ? Size() : offset;
  return 0;
}

bool SnapshotDisk::Allocated(uint64_t* bytes, unsigned) {
  *bytes = Size();
  return true;
}

int LiveDisk::Seek(uint64_t offset, int whence, uint64_t* result) {
  if (closed_ || volume_->ended()) return ESHUTDOWN;
  if (offset >= Size()) return ENXIO;
  const int err = volume_->origin().Seek(offset, whence, result);
  if (err == EINVAL || err == EOPNOTSUPP) {  // a block device: all is data
    *result = whence == SEEK_HOLE ? Size() : offset;
    return 0;
  }
  if (err == 0 && *result > Size()) *result = Size();
  return err;
}

bool LiveDisk::Allocated(uint64_t* bytes, unsigned) {
  uint64_t free = 0;
  if (volume_->origin().Space(bytes, &free) != 0) *bytes = Size();
  return true;
}

std::shared_ptr<SnapshotDisk> OpenSnapshotDisk(const std::shared_ptr<Volume>& volume, const Uuid& id) {
  std::shared_ptr<Snapshot> snapshot = volume->FindSnapshot(id);
  return snapshot ? std::make_shared<SnapshotDisk>(volume, std::move(snapshot)) : nullptr;
}

}  // namespace asof::cow
