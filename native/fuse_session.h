// One mount: the workers that speak FUSE's protocol on /dev/fuse, from INIT to the end of the connection.
//
// States: one worker reads alone until INIT is answered (the kernel sends nothing else before); then there is one
// worker a CPU, each pinned and with buffers of its own; then the connection ends, by an unmount (ENODEV) or by Abort,
// each worker leaves, and the last one closes the descriptor and says so. From the first change of the tree on there is
// the notifier's thread too. It is the first to leave: while it waits in the kernel for an answer of ours, the workers
// go on answering.
//
// Where disks can be written, a request may wait for another one of the same mount: the origin of one volume may be a loop
// device over another's live file, to any depth. So a session whose workers all wait, with none taking a request for a
// while, gets one more (Watch), up to a limit that is far above what any client has under way. What a worker waits for is
// then always taken by somebody. The kernel's own limit on requests in the background is raised likewise.
//
// Threads: a worker may wait for JavaScript (a text, a name, a map), so the thread that runs JavaScript must neither
// touch the mount nor wait for a worker, except in Join after Ended. Where disks can be written, the workers are those
// that write memory back for a file system on a loop device over such a disk: they may not wait for that themselves.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fuse_notifier.h"
#include "fuse_server.h"

namespace asof::fuse {

class Uring;

struct SessionFacts {
  uint32_t minor = 0;     // of the protocol, both sides
  uint32_t max_read = 0;  // bytes a request
  uint32_t max_write = 0;  // likewise; 0 where nothing can be written
  unsigned threads = 0;
  bool uring = false;
  bool passthrough = false;
};

class SessionHost : public Host {
 public:
  // INIT has been answered. From a worker.
  virtual void Ready(const SessionFacts& facts) = 0;
  // No worker touches anything of the session any more: 0, or the errno for which it ended. From the last worker,
  // whose thread is about to end.
  virtual void Ended(int error) = 0;
};

struct SessionConfig {
  int fd = -1;           // a mounted /dev/fuse; the session owns it
  unsigned threads = 0;  // 0: one a CPU
  uint32_t uid = 0;
  uint32_t gid = 0;
  bool uring = false;     // where the kernel offers it
  bool writable = false;  // there are disks that can be written, or there may be
};

class Session {
 public:
  Session(const SessionConfig& config, std::unique_ptr<Tree> tree, SessionHost* host);
  ~Session();  // after Join

  void Start();

  // Changes the tree; false, with nothing changed, where it cannot be (Tree::Update). `told` is called, from any thread
  // and perhaps at once, when the kernel has forgotten what it knew of the old one, or the session ends. Not before
  // Ready, and always from the same thread, which calls Join.
  bool Update(Changes changes, std::function<void()> told);

  // Ends the session without an unmount: the workers leave, and the kernel fails what is under way when the
  // descriptor closes. Does not wait.
  void Abort();

  // Waits for the threads' last instructions; call it after Ended.
  void Join();

  int fd() const { return config_.fd; }
  bool stopping() const { return stopping_; }
  Server& server() { return server_; }

  // For a worker of either road: counts itself out with the errno for which it leaves. A worker that fails takes the
  // others with it.
  void Leave(int error);

  // Pins the calling thread to the `index`-th CPU that the process may use.
  void Pin(unsigned index) const;

  // For the calling thread: see Threads above.
  void ServeMemory() const;

  // Adds a worker that runs `body`, which ends in Leave.
  template <typename F>
  void Launch(F body) {
    std::lock_guard lock(mutex_);
    ++live_;
    workers_.emplace_back(std::move(body));
  }

 private:
  struct Buffers;

  void First();
  void Work(unsigned index);
  void Notify();
  void Watch();
  int Serve(Buffers& buffers);
  // One request from /dev/fuse: its bytes in the buffer, or -errno; 0: try again.
  ssize_t Receive(Buffers& buffers);
  int Send(Buffers& buffers, uint64_t unique, int error, size_t length);
  int Negotiate(Buffers& buffers);

  const SessionConfig config_;
  const std::unique_ptr<Tree> tree_;
  SessionHost* const host_;
  const std::vector<int> cpus_;
  const unsigned threads_;
  Passthrough passthrough_;
  Server server_;
  std::unique_ptr<Uring> uring_;  // written by the first worker before the others run
  SessionFacts facts_;            // likewise

  std::atomic<bool> stopping_{false};
  std::atomic<unsigned> free_{0};       // workers that wait for a request
  std::atomic<uint64_t> taken_{0};      // requests
  std::atomic<bool> watched_{false};    // Watch looks at the two above by itself; else it waits to be told
  std::atomic<int> error_{0};

  std::mutex mutex_;  // guards what follows
  unsigned live_ = 0;
  bool ending_ = false;                 // a worker has left
  bool aborting_ = false;
  bool notifying_ = false;              // the notifier's thread runs
  std::unique_ptr<Notifier> notifier_;  // from the first change on
  std::vector<std::thread> workers_;
  std::thread waker_;
  std::condition_variable crowded_;  // no worker is free, or the session ends
};

}  // namespace asof::fuse
