// Runs a program for the daemon, and ends it when the daemon is gone: a process of its own between the two, so that a command
// that a daemon has begun does not outlive it, however the daemon ends.
//
//   asof-runner PROGRAM [WORD...]     descriptor 3: a socket to the daemon; 0, 1 and 2 are the program's
//   from the daemon   its end: the program is to end, politely first (SIGTERM), then not (SIGKILL); "k": at once
//   to the daemon     "failed ERRNO": it was not started; "ended CODE"; "signal NAME"
//
// The program leads a session and a process group of its own, all of which is ended with it: by a signal to the group, so
// that what has left the group stays. Of a program that ends by itself nothing else is ended. Where this process is killed,
// the kernel kills the program.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <initializer_list>

namespace {

constexpr int kDaemon = 3;
// Between the polite end and the other one, milliseconds.
constexpr int64_t kPolite = 2000;

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Nobody reads it where the daemon is gone.
void Say(const char* word, const char* what) {
  char line[64];
  const int length = snprintf(line, sizeof line, "%s %s\n", word, what);
  if (send(kDaemon, line, static_cast<size_t>(length), MSG_NOSIGNAL) < 0) return;
}

[[noreturn]] void Become(char** argv, int failure, pid_t parent, const sigset_t& before) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // It may have died before that was asked for.
  if (getppid() != parent) _exit(127);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) signal(number, SIG_DFL);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  execvp(argv[0], argv);
  const int error = errno;
  if (write(failure, &error, sizeof error) < 0) _exit(127);
  _exit(127);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || fcntl(kDaemon, F_SETFD, FD_CLOEXEC) != 0) return 2;
  prctl(PR_SET_NAME, "asof-runner");
  // A terminal's or a service manager's signal must not end it before the program.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) signal(number, SIG_IGN);
  sigset_t child;
  sigset_t before;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, &before);
  const int ends = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  int failure[2];
  if (ends < 0 || pipe2(failure, O_CLOEXEC) != 0) return 2;
  const pid_t self = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    Say("failed", strerrorname_np(errno));
    return 2;
  }
  if (pid == 0) Become(argv + 1, failure[1], self, before);
  close(failure[1]);
  int error = 0;
  ssize_t got;
  do {
    got = read(failure[0], &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got == sizeof error) {
    const char* name = strerrorname_np(error);
    Say("failed", name ? name : "EIO");
    return 2;
  }
  // Whoever it starts has them from it; from here on they are its own.
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, failure[0]}) close(fd);
  if (chdir("/") != 0) errno = 0;

  bool listening = true;
  bool ending = false;
  int64_t kill_at = 0;
  for (;;) {
    int status;
    if (waitpid(pid, &status, WNOHANG) == pid) {
      // What it left of its group when it was ended.
      if (ending) kill(-pid, SIGKILL);
      if (WIFSIGNALED(status)) {
        const char* name = sigabbrev_np(WTERMSIG(status));
        char text[32];
        snprintf(text, sizeof text, "SIG%s", name ? name : "KILL");
        Say("signal", text);
      } else {
        char text[16];
        snprintf(text, sizeof text, "%d", WEXITSTATUS(status));
        Say("ended", text);
      }
      return 0;
    }
    int wait = -1;
    if (kill_at != 0) {
      const int64_t left = kill_at - Now();
      if (left <= 0) {
        kill(-pid, SIGKILL);
        kill_at = 0;
        continue;
      }
      wait = static_cast<int>(left);
    }
    pollfd wanted[] = {{ends, POLLIN, 0}, {listening ? kDaemon : -1, POLLIN, 0}};
    if (poll(wanted, 2, wait) < 0) continue;
    signalfd_siginfo info;
    while (read(ends, &info, sizeof info) > 0) {
    }
    if (wanted[1].revents == 0) continue;
    char byte = 0;
    const ssize_t heard = read(kDaemon, &byte, 1);
    if (heard < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (heard == 1 && byte != 'k') continue;
    if (heard <= 0) listening = false;
    const bool first = !ending;
    ending = true;
    if (heard == 1) {
      kill(-pid, SIGKILL);
    } else if (first) {
      kill(-pid, SIGTERM);
      kill_at = Now() + kPolite;
    }
  }
}
