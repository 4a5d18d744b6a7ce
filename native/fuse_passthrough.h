// Passthrough: the kernel reads a disk that is one whole plain file by itself.
//
// The kernel refuses (EIO) to have one inode open in both ways at once, so the way is decided per inode: at the first
// open, for as long as any handle is open. A file that the kernel once refused is served from then on.
// Linux: fs/fuse/passthrough.c, fs/fuse/iomode.c.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace asof::fuse {

class Passthrough {
 public:
  // `device` is /dev/fuse; nothing is passed through until Enable.
  explicit Passthrough(int device) : device_(device) {}

  void Enable() { enabled_ = true; }

  // A handle of `node` opens; `file` is its plain file. The backing id for the answer, or 0: serve it.
  int32_t Open(uint64_t node, int file);

  // A handle for which Open was called has been released.
  void Release(uint64_t node);

 private:
  struct Inode {
    unsigned handles = 0;
    int32_t backing = 0;
    bool refused = false;
  };

  const int device_;
  bool enabled_ = false;  // written before other workers run
  std::mutex mutex_;      // guards inodes_, and makes the decision for an inode one step
  std::unordered_map<uint64_t, Inode> inodes_;
};

}  // namespace asof::fuse
