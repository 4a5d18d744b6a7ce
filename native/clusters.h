// What a backup does with clusters, by the batch: read them from a disk, tell zeros, digest, compare with what is known,
// pack, and write them where src/image/qcow2-writer.ts has decided. The thread that runs JavaScript sees batches only.
//
// A cluster is padded with zeros where the disk ends within it: so its digest is the same when the disk grows by zeros.
#pragma once

#include <cstdint>
#include <memory>
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

struct ClusterBatch {
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

// Writes the clusters of kind plain and packed at their offsets; an offset below zero leaves one out. 0 or an errno.
int StoreClusters(const ClusterBatch& batch, uint32_t cluster_size, int fd, const std::vector<int64_t>& offsets);

}  // namespace asof
