#include "fuse_notifier.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include <utility>

#include "fuse_abi.h"

namespace asof::fuse {

namespace {

// What is not known any more, what is busy as a mount point and a connection that has ended are no failures of ours:
// the answer of the kernel changes nothing.
void Write(int device, int32_t code, const void* body, size_t length, const std::string* name) {
  const size_t tail = name ? name->size() + 1 : 0;
  fuse_out_header header{static_cast<uint32_t>(sizeof header + length + tail), code, 0};
  const iovec parts[] = {{&header, sizeof header},
                         {const_cast<void*>(body), length},
                         {const_cast<char*>(name ? name->c_str() : ""), tail}};
  while (writev(device, parts, name ? 3 : 2) < 0 && errno == EINTR) {
  }
}

}  // namespace

void Notifier::Send(const Notice& notice) const {
  switch (notice.kind) {
    case Notice::Kind::kName: {
      // Only expired, where the kernel can (7.38): whoever works below that name keeps it.
      const fuse_notify_inval_entry_out body{notice.parent, static_cast<uint32_t>(notice.name.size()),
                                             FUSE_EXPIRE_ONLY};
      return Write(device_, FUSE_NOTIFY_INVAL_ENTRY, &body, sizeof body, &notice.name);
    }
    case Notice::Kind::kRemoved: {
      const fuse_notify_delete_out body{notice.parent, notice.number, static_cast<uint32_t>(notice.name.size()), 0};
      return Write(device_, FUSE_NOTIFY_DELETE, &body, sizeof body, &notice.name);
    }
    case Notice::Kind::kAttributes:
    case Notice::Kind::kContent: {
      // A length of 0 is to the end, an offset below 0 nothing but the attributes.
      const fuse_notify_inval_inode_out body{notice.number, notice.kind == Notice::Kind::kContent ? 0 : -1, 0};
      return Write(device_, FUSE_NOTIFY_INVAL_INODE, &body, sizeof body, nullptr);
    }
  }
}

void Notifier::Add(std::vector<Notice> notices, std::function<void()> told) {
  {
    std::lock_guard lock(mutex_);
    if (!stopped_) {
      batches_.push_back({std::move(notices), std::move(told)});
      wake_.notify_one();
      return;
    }
  }
  told();
}

void Notifier::Stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  wake_.notify_one();
}

void Notifier::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopped_ || !batches_.empty(); });
    if (batches_.empty()) return;
    for (Batch& batch : std::exchange(batches_, {})) {
      for (const Notice& notice : batch.notices) {
        if (stopped_) break;
        lock.unlock();
        Send(notice);
        lock.lock();
      }
      lock.unlock();
      batch.told();
      lock.lock();
    }
  }
}

}  // namespace asof::fuse
