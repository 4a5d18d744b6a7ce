// See src/native.ts for what each call promises. None of them but cloneFile and zeroRange may block, and those have a
// thread.
#include "kernel_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <string>

#include "cow_lock.h"
#include "js_value.h"

namespace asof {
namespace {

bool Descriptor(const Napi::Value& value, int* fd) {
  uint64_t number;
  if (!ToInteger(value, INT32_MAX, &number)) return false;
  *fd = static_cast<int>(number);
  return true;
}

// flock(2), exclusive, without waiting: whether it is ours now.
Napi::Value LockWhole(const Napi::CallbackInfo& info) {
  int fd;
  if (!Descriptor(info[0], &fd)) return Throw(info.Env(), "EINVAL", "lockWhole takes a descriptor");
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(info.Env(), false);
  return ThrowErrno(info.Env(), errno, "cannot lock the file");
}

// With others who only read; false where somebody has it for himself.
Napi::Value LockShared(const Napi::CallbackInfo& info) {
  int fd;
  if (!Descriptor(info[0], &fd)) return Throw(info.Env(), "EINVAL", "lockShared takes a descriptor");
  if (flock(fd, LOCK_SH | LOCK_NB) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(info.Env(), false);
  return ThrowErrno(info.Env(), errno, "cannot lock the file");
}

// Gives the space of a range back, where the file system can; whether it did. The size stays.
Napi::Value PunchHole(const Napi::CallbackInfo& info) {
  int fd;
  uint64_t start, length;
  if (!Descriptor(info[0], &fd) || !ToInteger(info[1], kMaxOffset, &start) || !ToInteger(info[2], kMaxOffset - start, &length)) {
    return Throw(info.Env(), "EINVAL", "punchHole takes a descriptor, an offset and a length");
  }
  const int mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
  const bool done = fallocate(fd, mode, static_cast<off_t>(start), static_cast<off_t>(length)) == 0;
  return Napi::Boolean::New(info.Env(), done);
}

// As LockWhole, and where it is not ours, who has it: '' where it is.
Napi::Value LockOrHolder(const Napi::CallbackInfo& info) {
  int fd;
  if (!Descriptor(info[0], &fd)) return Throw(info.Env(), "EINVAL", "lockOrHolder takes a descriptor");
  std::string who;
  const int err = cow::LockDescription(fd, &who);
  if (err != 0 && err != EBUSY) return ThrowErrno(info.Env(), err, "cannot lock the file");
  return Napi::String::New(info.Env(), who);
}

bool Range(const Napi::CallbackInfo& info, int* fd, struct flock* range) {
  uint64_t start, length;
  if (!Descriptor(info[0], fd) || !ToInteger(info[1], kMaxOffset, &start) || !ToInteger(info[2], kMaxOffset - start, &length)) {
    return false;
  }
  *range = {};
  range->l_whence = SEEK_SET;
  range->l_start = static_cast<off_t>(start);
  range->l_len = static_cast<off_t>(length);
  return true;
}

// An open-file-description lock for reading: whether it is ours now.
Napi::Value LockRange(const Napi::CallbackInfo& info) {
  int fd;
  struct flock range;
  if (!Range(info, &fd, &range)) return Throw(info.Env(), "EINVAL", "lockRange takes a descriptor, a start and a length");
  range.l_type = F_RDLCK;
  if (fcntl(fd, F_OFD_SETLK, &range) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EAGAIN || errno == EACCES) return Napi::Boolean::New(info.Env(), false);
  return ThrowErrno(info.Env(), errno, "cannot lock a range of the file");
}

// Whether somebody else holds any lock in the range.
Napi::Value RangeLocked(const Napi::CallbackInfo& info) {
  int fd;
  struct flock range;
  if (!Range(info, &fd, &range)) return Throw(info.Env(), "EINVAL", "rangeLocked takes a descriptor, a start and a length");
  range.l_type = F_WRLCK;
  if (fcntl(fd, F_OFD_GETLK, &range) != 0) return ThrowErrno(info.Env(), errno, "cannot ask for the locks of the file");
  return Napi::Boolean::New(info.Env(), range.l_type != F_UNLCK);
}

// A read lease is granted where nobody has the file open for writing (fcntl(2), F_SETLEASE). It is given back at once.
Napi::Value HasWriter(const Napi::CallbackInfo& info) {
  int fd;
  if (!Descriptor(info[0], &fd)) return Throw(info.Env(), "EINVAL", "hasWriter takes a descriptor");
  if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return Napi::Boolean::New(info.Env(), false);
  }
  if (errno == EAGAIN) return Napi::Boolean::New(info.Env(), true);
  return ThrowErrno(info.Env(), errno, "cannot learn who writes to the file");
}

class Clone final : public Napi::AsyncWorker {
 public:
  Clone(Napi::Env env, int to, int from) : AsyncWorker(env), deferred_(env), to_(to), from_(from) {}
  ~Clone() override {
    if (to_ >= 0) close(to_);
    if (from_ >= 0) close(from_);
  }
  Napi::Value Promise() { return deferred_.Promise(); }

  void Execute() override {
    if (ioctl(to_, FICLONE, from_) != 0 || fsync(to_) != 0) error_ = errno;
  }
  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (error_ == 0) return deferred_.Resolve(Env().Undefined());
    const char* name = strerrorname_np(error_);
    deferred_.Reject(MakeError(Env(), name ? name : "EIO", std::string("cannot clone the file: ") + strerror(error_)).Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  const int to_;
  const int from_;
  int error_ = 0;
};

// ioctl_ficlone(2), then fsync(2), on another thread: it takes time in proportion to the extents.
Napi::Value CloneFile(const Napi::CallbackInfo& info) {
  int to, from;
  if (!Descriptor(info[0], &to) || !Descriptor(info[1], &from)) {
    return Throw(info.Env(), "EINVAL", "cloneFile takes two descriptors");
  }
  to = fcntl(to, F_DUPFD_CLOEXEC, 0);
  from = to < 0 ? -1 : fcntl(from, F_DUPFD_CLOEXEC, 0);
  auto* clone = new Clone(info.Env(), to, from);
  Napi::Value promise = clone->Promise();
  clone->Queue();
  return promise;
}

constexpr size_t kZeroPiece = size_t{1} << 20;

class Zero final : public Napi::AsyncWorker {
 public:
  Zero(Napi::Env env, int fd, off_t offset, off_t length)
      : AsyncWorker(env), deferred_(env), fd_(fd), offset_(offset), length_(length) {}
  ~Zero() override {
    if (fd_ >= 0) close(fd_);
  }
  Napi::Value Promise() { return deferred_.Promise(); }

  // Of a block device too, the kernel promises zeros after a punch, or refuses (blkdev_fallocate).
  void Execute() override {
    if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_, length_) == 0) return;
    if (fallocate(fd_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset_, length_) == 0) return;
    const std::string zeros(kZeroPiece, '\0');
    for (off_t done = 0; done < length_;) {
      const ssize_t written = pwrite(fd_, zeros.data(), std::min<size_t>(kZeroPiece, static_cast<size_t>(length_ - done)), offset_ + done);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        error_ = written < 0 ? errno : EIO;
        return;
      }
      done += written;
    }
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (error_ == 0) return deferred_.Resolve(Env().Undefined());
    const char* name = strerrorname_np(error_);
    deferred_.Reject(MakeError(Env(), name ? name : "EIO", std::string("cannot write zeros: ") + strerror(error_)).Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  const int fd_;
  const off_t offset_;
  const off_t length_;
  int error_ = 0;
};

// (fd, offset, length): the range reads as zeros afterwards, without space where the file or device can give it back.
Napi::Value ZeroRange(const Napi::CallbackInfo& info) {
  int fd;
  struct flock range;
  if (!Range(info, &fd, &range) || range.l_len == 0) {
    return Throw(info.Env(), "EINVAL", "zeroRange takes a descriptor, a start and a length");
  }
  auto* zero = new Zero(info.Env(), fcntl(fd, F_DUPFD_CLOEXEC, 0), range.l_start, range.l_len);
  Napi::Value promise = zero->Promise();
  zero->Queue();
  return promise;
}

// sd_notify(3): a datagram to a socket by path, or by an abstract name that begins with @.
Napi::Value NotifyManager(const Napi::CallbackInfo& info) {
  if (!info[0].IsString() || !info[1].IsString()) return Throw(info.Env(), "EINVAL", "notifyManager takes a path and a text");
  const std::string path = info[0].As<Napi::String>(), text = info[1].As<Napi::String>();
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) return Throw(info.Env(), "EINVAL", "the path of the socket is too long");
  memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return ThrowErrno(info.Env(), errno, "cannot make a socket");
  const auto length = static_cast<socklen_t>(offsetof(struct sockaddr_un, sun_path) + path.size());
  const ssize_t sent = sendto(fd, text.data(), text.size(), MSG_NOSIGNAL, reinterpret_cast<struct sockaddr*>(&address), length);
  const int error = sent < 0 ? errno : 0;
  close(fd);
  if (error != 0) return ThrowErrno(info.Env(), error, "cannot tell the service manager");
  return info.Env().Undefined();
}

}  // namespace

void InitKernelCalls(Napi::Env env, Napi::Object exports) {
  exports.Set("lockWhole", Napi::Function::New(env, LockWhole, "lockWhole"));
  exports.Set("lockShared", Napi::Function::New(env, LockShared, "lockShared"));
  exports.Set("punchHole", Napi::Function::New(env, PunchHole, "punchHole"));
  exports.Set("lockOrHolder", Napi::Function::New(env, LockOrHolder, "lockOrHolder"));
  exports.Set("lockRange", Napi::Function::New(env, LockRange, "lockRange"));
  exports.Set("rangeLocked", Napi::Function::New(env, RangeLocked, "rangeLocked"));
  exports.Set("hasWriter", Napi::Function::New(env, HasWriter, "hasWriter"));
  exports.Set("cloneFile", Napi::Function::New(env, CloneFile, "cloneFile"));
  exports.Set("zeroRange", Napi::Function::New(env, ZeroRange, "zeroRange"));
  exports.Set("notifyManager", Napi::Function::New(env, NotifyManager, "notifyManager"));
}

}  // namespace asof
