#include "clusters.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>

#include "digest.h"

namespace asof {
namespace {

// Bytes that are read at once where clusters follow each other.
constexpr uint64_t kReadAtOnce = uint64_t{1} << 20;

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

int ReadAll(Disk* disk, uint32_t cluster_size, ClusterBatch* batch) {
  const uint64_t size = disk->Size();
  const auto& numbers = batch->numbers;
  for (size_t i = 0, next; i < numbers.size(); i = next) {
    for (next = i + 1; next < numbers.size() && numbers[next] == numbers[next - 1] + 1; ++next) {
      if ((next - i + 1) * cluster_size > kReadAtOnce) break;
    }
    uint8_t* into = batch->bytes.get() + i * cluster_size;
    const uint64_t offset = numbers[i] * cluster_size;
    const size_t whole = (next - i) * cluster_size;
    if (offset >= size) return EINVAL;
    const size_t length = static_cast<size_t>(std::min<uint64_t>(whole, size - offset));
    int error = ReadRun(disk, offset, length, cluster_size, into, &batch->bad);
    if (error != 0) return error;
    memset(into + length, 0, whole - length);
  }
  return 0;
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

int PrepareClusters(Disk* disk, const ClusterOptions& options, ClusterBatch* batch) {
  const uint32_t size = options.cluster_size;
  const size_t count = batch->numbers.size();
  batch->bytes.reset(new uint8_t[count * size]);
  if (options.level > 0) batch->packed.reset(new uint8_t[count * size]);
  batch->kinds.resize(count);
  batch->lengths.resize(count);
  batch->digests.resize(count * kDigestSize);
  int error = ReadAll(disk, size, batch);
  if (error != 0) return error;
  uint8_t zeros[kDigestSize];
  bool zeros_known = false;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* bytes = batch->bytes.get() + i * size;
    uint8_t* digest = batch->digests.data() + i * kDigestSize;
    const bool zero = IsZero(bytes, size);
    if (zero && zeros_known) {
      memcpy(digest, zeros, kDigestSize);
    } else if (!Digest(bytes, size, digest)) {
      return ENOMEM;
    }
    if (zero && !zeros_known) {
      memcpy(zeros, digest, kDigestSize);
      zeros_known = true;
    }
    ClusterKind kind = zero ? ClusterKind::kZero : ClusterKind::kPlain;
    if (!batch->expected.empty() && memcmp(digest, batch->expected.data() + i * kDigestSize, kDigestSize) == 0) {
      kind = ClusterKind::kSame;
    } else if (!zero && options.level > 0) {
      batch->lengths[i] = Pack(bytes, size, options.level, batch->packed.get() + i * size);
      if (batch->lengths[i] > 0) kind = ClusterKind::kPacked;
    }
    batch->kinds[i] = static_cast<uint8_t>(kind);
  }
  if (options.level < 0) batch->bytes.reset();
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
