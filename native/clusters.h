// What a backup does with clusters, by the batch: read them from a disk, tell zeros, digest, compare with what is known,
// pack, and write them where src/image/qcow2-writer.ts has decided. The thread that runs JavaScript sees batches only.
//
// A cluster is padded with zeros where the disk ends within it: so its digest is the same when the disk grows by zeros.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "disk.h"

namespace asof {

enum class ClusterKind : uint8_t { kZero, kSame, kPlain, kPacked };  // the order of CLUSTER_KINDS in src/native.ts

constexpr size_t kDigestSize = 32;

// How to prepare a batch.
struct ClusterOptions {
  uint32_t cluster_size;
  int level;  // of zstd; 0: nothing is packed; -1: digests alone are wanted, and the bytes are not kept
};

struct BadSectors {
  uint64_t offset;
  uint64_t length;
};

// Buffers of batches that are over, for those to come: fresh memory of this size is given back to the kernel each time, and
// every page of it costs a fault again. For many threads at once.
class BatchBuffers {
 public:
  using Buffer = std::unique_ptr<uint8_t[]>;
  // Of at least `bytes`, with anything in it.
  Buffer Take(size_t bytes);
  void Give(Buffer buffer, size_t bytes);

 private:
  std::mutex mutex_;
  std::vector<Buffer> free_;  // each of `bytes_`
  size_t bytes_ = 0;
};

struct ClusterBatch {
  ClusterBatch() = default;
  ClusterBatch(const ClusterBatch&) = delete;
  ClusterBatch& operator=(const ClusterBatch&) = delete;
  ~ClusterBatch();

  std::shared_ptr<BatchBuffers> buffers;
  size_t capacity = 0;  // bytes of each buffer
  std::vector<uint64_t> numbers;
  std::vector<uint8_t> expected;  // a digest each, all zeros where none is known; or empty
  std::unique_ptr<uint8_t[]> bytes;
  std::unique_ptr<uint8_t[]> packed;  // each at its cluster's place
  std::vector<uint8_t> kinds;
  std::vector<uint32_t> lengths;  // of packed ones
  std::vector<uint8_t> digests;
  // What the disk could not give: whole sectors, in order, filled with zeros.
  std::vector<BadSectors> bad;
};

// 0, or an errno that concerns the disk as a whole; a sector that cannot be read is in `bad`.
int PrepareClusters(Disk* disk, const ClusterOptions& options, ClusterBatch* batch);

// Reads the clusters of both disks and says of each: kZero where both are zeros, kSame where they are the same otherwise,
// kPlain where they differ. What `other` cannot give differs; what `disk` cannot is in its batch's `bad`. No bytes are kept.
int CompareClusters(Disk* disk, Disk* other, uint32_t cluster_size, ClusterBatch* batch);

// Writes the clusters of kind plain and packed at their offsets; an offset below zero leaves one out. 0 or an errno.
int StoreClusters(const ClusterBatch& batch, uint32_t cluster_size, int fd, const std::vector<int64_t>& offsets);

}  // namespace asof
