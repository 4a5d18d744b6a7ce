// FUSE over io_uring: requests and answers through shared memory, a queue a CPU.
//
// Source: Documentation/filesystems/fuse/fuse-io-uring.rst and fs/fuse/dev_uring.c of Linux 6.14. The kernel wants one
// queue for each CPU that the machine could ever have, and sends nothing at all between the answer to INIT and the
// registration of an entry in every queue. So rings and memory are made first (Create), and a failure after that fails
// the session: the caller then mounts anew without rings. Forgets and interrupts still come by /dev/fuse.
//
// States of an entry: with the kernel (REGISTER or COMMIT_AND_FETCH under way), then a completion gives it to the
// queue's thread with a request in it, which it answers in place and hands back. A completion with an error ends the
// entry; a queue with no entry left ends its thread.
//
// All requests of a CPU come by its queue, whose thread alone may hand entries back (the kernel binds them to the thread
// that did). So it must never wait for a request: what may wait (Server::MayWait) goes to a helper, of which there are as
// many as entries are with them, and comes back by a list and an eventfd. Beyond one entry for each such request the
// kernel holds back the rest: of requests that wait for others of the same mount, a CPU may have one less than entries.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace asof::fuse {

class Session;

class Uring {
 public:
  // Rings for `session` with room for `max_payload` bytes a request; null where this system cannot.
  static std::unique_ptr<Uring> Create(Session* session, size_t max_payload, bool writable);
  ~Uring();

  // Launches a worker of the session for each queue.
  void Start();

  // Ends what is under way in the kernel; after the last worker. They hold the descriptor of the mount.
  void Close();

  unsigned queues() const { return static_cast<unsigned>(queues_.size()); }

 private:
  class Queue;

  Uring();
  void Help(Queue* queue, unsigned index);
  void Serve();
  void Ended();

  Session* session_ = nullptr;
  std::vector<std::unique_ptr<Queue>> queues_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable more_;
  std::deque<std::pair<Queue*, unsigned>> waiting_;  // entries for helpers
  size_t idle_ = 0;     // helpers
  size_t running_ = 0;  // queues; the helpers end with the last of them
};

}  // namespace asof::fuse
