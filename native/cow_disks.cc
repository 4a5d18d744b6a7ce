// What a volume shows to readers: the live device and its snapshots, as disks.
#include <unistd.h>

#include <cstring>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "cow_disks.h"

namespace asof::cow {
namespace {

constexpr uint64_t kOriginPiece = 1 << 20;  // bytes read from the origin between two looks at the generations
constexpr size_t kManyDefects = 1000;
constexpr unsigned kManySeeks = 4096;  // questions to the origin in one search for a hole
constexpr unsigned kCountSlice = 2;    // milliseconds of counting that a request for attributes may always take

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

int SnapshotDisk::NextData(uint64_t at, uint64_t* result) const {
  const uint64_t size = volume_->options_.chunk_size;
  *result = at;
  if (Later(at / size)) return 0;
  uint64_t data = 0;
  const int err = volume_->origin_->Seek(at, SEEK_DATA, &data);
  if (err != 0 && err != ENXIO) return 0;  // a block device: all is data
  if (err == ENXIO || data > Size()) data = Size();
  // As in Read: a writer moves the generation before it writes or punches.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (uint64_t chunk = at / size; chunk * size < data; chunk++) {
    if (chunk % ChunkMap::kPage == 0 && !volume_->generations_.At(chunk / ChunkMap::kPage)) {
      chunk += ChunkMap::kPage - 1;
    } else if (Later(chunk)) {
      *result = std::max(at, chunk * size);
      return 0;
    }
  }
  *result = data;
  return data < Size() ? 0 : ENXIO;
}

uint64_t SnapshotDisk::NextHole(uint64_t at) const {
  const uint64_t size = volume_->options_.chunk_size;
  for (unsigned asked = 0; at < Size() && asked < kManySeeks;) {
    if (Later(at / size)) {
      at = (at / size + 1) * size;
      continue;
    }
    uint64_t hole = 0;
    asked++;
    if (volume_->origin_->Seek(at, SEEK_HOLE, &hole) != 0) break;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (hole == at && !Later(at / size)) return at;
    at = hole;
  }
  return Size();  // what was not looked at counts as data
}

int SnapshotDisk::Seek(uint64_t offset, int whence, uint64_t* result) {
  if (int err = StateError()) return err;
  if (offset >= Size()) return ENXIO;
  int err = 0;
  if (whence == SEEK_HOLE) {
    *result = NextHole(offset);
  } else {
    err = NextData(offset, result);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (int gone = StateError()) return gone;
  if (!snapshot_->has_released.load(std::memory_order_acquire)) return err;
  *result = whence == SEEK_HOLE ? Size() : offset;
  return 0;
}

bool SnapshotDisk::Allocated(uint64_t* bytes, unsigned wait_ms) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(std::max(wait_ms, kCountSlice));
  *bytes = Size();
  std::unique_lock lock(count_mu_, std::defer_lock);
  if (wait_ms > 0) {
    lock.lock();
  } else if (!lock.try_lock()) {
    return false;
  }
  // Each call goes on where the last one stopped; what it counted stays true, as a snapshot does not change.
  while (counted_ < Size()) {
    uint64_t data = 0;
    const int err = Seek(counted_, SEEK_DATA, &data);
    if (err == ENXIO) {
      counted_ = Size();
      break;
    }
    uint64_t hole = 0;
    if (err != 0 || Seek(data, SEEK_HOLE, &hole) != 0) return false;
    allocated_ += hole - data;
    counted_ = hole;
    if (std::chrono::steady_clock::now() >= until && counted_ < Size()) return false;
  }
  *bytes = allocated_;
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
