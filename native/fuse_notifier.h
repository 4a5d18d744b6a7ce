// Tells the kernel what it must forget, once the tree has changed.
//
// A notification takes the lock of a directory, for which it waits until whoever looks a name up in it, or lists it, has
// been answered: a worker that sent one would wait for itself. So there is a thread for them, the workers go on
// answering for as long as it runs, and nobody who has to answer waits for it. They are written to /dev/fuse also where
// requests come through rings. Linux: fs/fuse/dev.c, fuse_notify; fs/fuse/dir.c, fuse_reverse_inval_entry.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "fuse_tree.h"

namespace asof::fuse {

class Notifier {
 public:
  // `device` is /dev/fuse; it must be open until Run has returned.
  explicit Notifier(int device) : device_(device) {}

  // Sends `notices`, then calls `told` from this thread; or calls it at once, or in time, where nobody is told any more.
  void Add(std::vector<Notice> notices, std::function<void()> told);

  // Run returns as soon as the kernel lets it.
  void Stop();

  void Run();

 private:
  struct Batch {
    std::vector<Notice> notices;
    std::function<void()> told;
  };

  void Send(const Notice& notice) const;

  const int device_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<Batch> batches_;
  bool stopped_ = false;
};

}  // namespace asof::fuse
