#include "clusters.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>

#include "digest.h"
#include "digest_pair.h"

namespace asof {
namespace {

// Bytes that are read at once where clusters follow each other, and digested while the processor's cache has them.
constexpr uint64_t kReadAtOnce = uint64_t{1} << 19;

// Buffers that are kept for batches to come: 4 MiB each, with the usual batches.
constexpr size_t kKeptBuffers = 16;

// Pieces of one pwritev(2).
constexpr size_t kPieces = 64;

// A packed cluster must save a sixteenth, or unpacking it costs more than it is worth.
constexpr uint32_t kLeastSaving = 16;

bool IsZero(const uint8_t* bytes, size_t length) {
  return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

struct FreeZstd {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

// The packed length; 0 where it is not worth it.
uint32_t Pack(const uint8_t* bytes, uint32_t length, int level, uint8_t* into) {
  thread_local std::unique_ptr<ZSTD_CCtx, FreeZstd> own(ZSTD_createCCtx());
  if (!own) return 0;
  size_t packed = ZSTD_compressCCtx(own.get(), into, length - length / kLeastSaving, bytes, length, level);
  return ZSTD_isError(packed) ? 0 : static_cast<uint32_t>(packed);
}

// Sector by sector, where a larger read failed.
int ReadSectors(Disk* disk, uint64_t offset, size_t length, uint8_t* into, std::vector<BadSectors>* bad) {
  const uint32_t sector = disk->SectorSize();
  for (size_t at = 0; at < length; at += sector) {
    size_t take = std::min<size_t>(sector, length - at);
    int error = disk->Read(offset + at, take, into + at, nullptr);
    if (error == 0) continue;
    if (error != EIO) return error;
    memset(into + at, 0, take);
    if (!bad->empty() && bad->back().offset + bad->back().length == offset + at) {
      bad->back().length += take;
    } else {
      bad->push_back({offset + at, take});
    }
  }
  return 0;
}

int ReadRun(Disk* disk, uint64_t offset, size_t length, uint32_t cluster_size, uint8_t* into, std::vector<BadSectors>* bad) {
  int error = disk->Read(offset, length, into, nullptr);
  if (error != EIO) return error;
  for (size_t at = 0; at < length; at += cluster_size) {
    size_t take = std::min<size_t>(cluster_size, length - at);
    error = disk->Read(offset + at, take, into + at, nullptr);
    if (error == EIO) error = ReadSectors(disk, offset + at, take, into + at, bad);
    if (error != 0) return error;
  }
  return 0;
}

// The clusters [from, to) of the batch, to `into`.
int ReadSome(Disk* disk, uint32_t cluster_size, size_t from, size_t to, uint8_t* into, ClusterBatch* batch) {
  const uint64_t size = disk->Size();
  const auto& numbers = batch->numbers;
  for (size_t i = from, next; i < to; i = next) {
    for (next = i + 1; next < to && numbers[next] == numbers[next - 1] + 1; ++next) {
    }
    const uint64_t offset = numbers[i] * cluster_size;
    const size_t whole = (next - i) * cluster_size;
    if (offset >= size) return EINVAL;
    const size_t length = static_cast<size_t>(std::min<uint64_t>(whole, size - offset));
    int error = ReadRun(disk, offset, length, cluster_size, into, &batch->bad);
    if (error != 0) return error;
    memset(into + length, 0, whole - length);
    into += whole;
  }
  return 0;
}

// The digests of the clusters [from, to), whose bytes are at `bytes`: two at a time where the processor can. `zeros` is that of
// a cluster of zeros, once one was met; those are of kind zero then.
bool DigestSome(const uint8_t* bytes, uint32_t size, size_t from, size_t to, std::vector<uint8_t>* zeros, ClusterBatch* batch) {
  auto digest_of = [batch](size_t i) { return batch->digests.data() + i * kDigestSize; };
  auto bytes_of = [bytes, size, from](size_t i) { return bytes + (i - from) * size; };
  const size_t none = to;
  size_t waiting = none;
  for (size_t i = from; i < to; ++i) {
    const bool zero = IsZero(bytes_of(i), size);
    batch->kinds[i] = static_cast<uint8_t>(zero ? ClusterKind::kZero : ClusterKind::kPlain);
    if (zero) {
      if (zeros->empty()) {
        zeros->resize(kDigestSize);
        if (!Digest(bytes_of(i), size, zeros->data())) return false;
      }
      memcpy(digest_of(i), zeros->data(), kDigestSize);
    } else if (waiting == none) {
      waiting = i;
    } else {
      if (!DigestPair(bytes_of(waiting), bytes_of(i), size, digest_of(waiting), digest_of(i)) &&
          !(Digest(bytes_of(waiting), size, digest_of(waiting)) && Digest(bytes_of(i), size, digest_of(i)))) {
        return false;
      }
      waiting = none;
    }
  }
  return waiting == none || Digest(bytes_of(waiting), size, digest_of(waiting));
}

// What the i-th cluster is beside its digest.
void Judge(const uint8_t* bytes, const ClusterOptions& options, size_t i, ClusterBatch* batch) {
  const uint32_t size = options.cluster_size;
  const uint8_t* digest = batch->digests.data() + i * kDigestSize;
  ClusterKind kind = static_cast<ClusterKind>(batch->kinds[i]);
  if (!batch->expected.empty() && memcmp(digest, batch->expected.data() + i * kDigestSize, kDigestSize) == 0) {
    kind = ClusterKind::kSame;
  } else if (kind == ClusterKind::kPlain && options.level > 0) {
    batch->lengths[i] = Pack(bytes, size, options.level, batch->packed.get() + i * size);
    if (batch->lengths[i] > 0) kind = ClusterKind::kPacked;
  }
  batch->kinds[i] = static_cast<uint8_t>(kind);
}

int WriteAll(int fd, struct iovec* pieces, size_t count, int64_t offset) {
  while (count > 0) {
    ssize_t written = pwritev(fd, pieces, static_cast<int>(count), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return EIO;
    offset += written;
    size_t left = static_cast<size_t>(written);
    while (count > 0 && left >= pieces->iov_len) {
      left -= pieces->iov_len;
      ++pieces;
      --count;
    }
    if (count > 0) {
      pieces->iov_base = static_cast<uint8_t*>(pieces->iov_base) + left;
      pieces->iov_len -= left;
    }
  }
  return 0;
}

}  // namespace

BatchBuffers::Buffer BatchBuffers::Take(size_t bytes) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (bytes <= bytes_ && !free_.empty()) {
      Buffer buffer = std::move(free_.back());
      free_.pop_back();
      return buffer;
    }
  }
  return Buffer(new uint8_t[bytes]);
}

void BatchBuffers::Give(Buffer buffer, size_t bytes) {
  if (!buffer) return;
  std::lock_guard<std::mutex> lock(mutex_);
  // The last batch of a job is smaller than the others: its buffers are not worth theirs.
  if (bytes > bytes_) {
    free_.clear();
    bytes_ = bytes;
  }
  if (bytes == bytes_ && free_.size() < kKeptBuffers) free_.push_back(std::move(buffer));
}

ClusterBatch::~ClusterBatch() {
  if (!buffers) return;
  buffers->Give(std::move(bytes), capacity);
  buffers->Give(std::move(packed), capacity);
}

int PrepareClusters(Disk* disk, const ClusterOptions& options, ClusterBatch* batch) {
  const uint32_t size = options.cluster_size;
  const size_t count = batch->numbers.size();
  const size_t group = std::max<size_t>(1, kReadAtOnce / size);
  const bool keeps = options.level >= 0;
  batch->capacity = std::min(count, keeps ? count : group) * size;
  batch->bytes = batch->buffers->Take(batch->capacity);
  if (options.level > 0) batch->packed = batch->buffers->Take(batch->capacity);
  batch->kinds.resize(count);
  batch->lengths.resize(count);
  batch->digests.resize(count * kDigestSize);
  std::vector<uint8_t> zeros;
  for (size_t from = 0, to; from < count; from = to) {
    to = std::min(from + group, count);
    uint8_t* into = batch->bytes.get() + (keeps ? from * size : 0);
    int error = ReadSome(disk, size, from, to, into, batch);
    if (error != 0) return error;
    if (!DigestSome(into, size, from, to, &zeros, batch)) return ENOMEM;
    for (size_t i = from; i < to; ++i) Judge(into + (i - from) * size, options, i, batch);
  }
  if (!keeps) batch->buffers->Give(std::move(batch->bytes), batch->capacity);
  return 0;
}

int CompareClusters(Disk* disk, Disk* other, uint32_t cluster_size, ClusterBatch* batch) {
  const size_t count = batch->numbers.size();
  ClusterBatch there;
  there.numbers = batch->numbers;
  batch->bytes.reset(new uint8_t[count * cluster_size]);
  there.bytes.reset(new uint8_t[count * cluster_size]);
  int error = ReadSome(disk, cluster_size, 0, count, batch->bytes.get(), batch);
  if (error == 0) error = ReadSome(other, cluster_size, 0, count, there.bytes.get(), &there);
  if (error != 0) return error;
  batch->kinds.resize(count);
  size_t bad = 0;
  // Runs of sectors come in the order of the clusters, and reach over several where they are neighbours.
  std::sort(there.bad.begin(), there.bad.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  for (size_t i = 0; i < count; ++i) {
    const uint64_t start = batch->numbers[i] * cluster_size;
    if (i > 0 && batch->numbers[i] < batch->numbers[i - 1]) bad = 0;
    while (bad < there.bad.size() && there.bad[bad].offset + there.bad[bad].length <= start) ++bad;
    const bool unread = bad < there.bad.size() && there.bad[bad].offset < start + cluster_size;
    const uint8_t* bytes = batch->bytes.get() + i * cluster_size;
    ClusterKind kind = ClusterKind::kPlain;
    if (!unread && memcmp(bytes, there.bytes.get() + i * cluster_size, cluster_size) == 0) {
      kind = IsZero(bytes, cluster_size) ? ClusterKind::kZero : ClusterKind::kSame;
    }
    batch->kinds[i] = static_cast<uint8_t>(kind);
  }
  batch->bytes.reset();
  return 0;
}

int StoreClusters(const ClusterBatch& batch, uint32_t cluster_size, int fd, const std::vector<int64_t>& offsets) {
  std::vector<size_t> order;
  for (size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] >= 0 && batch.kinds[i] >= static_cast<uint8_t>(ClusterKind::kPlain)) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return offsets[a] < offsets[b]; });
  struct iovec pieces[kPieces];
  for (size_t at = 0; at < order.size();) {
    const int64_t start = offsets[order[at]];
    int64_t end = start;
    size_t used = 0;
    for (; at < order.size() && used < kPieces && offsets[order[at]] == end; ++at, ++used) {
      const size_t i = order[at];
      const bool packed = batch.kinds[i] == static_cast<uint8_t>(ClusterKind::kPacked);
      uint8_t* from = (packed ? batch.packed : batch.bytes).get() + i * cluster_size;
      pieces[used] = {from, packed ? batch.lengths[i] : cluster_size};
      end += static_cast<int64_t>(pieces[used].iov_len);
    }
    int error = WriteAll(fd, pieces, used, start);
    if (error != 0) return error;
  }
  return 0;
}

}  // namespace asof
