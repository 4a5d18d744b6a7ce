#include "fuse_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

namespace asof::fuse {

int Mount(const std::string& mount_point, const std::string& source, bool allow_other, int* fd) {
  const int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device < 0) return errno;
  // default_permissions: the kernel checks modes, so that ACCESS need not be asked.
  std::string options = "fd=" + std::to_string(device) + ",rootmode=40555,user_id=" + std::to_string(geteuid()) +
                        ",group_id=" + std::to_string(getegid()) + ",default_permissions";
  if (allow_other) options += ",allow_other";
  const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV;
  if (mount(source.c_str(), mount_point.c_str(), "fuse.asof", flags, options.c_str()) != 0) {
    const int error = errno;
    close(device);
    return error;
  }
  *fd = device;
  return 0;
}

int Unmount(const std::string& mount_point, bool lazy) {
  const int flags = UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0);
  return umount2(mount_point.c_str(), flags) == 0 ? 0 : errno;
}

}  // namespace asof::fuse
