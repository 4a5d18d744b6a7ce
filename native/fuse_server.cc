#include "fuse_server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace asof::fuse {

namespace {

constexpr uint64_t kForever = 365ull * 24 * 3600;  // seconds
constexpr uint64_t kResolved = 1;                  // seconds that the kernel may keep a name that JavaScript resolved
constexpr unsigned kCountWait = 1000;              // milliseconds
constexpr uint32_t kBlock = 4096;

Reply Error(int error) { return {error, 0, false}; }

template <typename T>
Reply Payload(const T& value, uint8_t* out) {
  memcpy(out, &value, sizeof value);
  return {0, sizeof value, false};
}

uint32_t ModeOf(const Node& node) {
  if (node.kind == Kind::kDirectory) return S_IFDIR | 0555;
  return S_IFREG | (node.writable ? 0600 : 0444);
}

// As a writer is told: that there is no room may be mended, all else is the disk's failure.
int WriterError(int error) { return error == 0 || error == ENOSPC ? error : EIO; }

int64_t NowMilliseconds() {
  timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint64_t Blocks(uint64_t bytes) { return bytes / 512 + (bytes % 512 != 0); }

}  // namespace

struct Server::Handle {
  explicit Handle(NodePtr of) : node(std::move(of)) {}

  const NodePtr node;
  bool shared = false;                // Passthrough::Open was called
  std::unique_ptr<Reader> reader{};   // of a disk
  std::string text{};                 // of a text: what it said when it was opened
  std::atomic<bool> written = false;  // since the last flush
};

Server::Server(Tree* tree, Host* host, Passthrough* passthrough, uint32_t uid, uint32_t gid, unsigned slow,
               bool writable)
    : tree_(tree),
      host_(host),
      passthrough_(passthrough),
      uid_(uid),
      gid_(gid),
      slow_(static_cast<int>(slow)),
      writable_(writable) {}

Server::~Server() {
  for (Handle* handle : handles_) delete handle;
}

Reply Server::Answer(const Request& request, uint8_t* out, size_t capacity) {
  switch (request.header.opcode) {
    case FUSE_READ:
      return Read(request, out, capacity);
    case FUSE_LOOKUP:
      return Lookup(request, out);
    case FUSE_GETATTR:
      return GetAttributes(request, out);
    case FUSE_OPEN:
      return Open(request, out);
    case FUSE_RELEASE:
      return Release(request);
    case FUSE_OPENDIR: {
      // Refused once, it is never asked again, and the kernel keeps listings (FUSE_NO_OPENDIR_SUPPORT).
      if (skip_opendir_) return Error(ENOSYS);
      OpenOut opened{};
      opened.open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
      return Payload(opened, out);
    }
    case FUSE_RELEASEDIR:
    case FUSE_DESTROY:
      return {};
    case FUSE_READDIR:
      return ReadDirectory(request, out, capacity, false);
    case FUSE_READDIRPLUS:
      return ReadDirectory(request, out, capacity, true);
    case FUSE_LSEEK:
      return Seek(request, out);
    case FUSE_STATFS:
      return FileSystem(out);
    case FUSE_ACCESS: {
      const auto* in = request.As<fuse_access_in>();
      const NodePtr node = tree_->Find(request.header.nodeid);
      return Error(!in ? EINVAL : in->mask & W_OK && !(node && node->writable) ? EROFS : 0);
    }
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
      Forget(request);
      return {0, 0, true};
    case FUSE_WRITE:
      return Write(request, out);
    case FUSE_SETATTR:
      return SetAttributes(request, out);
    case FUSE_FALLOCATE:
      return Allocate(request);
    case FUSE_FSYNC: {
      if (!writable_) return Error(ENOSYS);
      const auto* in = request.As<fuse_fsync_in>();
      return Sync(in ? HandleOf(in->fh) : nullptr);
    }
    case FUSE_FLUSH: {
      if (!writable_) return Error(ENOSYS);
      const auto* in = request.As<fuse_flush_in>();
      Handle* handle = in ? HandleOf(in->fh) : nullptr;
      return handle && !handle->written ? Reply{} : Sync(handle);
    }
    case FUSE_CREATE:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_TMPFILE:
      return Error(EROFS);
    default:
      // Extended attributes, STATX, INTERRUPT, COPY_FILE_RANGE, locks, ioctl and what is still to be invented: the
      // kernel does by itself, or goes without, what is refused with ENOSYS.
      return Error(ENOSYS);
  }
}

bool Server::MayWait(const Request& request) {
  if (!writable_) return false;
  switch (request.header.opcode) {
    case FUSE_READ: {
      const auto* in = request.As<fuse_read_in>();
      const Handle* handle = in ? HandleOf(in->fh) : nullptr;
      return handle && handle->node->disk && handle->node->disk->MayWait(in->offset, in->size, false);
    }
    case FUSE_WRITE: {
      const auto* in = request.As<fuse_write_in>();
      const Handle* handle = in ? HandleOf(in->fh) : nullptr;
      if (!handle || !handle->node->writable) return false;
      return in->flags & O_DSYNC || handle->node->writable->MayWait(in->offset, in->size, true);
    }
    case FUSE_FALLOCATE:
    case FUSE_FSYNC:
    case FUSE_FLUSH:
      return true;
    case FUSE_LOOKUP:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS: {
      // What comes when somebody looks is read from a disk of the mount first, and so is what a text says of it.
      const NodePtr node = tree_->Find(request.header.nodeid);
      return node && node->partial;
    }
    case FUSE_OPEN:
    case FUSE_GETATTR: {
      const NodePtr node = tree_->Find(request.header.nodeid);
      return node && node->kind == Kind::kText;
    }
    default:
      return false;
  }
}

Reply Server::Lookup(const Request& request, uint8_t* out) {
  const uint64_t parent = request.header.nodeid;
  const NodePtr directory = tree_->Find(parent);
  if (!directory || directory->kind != Kind::kDirectory) return Error(directory ? ENOTDIR : ENOENT);
  const char* text = reinterpret_cast<const char*>(request.rest);
  const std::string name(text, strnlen(text, request.rest_length));
  if (name.size() == request.rest_length) return Error(EINVAL);

  fuse_entry_out entry{};
  NodePtr node = tree_->Child(parent, name);
  if (!node && name[0] != '@' && directory->partial) {
    if (const int error = Complete(*directory)) return Error(error);
    node = tree_->Child(parent, name);
  }
  bool alias = tree_->IsAlias(parent);
  uint64_t seconds = kForever;
  if (!node) {
    if (name[0] != '@') {
      entry.entry_valid = kForever;  // node 0: "there is no such name", to be remembered
      return Payload(entry, out);
    }
    uint64_t id = 0;
    if (const int error = host_->Find(directory->id, name, &id)) return Error(error);
    if (id != 0 && id != FUSE_ROOT_ID && !tree_->IsAlias(id)) node = tree_->Find(id);
    if (!node || node->removed) return Error(ENOENT);
    alias = true;
    seconds = kResolved;
  }
  uint64_t number = node->id;
  if (alias && node->kind == Kind::kDirectory) number = tree_->Alias(parent, name, node->id);
  if (number == 0) return Error(ENOENT);
  Entry(*node, number, seconds, &entry);
  return Payload(entry, out);
}

void Server::Entry(Node& node, uint64_t number, uint64_t name_seconds, fuse_entry_out* out) {
  out->nodeid = number;
  out->entry_valid = name_seconds;
  out->attr_valid = Attributes(node, 0, &out->attr) ? kForever : 0;
}

bool Server::Attributes(Node& node, unsigned wait_ms, fuse_attr* attr) {
  *attr = {};
  attr->ino = node.id;
  const int64_t modified = node.modified_ms;
  int64_t seconds = modified / 1000;
  int64_t milliseconds = modified % 1000;
  if (milliseconds < 0) {
    milliseconds += 1000;
    --seconds;
  }
  attr->atime = attr->mtime = attr->ctime = static_cast<uint64_t>(seconds);
  attr->atimensec = attr->mtimensec = attr->ctimensec = static_cast<uint32_t>(milliseconds) * 1000000;
  attr->mode = ModeOf(node);
  attr->nlink = node.removed ? 0 : node.kind == Kind::kDirectory ? 2 + node.directories : 1;
  attr->uid = uid_;
  attr->gid = gid_;
  attr->blksize = kBlock;
  switch (node.kind) {
    case Kind::kDirectory:
      return true;
    case Kind::kText:
      attr->size = node.text_size;
      attr->blocks = Blocks(attr->size);
      return false;
    case Kind::kDisk:
      break;
  }
  attr->size = node.disk->Size();
  uint64_t bytes = attr->size;
  bool known = node.disk->Allocated(&bytes, 0);
  if (!known && wait_ms > 0 && !node.waited) {
    // In vain only once a disk: the kernel asks for attributes at each open too. And never may all workers wait here,
    // or reads would stand still.
    if (waiting_.fetch_add(1) < slow_) {
      known = node.disk->Allocated(&bytes, wait_ms);
      node.waited = !known;
    }
    waiting_.fetch_sub(1);
  }
  attr->blocks = Blocks(bytes);
  return known && !node.writable;
}

Reply Server::GetAttributes(const Request& request, uint8_t* out) {
  const NodePtr node = tree_->Find(request.header.nodeid);
  const auto* in = request.As<fuse_getattr_in>();
  if (!node || !in) return Error(node ? EINVAL : ENOENT);
  const Handle* handle = in->getattr_flags & FUSE_GETATTR_FH ? HandleOf(in->fh) : nullptr;
  if (node->kind == Kind::kText && !handle) {
    std::string content;
    if (const int error = Text(*node, &content)) return Error(error);
  }
  fuse_attr_out answer{};
  answer.attr_valid = Attributes(*node, kCountWait, &answer.attr) ? kForever : 0;
  if (node->kind == Kind::kText && handle) {
    answer.attr.size = handle->text.size();
    answer.attr.blocks = Blocks(answer.attr.size);
  }
  return Payload(answer, out);
}

int Server::Complete(Node& directory) {
  if (const int error = host_->List(directory.id)) return error;
  directory.partial = false;
  return 0;
}

int Server::Text(Node& node, std::string* content) {
  if (const int error = host_->Text(node.id, content)) return error;
  node.text_size = content->size();
  return 0;
}

Reply Server::Open(const Request& request, uint8_t* out) {
  const NodePtr node = tree_->Find(request.header.nodeid);
  const auto* in = request.As<fuse_open_in>();
  if (!node || !in) return Error(node ? EINVAL : ENOENT);
  if (node->kind == Kind::kDirectory) return Error(EISDIR);
  if ((in->flags & O_ACCMODE) != O_RDONLY && !node->writable) return Error(EROFS);

  auto handle = std::make_unique<Handle>(node);
  OpenOut opened{};
  if (node->kind == Kind::kText) {
    if (const int error = Text(*node, &handle->text)) return Error(error);
    opened.open_flags = FOPEN_DIRECT_IO;  // its end is where the handle's content ends, not where a cached size says
  } else if (node->writable) {
    opened.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    handle->reader = node->disk->OpenReader();
  } else {
    opened.open_flags = FOPEN_KEEP_CACHE;
    const int file = node->disk->WholeFile();
    if (file >= 0) {
      handle->shared = true;
      opened.backing_id = passthrough_->Open(node->id, file);
      // Alone: the kernel takes no caching flag beside it.
      if (opened.backing_id) opened.open_flags = kOpenPassthrough;
    }
    handle->reader = node->disk->OpenReader();
  }
  opened.fh = reinterpret_cast<uintptr_t>(handle.get());
  std::lock_guard lock(mutex_);
  handles_.insert(handle.release());
  return Payload(opened, out);
}

Server::Handle* Server::HandleOf(uint64_t number) {
  auto* handle = reinterpret_cast<Handle*>(static_cast<uintptr_t>(number));
  std::lock_guard lock(mutex_);
  return handles_.contains(handle) ? handle : nullptr;
}

Reply Server::Read(const Request& request, uint8_t* out, size_t capacity) {
  const auto* in = request.As<fuse_read_in>();
  if (!in) return Error(EINVAL);
  const uint64_t offset = in->offset;
  const size_t want = in->size;
  Handle* handle = HandleOf(in->fh);
  if (!handle) return Error(EBADF);
  if (want > capacity) return Error(EINVAL);
  if (handle->node->kind == Kind::kText) {
    const std::string& text = handle->text;
    if (offset >= text.size()) return {};
    const size_t length = std::min(want, text.size() - static_cast<size_t>(offset));
    memcpy(out, text.data() + offset, length);
    return {0, length, false};
  }
  Disk& disk = *handle->node->disk;
  const uint64_t size = disk.Size();
  if (offset >= size || want == 0) return {};
  const size_t length = static_cast<size_t>(std::min<uint64_t>(want, size - offset));
  // Whatever went wrong, a reader is told EIO: the errno of a file below, or of our own end, would mislead it.
  if (disk.Read(offset, length, out, handle->reader.get()) != 0) return Error(EIO);
  return {0, length, false};
}

// Called behind the write, so that a flush that clears `written` has it or is repeated. It may have failed half-way.
void Server::Written(Handle* handle, bool flushed) {
  if (!flushed) handle->written = true;
  handle->node->modified_ms = NowMilliseconds();
}

Reply Server::Write(const Request& request, uint8_t* out) {
  const auto* in = request.As<fuse_write_in>();
  if (!in) return Error(EINVAL);
  Handle* handle = HandleOf(in->fh);
  if (!handle) return Error(EBADF);
  if (!handle->node->writable) return Error(EROFS);
  size_t length;
  const uint8_t* from = request.After<fuse_write_in>(&length);
  if (length < in->size) return Error(EINVAL);
  length = in->size;
  WritableDisk& disk = *handle->node->writable;
  const uint64_t size = disk.Size();
  if (in->offset >= size && length > 0) return Error(ENOSPC);
  length = static_cast<size_t>(std::min<uint64_t>(length, size - std::min(size, in->offset)));
  if (length > 0) {
    int error = disk.Write(in->offset, length, from);
    const bool flush = error == 0 && in->flags & O_DSYNC;
    if (flush) error = disk.Flush();
    Written(handle, flush && error == 0);
    if (error) return Error(WriterError(error));
  }
  fuse_write_out answer{};
  answer.size = static_cast<uint32_t>(length);
  return Payload(answer, out);
}

Reply Server::Sync(Handle* handle) {
  if (!handle) return Error(EBADF);
  if (!handle->node->writable) return {};
  handle->written = false;
  const int error = handle->node->writable->Flush();
  if (error) handle->written = true;
  return Error(WriterError(error));
}

Reply Server::Allocate(const Request& request) {
  const auto* in = request.As<fuse_fallocate_in>();
  Handle* handle = in ? HandleOf(in->fh) : nullptr;
  if (!handle) return Error(in ? EBADF : EINVAL);
  if (!handle->node->writable) return Error(EROFS);
  const bool keep = in->mode & FALLOC_FL_KEEP_SIZE;
  const uint32_t mode = in->mode & ~static_cast<uint32_t>(FALLOC_FL_KEEP_SIZE);
  // As a block device: what would only reserve space, or move what follows, cannot be.
  if (mode != FALLOC_FL_ZERO_RANGE && !(mode == FALLOC_FL_PUNCH_HOLE && keep)) return Error(EOPNOTSUPP);
  WritableDisk& disk = *handle->node->writable;
  const uint64_t size = disk.Size();
  const uint64_t room = size - std::min(size, in->offset);
  if (in->length > room && !keep) return Error(ENOSPC);
  const uint64_t length = std::min(in->length, room);
  if (length == 0) return {};
  const int error = disk.WriteZeroes(in->offset, length, mode == FALLOC_FL_PUNCH_HOLE);
  Written(handle, false);
  return Error(WriterError(error));
}

Reply Server::SetAttributes(const Request& request, uint8_t* out) {
  const NodePtr node = tree_->Find(request.header.nodeid);
  const auto* in = request.As<fuse_setattr_in>();
  if (!node || !in) return Error(node ? EINVAL : ENOENT);
  if (!node->writable) return Error(EROFS);
  if (in->valid & (FATTR_MODE | FATTR_UID | FATTR_GID)) return Error(EPERM);
  // The size that it has: so the kernel cleans up behind a write past the end.
  if (in->valid & FATTR_SIZE && in->size != node->disk->Size()) return Error(EPERM);
  fuse_attr_out answer{};  // times are ours to say
  Attributes(*node, 0, &answer.attr);
  return Payload(answer, out);
}

Reply Server::Release(const Request& request) {
  const auto* in = request.As<fuse_release_in>();
  Handle* handle = in ? HandleOf(in->fh) : nullptr;
  if (!handle) return Error(EBADF);
  if (handle->shared) passthrough_->Release(handle->node->id);
  {
    std::lock_guard lock(mutex_);
    handles_.erase(handle);
  }
  delete handle;
  return {};
}

Reply Server::ReadDirectory(const Request& request, uint8_t* out, size_t capacity, bool plus) {
  const uint64_t number = request.header.nodeid;
  const NodePtr directory = tree_->Find(number);
  const auto* in = request.As<fuse_read_in>();
  if (!in || !directory) return Error(directory ? EINVAL : ENOENT);
  if (directory->kind != Kind::kDirectory) return Error(ENOTDIR);
  const size_t limit = std::min<size_t>(in->size, capacity);
  const size_t head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
  const bool alias = tree_->IsAlias(number);

  size_t length = 0;
  const auto put = [&](const Node& node, std::string_view name, uint64_t next, const fuse_entry_out& entry) {
    const size_t record = FUSE_DIRENT_ALIGN(head + name.size());
    if (length + record > limit) return false;
    uint8_t* at = out + length;
    memset(at, 0, record);
    if (plus) memcpy(at, &entry, sizeof entry);
    fuse_dirent dirent{};
    dirent.ino = node.id;
    dirent.off = next;
    dirent.namelen = static_cast<uint32_t>(name.size());
    dirent.type = ModeOf(node) >> 12;
    memcpy(at + head - FUSE_NAME_OFFSET, &dirent, FUSE_NAME_OFFSET);
    memcpy(at + head, name.data(), name.size());
    length += record;
    return true;
  };
  // The position tells what comes next: 0 is ".", 1 is "..", from 2 on the child with that id or the next higher one,
  // so that it means the same when others have come or gone. Node 0: no attributes come with this one.
  const fuse_entry_out none{};
  const uint64_t position = in->offset;
  if (position == 0 && directory->partial) {
    if (const int error = Complete(*directory)) return Error(error);
  }
  if (position < 1 && !put(*directory, ".", 1, none)) return {0, length, false};
  if (position < 2) {
    const NodePtr above = tree_->Find(directory->parent);
    if (!put(above ? *above : *directory, "..", 2, none)) return {0, length, false};
  }
  for (const NodePtr& node : tree_->Children(number, position, limit / FUSE_DIRENT_ALIGN(head + 1))) {
    fuse_entry_out entry{};
    // An alias is counted by a look-up of its own.
    if (plus && !(alias && node->kind == Kind::kDirectory)) Entry(*node, node->id, kForever, &entry);
    if (!put(*node, node->name, node->id + 1, entry)) break;
  }
  return {0, length, false};
}

Reply Server::Seek(const Request& request, uint8_t* out) {
  const auto* in = request.As<fuse_lseek_in>();
  Handle* handle = in ? HandleOf(in->fh) : nullptr;
  if (!handle) return Error(in ? EBADF : EINVAL);
  if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE) return Error(EINVAL);
  fuse_lseek_out found{in->offset};
  if (handle->node->kind == Kind::kText) {
    const uint64_t size = handle->text.size();
    if (in->offset >= size) return Error(ENXIO);
    if (in->whence == SEEK_HOLE) found.offset = size;
  } else {
    if (in->offset >= handle->node->disk->Size()) return Error(ENXIO);
    const int error = handle->node->disk->Seek(in->offset, static_cast<int>(in->whence), &found.offset);
    if (error) return Error(error);
  }
  return Payload(found, out);
}

Reply Server::FileSystem(uint8_t* out) {
  fuse_statfs_out answer{};
  answer.st.bsize = answer.st.frsize = kBlock;
  answer.st.blocks = tree_->disk_bytes() / kBlock;
  answer.st.files = tree_->size();
  answer.st.namelen = 255;
  return Payload(answer, out);
}

void Server::Forget(const Request& request) {
  if (request.header.opcode == FUSE_FORGET) {
    if (const auto* in = request.As<fuse_forget_in>()) tree_->Forget(request.header.nodeid, in->nlookup);
    return;
  }
  const auto* in = request.As<fuse_batch_forget_in>();
  if (!in) return;
  const size_t count = std::min<size_t>(in->count, (request.op_length - sizeof *in) / sizeof(fuse_forget_one));
  const auto* one = reinterpret_cast<const fuse_forget_one*>(request.op + sizeof *in);
  for (size_t i = 0; i < count; ++i) tree_->Forget(one[i].nodeid, one[i].nlookup);
}

}  // namespace asof::fuse
