#include "file_table.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

namespace asof {

File::~File() { close(fd_); }

void File::LetGo() {
  static const int nowhere = open("/", O_PATH | O_CLOEXEC);
  if (nowhere >= 0) dup3(nowhere, fd_, O_CLOEXEC);
}

FileRead File::Read(uint64_t offset, size_t length, uint8_t* into) const {
  size_t got = 0;
  while (got < length) {
    ssize_t n = pread(fd_, into + got, length - got, static_cast<off_t>(offset + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return {got, errno};
    if (n == 0) return {got, 0};
    got += static_cast<size_t>(n);
  }
  return {got, 0};
}

FileTable::~FileTable() {
  for (auto& chunk : chunks_) delete chunk.load();
}

void FileTable::LetGo() {
  const uint32_t count = Count();
  for (uint32_t id = 0; id < count; id++) chunks_[id / kChunk].load()->files[id % kChunk]->LetGo();
}

int FileTable::Add(int fd, std::string path, uint32_t* id) {
  uint32_t next = count_.load(std::memory_order_relaxed);
  if (next == kChunk * kChunks) return EMFILE;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return errno;
  if ((flags & O_ACCMODE) == O_WRONLY || (flags & O_PATH) != 0) return EBADF;
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return errno;
  auto& chunk = chunks_[next / kChunk];
  if (chunk.load(std::memory_order_relaxed) == nullptr) chunk.store(new Chunk, std::memory_order_release);
  chunk.load(std::memory_order_relaxed)->files[next % kChunk] = std::make_unique<File>(own, std::move(path));
  count_.store(next + 1, std::memory_order_release);
  *id = next;
  return 0;
}

}  // namespace asof
