// mount(2) and umount2(2) for a FUSE file system. Mounting needs CAP_SYS_ADMIN; without it, fusermount3 does it
// (src/mount/fusermount.ts).
#pragma once

#include <string>

namespace asof::fuse {

// Opens /dev/fuse and mounts it on the directory `mount_point`, read-only unless `writable`: 0 and *fd, or an errno.
int Mount(const std::string& mount_point, const std::string& source, bool allow_other, bool writable, int* fd);

// 0, or an errno: EBUSY while anything in it is in use, unless `lazy`; EINVAL where nothing is mounted.
int Unmount(const std::string& mount_point, bool lazy);

// A pair of connected sockets for fusermount3, closed on exec: 0, or an errno.
int SocketPair(int ends[2]);

// The descriptor that fusermount3 has sent by now to the other end of `socket`; -1 where it sent none. Does not wait.
int ReceiveFd(int socket);

}  // namespace asof::fuse
