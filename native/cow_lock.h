// Whose a file is. Two users of a store, or of a tracker, would destroy each other's records; and one that is gone may not
// be over: a thread that hangs in the kernel lives on when its process was killed, and so does a write that somebody gave
// up waiting for, and either may land when the disk answers again.
//
// Between processes an exclusive flock(2) tells. It belongs to the open file description, which a thread in the middle of a
// system call keeps, whoever closes the descriptor: so it ends when the last write that was begun through it has ended, and
// not before. Within a process, where two descriptors may share a description, a Tenure does the same.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace asof::cow {

// Takes the lock for the description of `fd`, without waiting, but for a holder that is dying. 0 (also where the
// description has it already); EBUSY with *who, in words; or an errno.
int LockDescription(int fd, std::string* who);

// Who holds a lock on the file, in words; '' where nobody can be made out.
std::string LockHolder(int fd);

// How long a successor waits for what its predecessor in the same process left under way.
constexpr unsigned kPatienceMs = 5000;

// One at a time within this process, by File::Identity.
class Tenure {
 public:
  ~Tenure() { End(); }

  // 0; EBUSY, with *why, where somebody has it, or has ended and still has something under way after `patience_ms`.
  int Take(std::pair<uint64_t, uint64_t> identity, unsigned patience_ms, std::string* why);
  // Begins nothing any more: what is under way ends by itself, and so long nobody else begins.
  void End();

  // Around each operation: false after End. Always true where nothing was taken.
  bool Enter();
  void Leave();

 private:
  struct State {
    std::mutex mu;
    std::condition_variable quiet;
    unsigned under_way = 0;
    bool ended = false;
  };
  std::shared_ptr<State> state_;  // fixed after Take
};

}  // namespace asof::cow
