#include "fuse_passthrough.h"

#include "fuse_abi.h"

namespace asof::fuse {

int32_t Passthrough::Open(uint64_t node, int file) {
  if (!enabled_) return 0;
  std::lock_guard lock(mutex_);
  Inode& inode = inodes_[node];
  if (inode.handles == 0 && !inode.refused) {
    BackingMap map{file, 0, 0};
    const int id = ioctl(device_, kBackingOpen, &map);
    inode.backing = id > 0 ? id : 0;
    inode.refused = id <= 0;
  }
  ++inode.handles;
  return inode.backing;
}

void Passthrough::Release(uint64_t node) {
  if (!enabled_) return;
  std::lock_guard lock(mutex_);
  const auto found = inodes_.find(node);
  if (found == inodes_.end() || found->second.handles == 0) return;
  Inode& inode = found->second;
  if (--inode.handles > 0) return;
  if (const uint32_t id = static_cast<uint32_t>(inode.backing)) ioctl(device_, kBackingClose, &id);
  inode.backing = 0;
  if (!inode.refused) inodes_.erase(found);  // the node may be gone for good
}

}  // namespace asof::fuse
