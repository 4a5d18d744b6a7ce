#include "mapped_disk.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

namespace asof {
namespace {

// Misses within one window wait for one answer (REGION of src/block/region.ts; another value would only cost).
constexpr uint64_t kWindow = uint64_t{64} << 20;

// qcow2 counts packed bytes in sectors: the last one need not be there (docs/interop/qcow2.rst, compressed clusters).
constexpr size_t kOvershoot = 512;

// Bytes of packed data that a thread keeps room for between blocks.
constexpr size_t kScratchKept = size_t{4} << 20;

// Reads from this length on unpack whole blocks right into their destination, on several threads: a stream, of which
// the cache would keep what nobody asks for again. Measured at 1 MiB with zstd: two thirds of the processor time that
// reading ahead into the cache and copying from it takes.
constexpr size_t kStream = size_t{256} << 10;

// A read is done in steps of this length, so that what it notes of its runs is bounded. A multiple of any sector.
constexpr uint64_t kStep = uint64_t{8} << 20;

constexpr uint64_t kMaxAhead = uint64_t{8} << 20;

BlockKey KeyOf(const Row& row) {
  return {row.offset, row.file, row.packed_length, row.unpacked_length, static_cast<Codec>(row.codec)};
}

// Room of this thread for `length` packed bytes; `done` gives back what is more than it may keep.
uint8_t* Scratch(size_t length, bool done) {
  thread_local std::unique_ptr<uint8_t[]> room;
  thread_local size_t size = 0;
  if (done) {
    if (size > kScratchKept) {
      room.reset();
      size = 0;
    }
    return nullptr;
  }
  if (size < length) {
    size = std::max(length, size_t{128} << 10);
    room.reset(new uint8_t[size]);
  }
  return room.get();
}

}  // namespace

class MappedDisk::Use {
 public:
  explicit Use(MappedDisk* disk) : disk_(disk) {
    disk_->uses_.fetch_add(1);
    open_ = !disk_->closed_.load();
  }
  ~Use() {
    if (disk_->uses_.fetch_sub(1) == 1 && disk_->closed_.load()) {
      // Under the lock, so that Close is not between its look at the count and its sleep.
      std::lock_guard lock(disk_->mutex_);
      disk_->changed_.notify_all();
    }
  }
  bool open() const { return open_; }

 private:
  MappedDisk* const disk_;
  bool open_;
};

struct MappedDisk::Fault {
  uint64_t start;
  uint64_t end;
  std::string why;
};

struct MappedDisk::Piece {
  BlockKey key;
  uint32_t skip;
  uint32_t length;
  uint8_t* into;
  uint64_t run_start;
  uint64_t run_end;
  std::string why;  // '' where the bytes are there
};

MappedDisk::MappedDisk(std::shared_ptr<Engine> engine, uint64_t size, uint32_t sector_size, bool zero_damage, Ask ask)
    : engine_(std::move(engine)),
      size_(size),
      sector_size_(sector_size),
      zero_damage_(zero_damage),
      ask_(std::move(ask)),
      map_(&engine_->maps) {}

int MappedDisk::Read(uint64_t offset, size_t length, uint8_t* into, Reader* reader) {
  Use use(this);
  if (!use.open()) return ESHUTDOWN;
  if (offset > size_ || length > size_ - offset) return EINVAL;
  if (length == 0) return 0;
  if (reader != nullptr) {
    auto* sequential = static_cast<SequentialReader*>(reader);
    auto span = sequential->Note(offset, length);
    span.to = std::min(span.to, size_);
    if (span.from < span.to) sequential->CameTo(ReadAhead(span, length < kStream, sequential->position()));
  }

  // Head, body and tail: a sector is sound or not as a whole, so below only whole sectors are read.
  uint64_t end = offset + length;
  uint64_t body = (offset + sector_size_ - 1) / sector_size_ * sector_size_;
  uint64_t tail = end == size_ ? end : end / sector_size_ * sector_size_;
  uint8_t sector[4096];
  auto part = [&](uint64_t from, uint64_t to) {
    uint64_t start = from / sector_size_ * sector_size_;
    size_t whole = static_cast<size_t>(std::min<uint64_t>(sector_size_, size_ - start));
    int error = ReadSectors(start, whole, sector);
    if (error == 0) memcpy(into + (from - offset), sector + (from - start), static_cast<size_t>(to - from));
    return error;
  };
  int error = 0;
  if (offset < body) error = part(offset, std::min(body, end));
  for (uint64_t at = body; at < tail; at += kStep) {
    int of_body = ReadSectors(at, static_cast<size_t>(std::min(kStep, tail - at)), into + (at - offset));
    if (error == 0) error = of_body;
  }
  if (tail >= body && tail < end) {
    int of_tail = part(tail, end);
    if (error == 0) error = of_tail;
  }
  return error;
}

int MappedDisk::ReadSectors(uint64_t offset, size_t length, uint8_t* into) {
  uint64_t end = offset + length;
  uint64_t at = offset;
  std::vector<Piece> pieces;
  std::vector<Fault> faults;
  while (at < end) {
    RegionPtr region;
    std::string why;
    int error = Resolve(at, &region, &why);
    if (error == ESHUTDOWN) return error;
    if (error != 0) {
      uint64_t stop = std::min(map_.KnownFrom(at, end), (at / kWindow + 1) * kWindow);
      faults.push_back(Fault{at, stop, std::move(why)});
      at = stop;
      continue;
    }
    ReadRows(*region, &at, end, into + (at - offset), &pieces, &faults);
  }

  bool past_cache = length >= kStream;
  if (pieces.size() == 1) {
    ReadPiece(&pieces[0], past_cache);
  } else if (!pieces.empty()) {
    engine_->pool.ForEach(pieces.size(), engine_->helpers, [&](size_t i) { ReadPiece(&pieces[i], past_cache); });
  }
  for (auto& piece : pieces) {
    if (!piece.why.empty()) faults.push_back(Fault{piece.run_start, piece.run_end, std::move(piece.why)});
  }
  return faults.empty() ? 0 : Settle(&faults, offset, length, into);
}

// Reads what is plain and notes what is packed, from *at, which `into` stands for, to `end` or the region's end.
void MappedDisk::ReadRows(const Region& region, uint64_t* at, uint64_t end, uint8_t* into, std::vector<Piece>* pieces,
                          std::vector<Fault>* faults) {
  end = std::min(end, region.end);
  for (size_t i = region.RowAt(*at); *at < end; ++i) {
    const Row& row = region.rows[i];
    uint64_t row_end = region.RowEnd(i);
    uint64_t stop = std::min(end, row_end);
    size_t length = static_cast<size_t>(stop - *at);
    switch (static_cast<Kind>(row.kind)) {
      case Kind::kZero:
        memset(into, 0, length);
        break;
      case Kind::kData:
        ReadData(row, *at, length, into, faults);
        break;
      case Kind::kPacked:
        pieces->push_back(Piece{KeyOf(row), static_cast<uint32_t>(row.skip + (*at - row.start)),
                                static_cast<uint32_t>(length), into, row.start, row_end, {}});
        break;
      case Kind::kBad:
        faults->push_back(Fault{*at, stop, region.reasons[row.packed_length]});
        break;
    }
    into += length;
    *at = stop;
  }
}

void MappedDisk::ReadData(const Row& row, uint64_t at, size_t length, uint8_t* into, std::vector<Fault>* faults) {
  const File& file = engine_->files[row.file];
  const uint64_t end = at + length;
  // Bytes to try at once: all, until an error; then to the end of the sector, as long as that fails.
  size_t step = length;
  while (at < end) {
    size_t want = std::min(step, static_cast<size_t>(end - at));
    FileRead read = file.Read(row.offset + (at - row.start), want, into);
    at += read.got;
    into += read.got;
    if (read.got == want) {
      step = length;
      continue;
    }
    if (read.error == 0) {
      faults->push_back(Fault{at, end, file.path() + " ends before these bytes"});
      return;
    }
    uint64_t sector_end = std::min(end, (at / sector_size_ + 1) * sector_size_);
    if (want > sector_end - at || read.got > 0) {
      step = static_cast<size_t>(sector_end - at);
      continue;
    }
    faults->push_back(Fault{at, sector_end, file.path() + " cannot be read here: " + strerrordesc_np(read.error)});
    into += sector_end - at;
    at = sector_end;
    step = std::min<size_t>(sector_size_, static_cast<size_t>(end - at));
  }
}

void MappedDisk::ReadPiece(Piece* piece, bool past_cache) {
  BlockPtr block;
  if (past_cache && piece->skip == 0 && piece->length == piece->key.unpacked_length) {
    bool known = false;
    block = engine_->cache.Find(piece->key, &known, &piece->why);
    if (!known) {
      engine_->cache.CountUnpacked();
      LoadBlock(piece->key, piece->into, &piece->why);
      return;
    }
  } else {
    block = GetBlock(piece->key, &piece->why);
  }
  if (block) memcpy(piece->into, block.get() + piece->skip, piece->length);
}

BlockPtr MappedDisk::GetBlock(const BlockKey& key, std::string* why) {
  return engine_->cache.Get(
      key, [&](uint8_t* into, std::string* reason) { return LoadBlock(key, into, reason); }, why);
}

bool MappedDisk::LoadBlock(const BlockKey& key, uint8_t* into, std::string* why) {
  const File& file = engine_->files[key.file];
  uint8_t* packed = Scratch(key.packed_length, false);
  FileRead read = file.Read(key.offset, key.packed_length, packed);
  auto block = [&] {
    return file.path() + ": the " + CodecName(key.codec) + " block at byte " + std::to_string(key.offset);
  };
  bool sound = false;
  if (read.error != 0) {
    *why = block() + " cannot be read: " + strerrordesc_np(read.error);
  } else if (key.packed_length - read.got >= kOvershoot) {
    *why = block() + " is cut off by the end of the file";
  } else {
    sound = Unpack(key.codec, packed, read.got, into, key.unpacked_length);
    if (!sound && key.codec == Codec::kAdler32) *why = block() + " does not match its checksum";
    else if (!sound) *why = block() + " does not unpack to " + std::to_string(key.unpacked_length) + " bytes";
  }
  Scratch(0, true);
  return sound;
}

// Notes the faults of a read of whole sectors, and makes zeros of them where that is wanted.
int MappedDisk::Settle(std::vector<Fault>* faults, uint64_t offset, size_t length, uint8_t* into) {
  const uint64_t end = offset + length;
  for (auto& fault : *faults) {
    uint64_t start = fault.start / sector_size_ * sector_size_;
    uint64_t stop = std::min(size_, (fault.end + sector_size_ - 1) / sector_size_ * sector_size_);
    defects_.Add(start, stop, fault.why);
    if (!zero_damage_) continue;
    start = std::max(start, offset);
    stop = std::min(stop, end);
    if (start < stop) memset(into + (start - offset), 0, static_cast<size_t>(stop - start));
  }
  return zero_damage_ ? 0 : EIO;
}

int MappedDisk::Resolve(uint64_t offset, RegionPtr* region, std::string* why) {
  // More than one round where the answer that this waited for was another part of the window.
  for (;;) {
    *region = map_.Find(offset);
    if (*region) return 0;
    auto pending = AskOnce(offset);
    if (!pending) return ESHUTDOWN;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return pending->done; });
    if (pending->error != 0) {
      *why = pending->why;
      return pending->error;
    }
    // Directly from the answer: the map may have forgotten it already.
    if (offset >= pending->region->start && offset < pending->region->end) {
      *region = pending->region;
      return 0;
    }
  }
}

// The answer under way for the window of `offset`, asked for unless it has been; null after Close.
std::shared_ptr<MappedDisk::Pending> MappedDisk::AskOnce(uint64_t offset) {
  std::shared_ptr<Pending> pending;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return nullptr;
    auto [at, fresh] = pending_.try_emplace(offset / kWindow);
    if (!fresh) return at->second;
    pending = at->second = std::make_shared<Pending>();
  }
  if (!ask_(offset)) Answered(offset, nullptr, "the engine is closed");
  return pending;
}

void MappedDisk::Answered(uint64_t offset, RegionPtr region, const std::string& why) {
  engine_->resolved.fetch_add(1, std::memory_order_relaxed);
  if (region && !closed_) map_.Insert(region);
  std::lock_guard lock(mutex_);
  auto at = pending_.find(offset / kWindow);
  if (at == pending_.end()) return;  // closed meanwhile
  at->second->error = region ? 0 : EIO;
  at->second->region = std::move(region);
  at->second->why = why;
  at->second->done = true;
  pending_.erase(at);
  changed_.notify_all();
}

bool MappedDisk::Known(uint64_t offset, uint64_t* end, uint64_t* allocated) const {
  RegionPtr region = map_.Find(offset);
  if (!region) return false;
  *end = region->end;
  *allocated = 0;
  for (size_t i = region->RowAt(offset); i < region->rows.size(); ++i) {
    const Row& row = region->rows[i];
    if (static_cast<Kind>(row.kind) != Kind::kZero) {
      *allocated += region->RowEnd(i) - std::max<uint64_t>(row.start, offset);
    }
  }
  return true;
}

int MappedDisk::Seek(uint64_t offset, int whence, uint64_t* result) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return EINVAL;
  Use use(this);
  if (!use.open()) return ESHUTDOWN;
  if (offset >= size_) return ENXIO;
  for (uint64_t at = offset; at < size_;) {
    if (closed_) return ESHUTDOWN;
    RegionPtr region;
    std::string why;
    int error = Resolve(at, &region, &why);
    if (error == ESHUTDOWN) return error;
    if (error != 0) {
      // Not known, so it counts as data.
      if (whence == SEEK_DATA) {
        *result = at;
        return 0;
      }
      at = map_.KnownFrom(at, std::min(size_, (at / kWindow + 1) * kWindow));
      continue;
    }
    for (size_t i = region->RowAt(at); i < region->rows.size(); ++i) {
      bool hole = static_cast<Kind>(region->rows[i].kind) == Kind::kZero;
      if (hole == (whence == SEEK_HOLE)) {
        *result = std::max<uint64_t>(at, region->rows[i].start);
        return 0;
      }
    }
    at = region->end;
  }
  if (whence == SEEK_DATA) return ENXIO;
  *result = size_;  // every file ends with a hole (lseek(2))
  return 0;
}

bool MappedDisk::Allocated(uint64_t* bytes, unsigned wait_ms) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(wait_ms), [&] { return allocated_known_ || closed_.load(); });
  *bytes = allocated_known_ ? allocated_ : size_;
  return allocated_known_;
}

void MappedDisk::SetAllocated(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  allocated_known_ = true;
  allocated_ = bytes;
  changed_.notify_all();
}

std::unique_ptr<Reader> MappedDisk::OpenReader() {
  return std::make_unique<SequentialReader>(std::min<uint64_t>(kMaxAhead, engine_->cache.limit() / 4));
}

int MappedDisk::WholeFile() {
  Use use(this);
  if (!use.open() || size_ == 0 || zero_damage_) return -1;
  RegionPtr region;
  std::string why;
  if (Resolve(0, &region, &why) != 0) return -1;
  if (region->rows.size() != 1 || region->end != size_) return -1;
  const Row& row = region->rows[0];
  if (static_cast<Kind>(row.kind) != Kind::kData || row.offset != 0) return -1;
  int fd = engine_->files[row.file].fd();
  // Of exactly the disk's size: a longer file would show bytes that are not the disk's.
  struct stat stat;
  if (fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode) || static_cast<uint64_t>(stat.st_size) != size_) return -1;
  return fd;
}

void MappedDisk::Close() {
  std::unique_lock lock(mutex_);
  closed_.store(true);
  for (auto& [window, pending] : pending_) {
    pending->error = ESHUTDOWN;
    pending->done = true;
  }
  pending_.clear();
  changed_.notify_all();
  changed_.wait(lock, [&] { return uses_.load() == 0; });
  lock.unlock();
  map_.Clear();
}

uint64_t MappedDisk::ReadAhead(SequentialReader::Span span, bool unpack,
                               const SequentialReader::Position& position) {
  uint64_t at = span.from;
  while (at < span.to) {
    RegionPtr region = map_.Find(at);
    if (!region) {
      AskOnce(at);  // nobody waits for it yet
      return at;
    }
    uint64_t end = std::min(span.to, region->end);
    for (size_t i = region->RowAt(at); at < end; ++i) {
      const Row& row = region->rows[i];
      uint64_t row_end = region->RowEnd(i);
      at = row_end;
      if (!unpack || static_cast<Kind>(row.kind) != Kind::kPacked) continue;
      BlockKey key = KeyOf(row);
      if (engine_->cache.Has(key)) continue;
      bool taken = engine_->pool.SubmitIdle([weak = weak_from_this(), position, key, row_end] {
        if (position->load(std::memory_order_relaxed) >= row_end) return;
        auto disk = weak.lock();
        if (!disk) return;
        Use use(disk.get());
        if (use.open()) {
          std::string why;  // told to whoever reads it
          disk->GetBlock(key, &why);
        }
      });
      if (!taken) return row.start;
    }
  }
  return at;
}

}  // namespace asof
