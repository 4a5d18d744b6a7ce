#include "cow_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cow_lock.h"

namespace asof::cow {
namespace {

// A place that can neither be read nor written. Opened once and kept, so that letting go needs no descriptor.
int Nowhere() {
  static const int fd = open("/", O_PATH | O_CLOEXEC);
  return fd;
}

}  // namespace

PosixFile::PosixFile(int fd) : fd_(fd) { Nowhere(); }

int PosixFile::Lock(std::string* who) { return LockDescription(fd_, who); }

int File::Read(uint64_t offset, size_t length, uint8_t* into) {
  size_t got = 0;
  if (int err = ReadSome(offset, length, into, &got)) return err;
  return got == length ? 0 : EIO;
}

int File::Write(uint64_t offset, size_t length, const uint8_t* from) {
  const iovec part{const_cast<uint8_t*>(from), length};
  return Write(&part, 1, offset);
}

std::pair<uint64_t, uint64_t> PosixFile::Identity() const {
  struct stat of;
  if (fstat(fd_, &of) != 0) return File::Identity();
  if (S_ISBLK(of.st_mode)) return {UINT64_MAX, of.st_rdev};
  return {of.st_dev, of.st_ino};
}

bool PosixFile::MayLeadBack() const {
  struct stat st;
  struct statfs fs;
  if (fstat(fd_, &st) != 0 || fstatfs(fd_, &fs) != 0) return true;
  if (S_ISREG(st.st_mode) && fs.f_type == TMPFS_MAGIC) return false;
  const dev_t device = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
  char path[64];
  snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(device), minor(device));
  // ../../devices/virtual/block/loop0, or ../../devices/pci0000:00/…
  char* where = realpath(path, nullptr);
  const bool hardware = where && !strstr(where, "/virtual/");
  free(where);
  return !hardware;
}

PosixFile::~PosixFile() {
  if (fd_ >= 0) close(fd_);
}

void PosixFile::LetGo() {
  // The number stays ours, so that a call under way or to come never meets somebody else's file.
  if (Nowhere() >= 0) dup3(Nowhere(), fd_, O_CLOEXEC);
}

int PosixFile::ReadSome(uint64_t offset, size_t length, uint8_t* into, size_t* got) {
  *got = 0;
  while (*got < length) {
    const ssize_t n = pread(fd_, into + *got, length - *got, static_cast<off_t>(offset + *got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) break;
    *got += static_cast<size_t>(n);
  }
  return 0;
}

int PosixFile::Write(const iovec* parts, int count, uint64_t offset) {
  std::vector<iovec> rest;  // only after a short write
  while (count > 0) {
    const ssize_t n = pwritev(fd_, parts, std::min(count, IOV_MAX), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return EIO;
    offset += static_cast<uint64_t>(n);
    size_t done = static_cast<size_t>(n);
    int whole = 0;
    while (whole < count && done >= parts[whole].iov_len) done -= parts[whole++].iov_len;
    if (whole == count) return 0;
    std::vector<iovec> left(parts + whole, parts + count);
    left[0].iov_base = static_cast<uint8_t*>(left[0].iov_base) + done;
    left[0].iov_len -= done;
    rest = std::move(left);
    parts = rest.data();
    count = static_cast<int>(rest.size());
  }
  return 0;
}

int PosixFile::Sync() { return fdatasync(fd_) == 0 ? 0 : errno; }

int PosixFile::Zero(uint64_t offset, uint64_t length, bool punch) {
  // On a block device PUNCH_HOLE is a discard that must read back as zeros, or EOPNOTSUPP: unlike BLKDISCARD.
  const int mode = FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
  while (fallocate(fd_, mode, static_cast<off_t>(offset), static_cast<off_t>(length)) != 0) {
    if (errno != EINTR) return errno == ENOSYS ? EOPNOTSUPP : errno;
  }
  return 0;
}

int PosixFile::Truncate(uint64_t size) { return ftruncate(fd_, static_cast<off_t>(size)) == 0 ? 0 : errno; }

int PosixFile::Size(uint64_t* bytes) {
  struct stat st;
  if (fstat(fd_, &st) != 0) return errno;
  if (S_ISBLK(st.st_mode)) return ioctl(fd_, BLKGETSIZE64, bytes) == 0 ? 0 : errno;
  *bytes = static_cast<uint64_t>(st.st_size);
  return 0;
}

int PosixFile::Seek(uint64_t offset, int whence, uint64_t* result) {
  const off_t at = lseek(fd_, static_cast<off_t>(offset), whence);
  if (at < 0) return errno;
  *result = static_cast<uint64_t>(at);
  return 0;
}

int PosixFile::Space(uint64_t* held, uint64_t* free) {
  struct stat st;
  struct statvfs fs;
  if (fstat(fd_, &st) != 0 || fstatvfs(fd_, &fs) != 0) return errno;
  if (S_ISBLK(st.st_mode)) {
    *free = 0;
    return Size(held);
  }
  *held = static_cast<uint64_t>(st.st_blocks) * 512;
  *free = static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize;
  return 0;
}

int MemoryFile::ReadSome(uint64_t offset, size_t length, uint8_t* into, size_t* got) {
  const uint64_t size = size_.load();
  *got = offset >= size ? 0 : static_cast<size_t>(std::min<uint64_t>(length, size - offset));
  for (size_t done = 0; done < *got;) {
    const uint64_t page = (offset + done) / kPage;
    const size_t skip = (offset + done) % kPage;
    const size_t n = std::min(kPage - skip, *got - done);
    Shard& shard = ShardOf(page);
    const std::lock_guard lock(shard.mu);
    const auto it = shard.pages.find(page);
    if (it == shard.pages.end()) {
      memset(into + done, 0, n);
    } else {
      memcpy(into + done, it->second.get() + skip, n);
    }
    done += n;
  }
  return 0;
}

int MemoryFile::Write(const iovec* parts, int count, uint64_t offset) {
  for (int i = 0; i < count; i++) {
    const auto* from = static_cast<const uint8_t*>(parts[i].iov_base);
    for (size_t done = 0; done < parts[i].iov_len;) {
      const uint64_t page = offset / kPage;
      const size_t skip = offset % kPage;
      const size_t n = std::min(kPage - skip, parts[i].iov_len - done);
      Shard& shard = ShardOf(page);
      const std::lock_guard lock(shard.mu);
      auto& bytes = shard.pages[page];
      if (!bytes) {
        bytes = std::make_unique<uint8_t[]>(kPage);
        held_ += kPage;
      }
      memcpy(bytes.get() + skip, from + done, n);
      done += n;
      offset += n;
    }
  }
  uint64_t size = size_.load();
  while (size < offset && !size_.compare_exchange_weak(size, offset)) {
  }
  return 0;
}

int MemoryFile::Zero(uint64_t offset, uint64_t length, bool) {
  for (const uint64_t end = offset + length; offset < end;) {
    const uint64_t page = offset / kPage;
    const size_t skip = offset % kPage;
    const size_t n = static_cast<size_t>(std::min<uint64_t>(kPage - skip, end - offset));
    Shard& shard = ShardOf(page);
    const std::lock_guard lock(shard.mu);
    const auto it = shard.pages.find(page);
    if (it != shard.pages.end()) {
      memset(it->second.get() + skip, 0, n);
      const bool empty = n == kPage || (it->second[0] == 0 && memcmp(it->second.get(), it->second.get() + 1, kPage - 1) == 0);
      if (empty) {
        shard.pages.erase(it);
        held_ -= kPage;
      }
    }
    offset += n;
  }
  return 0;
}

int MemoryFile::Truncate(uint64_t size) {
  if (const uint64_t old = size_.load(); old > size) Zero(size, old - size, true);
  size_ = size;
  return 0;
}

int MemoryFile::Size(uint64_t* bytes) {
  *bytes = size_.load();
  return 0;
}

int MemoryFile::Seek(uint64_t offset, int whence, uint64_t* result) {
  const uint64_t size = size_.load();
  if (offset >= size) return ENXIO;
  *result = whence == SEEK_HOLE ? size : offset;
  return 0;
}

int MemoryFile::Space(uint64_t* held, uint64_t* free) {
  *held = held_.load();
  *free = UINT64_MAX;
  return 0;
}

}  // namespace asof::cow
