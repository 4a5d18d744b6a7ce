// Answers to the kernel's requests, whatever the road they came by (fuse_session.h reads /dev/fuse, fuse_uring.h a ring).
//
// The tree never changes, so names and attributes are given for as long as the kernel likes to keep them, with these
// exceptions: a text's size (asked of JavaScript each time), a disk's st_blocks while they are being counted, and a
// name that JavaScript resolved.
//
// A read is whole or an error. A short answer would be taken for the end of the file (fs/fuse/file.c,
// fuse_short_read), and the kernel would show zeros or a smaller file; after an error it asks page by page, so that
// buffered readers lose exactly the pages that are damaged.
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
};

struct Reply {
  int error = 0;        // an errno
  size_t length = 0;    // of the payload, where there is no error
  bool silent = false;  // the kernel expects no answer
};

class Server {
 public:
  // `slow` is how many requests may wait for a count of blocks at once; see Attributes.
  Server(Tree* tree, Host* host, Passthrough* passthrough, uint32_t uid, uint32_t gid, unsigned slow);
  ~Server();

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
  Reply Release(const Request& request);
  Reply ReadDirectory(const Request& request, uint8_t* out, size_t capacity, bool plus);
  Reply Seek(const Request& request, uint8_t* out);
  Reply FileSystem(uint8_t* out);
  void Forget(const Request& request);

  // Fills `attr`; false where it may change, so that the kernel must not keep it. `wait_ms`: how long st_blocks may take.
  bool Attributes(const Node& node, unsigned wait_ms, fuse_attr* attr);
  void Entry(const Node& node, uint64_t number, uint64_t name_seconds, fuse_entry_out* out);

  // Asks JavaScript, and remembers the length for look-ups.
  int Text(const Node& node, std::string* content);

  Handle* HandleOf(uint64_t number);

  Tree* const tree_;
  Host* const host_;
  Passthrough* const passthrough_;
  const uint32_t uid_;
  const uint32_t gid_;
  const int slow_;
  std::atomic<int> waiting_{0};
  const std::unique_ptr<std::atomic<uint64_t>[]> text_sizes_;  // by node: what it last said, bytes
  const std::unique_ptr<std::atomic<bool>[]> waited_;          // by node: its blocks were waited for, in vain
  bool skip_opendir_ = false;  // written before other workers run

  std::mutex mutex_;  // guards handles_; what a handle points to is the kernel's to keep open or release
  std::unordered_set<Handle*> handles_;
};

}  // namespace asof::fuse
