#include "fuse_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

namespace asof::fuse {

int Mount(const std::string& mount_point, const std::string& source, bool allow_other, bool writable, int* fd) {
  const int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device < 0) return errno;
  // default_permissions: the kernel checks modes, so that ACCESS need not be asked.
  std::string options = "fd=" + std::to_string(device) + ",rootmode=40555,user_id=" + std::to_string(geteuid()) +
                        ",group_id=" + std::to_string(getegid()) + ",default_permissions";
  if (allow_other) options += ",allow_other";
  const unsigned long flags = (writable ? 0 : MS_RDONLY) | MS_NOSUID | MS_NODEV;
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

int SocketPair(int ends[2]) {
  return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 ? 0 : errno;
}

int ReceiveFd(int socket) {
  char byte;
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0) return -1;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) return -1;
  if (header->cmsg_len < CMSG_LEN(sizeof(int))) return -1;
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

}  // namespace asof::fuse
