// One mount: the workers that speak FUSE's protocol on /dev/fuse, from INIT to the end of the connection.
//
// States: one worker reads alone until INIT is answered (the kernel sends nothing else before); then there is one
// worker a CPU, each pinned and with buffers of its own; then the connection ends, by an unmount (ENODEV) or by Abort,
// each worker leaves, and the last one closes the descriptor and says so.
//
// Threads: a worker may wait for JavaScript (a text, a name, a map), so the thread that runs JavaScript must neither
// touch the mount nor wait for a worker, except in Join after Ended.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fuse_server.h"

namespace asof::fuse {

class Uring;

struct SessionFacts {
  uint32_t minor = 0;     // of the protocol, both sides
  uint32_t max_read = 0;  // bytes a request
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
  bool uring = false;  // where the kernel offers it
};

class Session {
 public:
  Session(const SessionConfig& config, std::unique_ptr<Tree> tree, SessionHost* host);
  ~Session();  // after Join

  void Start();

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
  std::atomic<int> error_{0};

  std::mutex mutex_;  // guards what follows
  unsigned live_ = 0;
  std::vector<std::thread> workers_;
  std::thread waker_;
};

}  // namespace asof::fuse
