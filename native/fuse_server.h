// Answers to the kernel's requests, whatever the road they came by (fuse_session.h reads /dev/fuse, fuse_uring.h a ring).
//
// Names and attributes are given for as long as the kernel likes to keep them (what changes is told: fuse_notifier.h),
// with these exceptions: a text's size (asked of JavaScript each time), a disk's st_blocks while they are being counted,
// the attributes of a disk that may be written, and a name that JavaScript resolved.
//
// A read is whole or an error. A short answer would be taken for the end of the file (fs/fuse/file.c,
// fuse_short_read), and the kernel would show zeros or a smaller file; after an error it asks page by page, so that
// buffered readers lose exactly the pages that are damaged.
//
// A disk that may be written is a device that looks like a file. Its size never changes: a write past the end stops there,
// then fails with ENOSPC; a truncation is refused with EPERM. Nothing of it stays in the page cache, and writers run side
// by side (FOPEN_DIRECT_IO, FOPEN_PARALLEL_DIRECT_WRITES). fsync, a write with O_DSYNC (a loop device's FUA) and the
// close of a handle that has written end when the disk has flushed. Its mode is 0600: whoever may write a volume owns
// all that is on it, and reading it live shows every file of it. All else is read-only as ever: EROFS.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>

#include "fuse_abi.h"
#include "fuse_passthrough.h"
#include "fuse_tree.h"

namespace asof::fuse {

// The JavaScript side. Called from workers; an answer may take as long as JavaScript is busy.
class Host {
 public:
  virtual ~Host() = default;
  // The content of the text `id`: 0, or an errno.
  virtual int Text(uint64_t id, std::string* content) = 0;
  // The entry that the unlisted `name` of the directory `parent` stands for: 0, or an errno.
  virtual int Find(uint64_t parent, const std::string& name, uint64_t* id) = 0;
  // Has all names of the directory `id` put into the tree: 0, or an errno. It may read disks for that.
  virtual int List(uint64_t id) = 0;
};

struct Request {
  const fuse_in_header& header;
  // The operation's own structure, and what follows it (a name). On /dev/fuse both are all that follows the header.
  const uint8_t* op;
  size_t op_length;
  const uint8_t* rest;
  size_t rest_length;

  // The operation's structure; null where the request is too short for it.
  template <typename T>
  const T* As() const {
    return op_length >= sizeof(T) ? reinterpret_cast<const T*>(op) : nullptr;
  }

  // What follows the operation's structure, for which the request is long enough.
  template <typename T>
  const uint8_t* After(size_t* length) const {
    const size_t skip = op == rest ? sizeof(T) : 0;
    *length = rest_length - skip;
    return rest + skip;
  }
};

struct Reply {
  int error = 0;        // an errno
  size_t length = 0;    // of the payload, where there is no error
  bool silent = false;  // the kernel expects no answer
};

class Server {
 public:
  // `slow` is how many requests may wait for a count of blocks at once; see Attributes. `writable`: the tree may hold
  // disks that can be written.
  Server(Tree* tree, Host* host, Passthrough* passthrough, uint32_t uid, uint32_t gid, unsigned slow, bool writable);
  ~Server();

  // Whether the answer may have to wait for another request of this session (Disk::MayWait).
  bool MayWait(const Request& request);

  // Answers anything but INIT into the `capacity` bytes at `out`. The request may lie in the same memory: it is read
  // before `out` is written.
  Reply Answer(const Request& request, uint8_t* out, size_t capacity);

  // The kernel can do without OPENDIR.
  void SkipOpendir() { skip_opendir_ = true; }

 private:
  struct Handle;

  Reply Lookup(const Request& request, uint8_t* out);
  Reply GetAttributes(const Request& request, uint8_t* out);
  Reply Open(const Request& request, uint8_t* out);
  Reply Read(const Request& request, uint8_t* out, size_t capacity);
  Reply Write(const Request& request, uint8_t* out);
  static void Written(Handle* handle, bool flushed);
  Reply Sync(Handle* handle);
  Reply Allocate(const Request& request);
  Reply SetAttributes(const Request& request, uint8_t* out);
  Reply Release(const Request& request);
  Reply ReadDirectory(const Request& request, uint8_t* out, size_t capacity, bool plus);
  Reply Seek(const Request& request, uint8_t* out);
  Reply FileSystem(uint8_t* out);
  void Forget(const Request& request);

  // Fills `attr`; false where it may change, so that the kernel must not keep it. `wait_ms`: how long st_blocks may take.
  bool Attributes(Node& node, unsigned wait_ms, fuse_attr* attr);
  void Entry(Node& node, uint64_t number, uint64_t name_seconds, fuse_entry_out* out);

  // Asks JavaScript for the names that nobody has looked for yet.
  int Complete(Node& directory);

  // Asks JavaScript, and remembers the length for look-ups.
  int Text(Node& node, std::string* content);

  Handle* HandleOf(uint64_t number);

  Tree* const tree_;
  Host* const host_;
  Passthrough* const passthrough_;
  const uint32_t uid_;
  const uint32_t gid_;
  const int slow_;
  const bool writable_;
  std::atomic<int> waiting_{0};
  bool skip_opendir_ = false;  // written before other workers run

  std::mutex mutex_;  // guards handles_; what a handle points to is the kernel's to keep open or release
  std::unordered_set<Handle*> handles_;
};

}  // namespace asof::fuse
