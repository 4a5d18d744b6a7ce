// Holds file systems still, and lets them go whatever becomes of the daemon: a process of its own, so that a daemon that
// is killed, or hangs, between freeze and thaw leaves nothing frozen (ioctl_fifreeze in linux/fs.h; VFS freeze_super).
//
//   asof-freezer DEADLINE_MS COUNT     descriptors 3 … 3 + COUNT - 1: a directory on each file system
//   asof-freezer thaw COUNT            thaws them all, the last first: for when the process that froze them has died
//   standard input    "sync K", "freeze K", "thaw K", a line each; its end means that the daemon is gone
//   standard output   "ready"; "synced K", "frozen K", "thawed K"; "failed K ERRNO" of a sync or freeze,
//                     "lost K ERRNO" of a thaw: it was not frozen to the end; "expired" at the deadline
//
// States of a file system: idle → syncing → idle → freezing → frozen → thawing → idle. Only what this process has frozen is
// thawed: one that somebody else holds answers EBUSY and stays his.
//
// It must never wait for what it froze. Its memory is locked and it opens nothing after its start; it writes to a socket that
// does not block; each ioctl has a thread of its own, because a freeze waits for the writes of others and a thaw writes the
// superblock. The deadline counts from the first freeze. What is frozen last is thawed first.
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <initializer_list>

namespace {

constexpr int kFirst = 3;
constexpr int kMost = 256;
constexpr size_t kStack = 64 * 1024;
// How long a thaw may keep the next one waiting, milliseconds.
constexpr int64_t kPatience = 1000;

enum class Have { kIdle, kSyncing, kFreezing, kFrozen, kThawing };

struct FileSystem {
  int index = 0;
  Have have = Have::kIdle;
  // The freeze that is under way is not wanted any more: thaw as soon as it is done.
  bool abandoned = false;
};

FileSystem all[kMost];
int count = 0;
// Guards `all`; the condition is told of every change.
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t changed;

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// A line that does not fit, or that nobody reads, is dropped: waiting could be for ever.
void Say(const char* format, ...) {
  char line[128];
  va_list list;
  va_start(list, format);
  const int length = vsnprintf(line, sizeof line, format, list);
  va_end(list);
  if (length > 0 && write(STDOUT_FILENO, line, static_cast<size_t>(length)) < 0) return;
}

const char* Name(int error) {
  const char* name = strerrorname_np(error);
  return name ? name : "EIO";
}

void Set(FileSystem* fs, Have have) {
  pthread_mutex_lock(&mutex);
  fs->have = have;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
}

void* Sync(void* argument) {
  auto* fs = static_cast<FileSystem*>(argument);
  const int error = syncfs(kFirst + fs->index) == 0 ? 0 : errno;
  Set(fs, Have::kIdle);
  if (error == 0) {
    Say("synced %d\n", fs->index);
  } else {
    Say("failed %d %s\n", fs->index, Name(error));
  }
  return nullptr;
}

void* Thaw(void* argument) {
  auto* fs = static_cast<FileSystem*>(argument);
  const int error = ioctl(kFirst + fs->index, FITHAW, 0) == 0 ? 0 : errno;
  Set(fs, Have::kIdle);
  if (error == 0) {
    Say("thawed %d\n", fs->index);
  } else {
    Say("lost %d %s\n", fs->index, Name(error));
  }
  return nullptr;
}

void* Freeze(void* argument) {
  auto* fs = static_cast<FileSystem*>(argument);
  const int error = ioctl(kFirst + fs->index, FIFREEZE, 0) == 0 ? 0 : errno;
  pthread_mutex_lock(&mutex);
  const bool abandoned = fs->abandoned;
  fs->abandoned = false;
  fs->have = error != 0 ? Have::kIdle : abandoned ? Have::kThawing : Have::kFrozen;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  if (error != 0) {
    Say("failed %d %s\n", fs->index, Name(error));
    if (abandoned) Say("lost %d ECANCELED\n", fs->index);
  } else if (abandoned) {
    Say("failed %d ECANCELED\n", fs->index);
    Thaw(fs);
  } else {
    Say("frozen %d\n", fs->index);
  }
  return nullptr;
}

bool Start(void* (*work)(void*), FileSystem* fs) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStack);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, work, fs);
  pthread_attr_destroy(&attributes);
  return error == 0;
}

// With the mutex held. A thread that cannot be made must not keep anything frozen: then this one does it.
void StartThaw(FileSystem* fs) {
  fs->have = Have::kThawing;
  if (Start(Thaw, fs)) return;
  pthread_mutex_unlock(&mutex);
  Thaw(fs);
  pthread_mutex_lock(&mutex);
}

void ThawAll() {
  pthread_mutex_lock(&mutex);
  for (int i = count - 1; i >= 0; i--) {
    FileSystem* fs = &all[i];
    if (fs->have == Have::kFreezing) fs->abandoned = true;
    if (fs->have != Have::kFrozen) continue;
    StartThaw(fs);
    const int64_t until = Now() + kPatience;
    const timespec time = {until / 1000, until % 1000 * 1000000};
    while (fs->have == Have::kThawing && pthread_cond_timedwait(&changed, &mutex, &time) == 0) {
    }
  }
  pthread_mutex_unlock(&mutex);
}

// A freeze or thaw that is under way when the daemon has gone is waited for, however long.
void Finish() {
  ThawAll();
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < count; i++) {
    while (all[i].have != Have::kIdle && all[i].have != Have::kSyncing) pthread_cond_wait(&changed, &mutex);
  }
  pthread_mutex_unlock(&mutex);
  _exit(0);
}

// True where it was a freeze, from which the deadline counts.
bool Obey(const char* line) {
  char verb[8];
  int index;
  if (sscanf(line, "%7s %d", verb, &index) != 2 || index < 0 || index >= count) return false;
  FileSystem* fs = &all[index];
  pthread_mutex_lock(&mutex);
  const Have have = fs->have;
  if (strcmp(verb, "thaw") == 0) {
    if (have == Have::kFrozen) {
      StartThaw(fs);
    } else if (have == Have::kFreezing) {
      fs->abandoned = true;
    } else if (have != Have::kThawing) {
      Say("lost %d EINVAL\n", index);
    }
    pthread_mutex_unlock(&mutex);
    return false;
  }
  const bool freeze = strcmp(verb, "freeze") == 0;
  if (have != Have::kIdle) {
    Say("failed %d EBUSY\n", index);
  } else {
    fs->have = freeze ? Have::kFreezing : Have::kSyncing;
    if (!Start(freeze ? Freeze : Sync, fs)) {
      fs->have = Have::kIdle;
      Say("failed %d EAGAIN\n", index);
    }
  }
  pthread_mutex_unlock(&mutex);
  return freeze;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  count = atoi(argv[2]);
  if (strcmp(argv[1], "thaw") == 0) {
    int worst = 0;
    for (int i = count - 1; i >= 0; i--) {
      if (ioctl(kFirst + i, FITHAW, 0) != 0) worst = 1;
    }
    return worst;
  }
  const int64_t allowed = atoll(argv[1]);
  if (allowed <= 0 || count <= 0 || count > kMost) return 2;
  for (int i = 0; i < count; i++) {
    all[i].index = i;
    if (fcntl(kFirst + i, F_GETFD) < 0) return 2;
  }
  // A terminal's or a service manager's signal to the group must not end it before its work; its own end comes with the daemon's.
  setsid();
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2, SIGTSTP}) signal(number, SIG_IGN);
  prctl(PR_SET_NAME, "asof-freezer");
  if (chdir("/") != 0) return 2;
  if (const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); fd >= 0) {
    if (write(fd, "-1000", 5) < 0) errno = 0;  // as far as it is allowed
    close(fd);
  }
  mlockall(MCL_CURRENT | MCL_FUTURE);
  fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&changed, &monotonic);
  Say("ready\n");

  int64_t deadline = 0;
  bool expired = false;
  char line[64];
  size_t length = 0;
  for (;;) {
    int wait = -1;
    if (deadline != 0 && !expired) {
      const int64_t left = deadline - Now();
      if (left <= 0) {
        expired = true;
        Say("expired\n");
        ThawAll();
        continue;
      }
      wait = left > 1000000 ? 1000000 : static_cast<int>(left);
    }
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    const int ready = poll(&input, 1, wait);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    char byte;
    const ssize_t got = read(STDIN_FILENO, &byte, 1);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) Finish();
    if (byte != '\n') {
      if (length + 1 < sizeof line) line[length++] = byte;
      continue;
    }
    line[length] = '\0';
    length = 0;
    if (expired) {
      // Nothing new is frozen; what is asked about was let go.
      int index;
      if (sscanf(line, "thaw %d", &index) == 1) Say("lost %d ETIME\n", index);
      if (sscanf(line, "freeze %d", &index) == 1) Say("failed %d ETIME\n", index);
      continue;
    }
    if (Obey(line) && deadline == 0) deadline = Now() + allowed;
  }
}
