#include "cow_lock.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <thread>
#include <vector>

namespace asof::cow {
namespace {

using Lines = std::unique_ptr<FILE, int (*)(FILE*)>;

Lines OpenLines(const std::string& path) { return {fopen(path.c_str(), "re"), fclose}; }

// The process that took a flock(2) of the file: /proc/locks. 0 where none is seen: the lock may be of another machine, of
// another container, or the file system may number its files otherwise than stat(2) does.
int HolderOf(int fd) {
  struct stat of;
  if (fstat(fd, &of) != 0) return 0;
  const Lines locks = OpenLines("/proc/locks");
  if (!locks) return 0;
  char line[256];
  while (fgets(line, sizeof line, locks.get())) {
    int pid;
    unsigned major_number, minor_number;
    unsigned long long inode;
    if (sscanf(line, "%*d: FLOCK %*s %*s %d %x:%x:%llu", &pid, &major_number, &minor_number, &inode) != 4) continue;
    if (inode == of.st_ino && major_number == major(of.st_dev) && minor_number == minor(of.st_dev)) return pid;
  }
  return 0;
}

struct Process {
  bool there = false;
  char state = '?';
  std::string name;
};

// What /proc/<pid>/stat says: "pid (name) state …", where the name may hold anything.
Process Look(int pid) {
  Process process;
  const Lines lines = OpenLines("/proc/" + std::to_string(pid) + "/stat");
  char text[512];
  if (!lines || !fgets(text, sizeof text, lines.get())) return process;
  const std::string line = text;
  const size_t open = line.find('('), close = line.rfind(')');
  if (open == std::string::npos || close == std::string::npos || close + 2 >= line.size()) return process;
  return {true, line[close + 2], line.substr(open + 1, close - open - 1)};
}

bool Dying(const Process& process) { return !process.there || process.state == 'Z' || process.state == 'X'; }

}  // namespace

std::string LockHolder(int fd) {
  const int pid = HolderOf(fd);
  if (pid == 0) return "";
  if (pid == getpid()) return "this process (" + std::to_string(pid) + ")";
  const Process process = Look(pid);
  const std::string who = "process " + std::to_string(pid);
  if (!process.there) return who + ", which has ended";
  const std::string named = who + " (" + process.name + ")";
  if (Dying(process)) return named + ", which was killed and still hangs in the kernel: what it was writing may yet land";
  if (process.state == 'T' || process.state == 't') return named + ", which is stopped";
  return named;
}

int LockDescription(int fd, std::string* who) {
  // A killed process gives its files back a moment after its death can be seen; one that hangs, later or never.
  constexpr auto kStep = std::chrono::milliseconds(10);
  constexpr int kSteps = 200;
  for (int step = 0;; step++) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return errno;
    const int pid = HolderOf(fd);
    if (step < kSteps && pid != 0 && Dying(Look(pid))) {
      std::this_thread::sleep_for(kStep);
      continue;
    }
    *who = LockHolder(fd);
    if (who->empty()) *who = "a process that cannot be seen from here";
    return EBUSY;
  }
}

int Tenure::Take(std::pair<uint64_t, uint64_t> identity, unsigned patience_ms, std::string* why) {
  static std::mutex mu;
  static std::multimap<std::pair<uint64_t, uint64_t>, std::weak_ptr<State>> all;  // under mu
  const auto state = std::make_shared<State>();
  std::vector<std::shared_ptr<State>> earlier;
  {
    const std::lock_guard lock(mu);
    std::erase_if(all, [](const auto& entry) { return entry.second.expired(); });
    const auto [from, to] = all.equal_range(identity);
    for (auto it = from; it != to; ++it) {
      if (auto other = it->second.lock()) earlier.push_back(std::move(other));
    }
    for (const auto& other : earlier) {
      const std::lock_guard each(other->mu);
      if (other->ended) continue;
      *why = "this process has it open already";
      return EBUSY;
    }
    // From here on whoever comes finds this one, and is refused.
    all.emplace(identity, state);
  }
  state_ = state;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
  for (const auto& other : earlier) {
    std::unique_lock lock(other->mu);
    if (other->quiet.wait_until(lock, deadline, [&] { return other->under_way == 0; })) continue;
    lock.unlock();
    End();
    *why = "an earlier use of it in this process still has a write under way, which may yet land";
    return EBUSY;
  }
  return 0;
}

void Tenure::End() {
  if (!state_) return;
  const std::lock_guard lock(state_->mu);
  state_->ended = true;
}

bool Tenure::Enter() {
  if (!state_) return true;
  const std::lock_guard lock(state_->mu);
  if (state_->ended) return false;
  state_->under_way++;
  return true;
}

void Tenure::Leave() {
  if (!state_) return;
  const std::lock_guard lock(state_->mu);
  if (--state_->under_way == 0) state_->quiet.notify_all();
}

}  // namespace asof::cow
