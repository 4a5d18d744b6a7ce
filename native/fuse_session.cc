#include "fuse_session.h"

#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "fuse_uring.h"

namespace asof::fuse {

namespace {

constexpr size_t kPage = 4096;
constexpr uint32_t kMaxPages = 256;
constexpr size_t kMaxRead = kMaxPages * kPage;
constexpr size_t kRequestBytes = 64 * 1024;  // the kernel wants 8 KiB (FUSE_MIN_READ_BUFFER); forgets come in batches
constexpr uint32_t kNoWrite = kPage;         // where nothing is written it only sizes the kernel's minimum above
constexpr uint32_t kMaxWrite = kMaxRead;
constexpr size_t kWriteHead = sizeof(fuse_in_header) + sizeof(fuse_write_in);
constexpr uint32_t kReadAhead = 8 << 20;
constexpr unsigned kMaxThreads = 16;
constexpr unsigned kWriterThreads = 8;  // at least: a writer waits for stable storage, and several share one flush
constexpr unsigned kMostThreads = 512;       // of a session that grows
constexpr uint16_t kBackground = 64;
constexpr int kNice = -10;                   // of a worker, where disks can be written
constexpr uint16_t kWriterBackground = 1024;  // above a loop device's queue, so that one over another can go on
// How long no worker may take a request before there is one more. A slow disk may take as long: then it does no harm.
constexpr auto kStalled = std::chrono::milliseconds(50);

// Interrupts a worker's system call, and does nothing else. Not one of those that Node or libuv handle.
int WakeSignal() { return SIGRTMIN + 7; }

void InstallWakeSignal() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_handler = [](int) {};  // without SA_RESTART, so that read(2) returns EINTR
    sigaction(WakeSignal(), &action, nullptr);
  });
}

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return cpus;
}

unsigned ThreadCount(unsigned wanted, size_t cpus, bool writable) {
  // Two at least: one may wait for JavaScript.
  const unsigned least = writable ? kWriterThreads : 2;
  if (wanted == 0) wanted = std::clamp<unsigned>(static_cast<unsigned>(cpus), least, kMaxThreads);
  return std::min(wanted, 256u);
}

bool MayPassThrough() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  return data[0].effective & (1u << CAP_SYS_ADMIN);
}

}  // namespace

// A request, and an answer whose header ends where a page begins, so that the payload is page-aligned and header and
// payload go out in one write. Where something can be written, the same goes for what a request brings.
struct Session::Buffers {
  explicit Buffers(bool writable)
      : request_at(writable ? kPage - kWriteHead : 0),
        request_bytes(writable ? kWriteHead + kMaxWrite : kRequestBytes),
        payload_at(request_at + request_bytes + kPage),
        memory(static_cast<uint8_t*>(aligned_alloc(kPage, payload_at + kMaxRead))) {}
  ~Buffers() { free(memory); }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  uint8_t* request() { return memory + request_at; }
  uint8_t* payload() { return memory + payload_at; }
  uint8_t* answer() { return payload() - sizeof(fuse_out_header); }

  const size_t request_at;
  const size_t request_bytes;
  const size_t payload_at;
  uint8_t* const memory;
};

Session::Session(const SessionConfig& config, std::unique_ptr<Tree> tree, SessionHost* host)
    : config_(config),
      tree_(std::move(tree)),
      host_(host),
      cpus_(AllowedCpus()),
      threads_(ThreadCount(config.threads, cpus_.size(), config.writable)),
      passthrough_(config.fd),
      server_(tree_.get(), host, &passthrough_, config.uid, config.gid, threads_ - 1, config.writable) {}

Session::~Session() = default;

void Session::Start() {
  InstallWakeSignal();
  Launch([this] { First(); });
}

void Session::First() {
  Buffers buffers(config_.writable);
  Pin(0);
  ServeMemory();
  int error = buffers.memory ? Negotiate(buffers) : ENOMEM;
  if (error == 0) {
    // Over rings, /dev/fuse brings little more than what the kernel forgets.
    const unsigned readers = uring_ ? 1 : threads_;
    for (unsigned i = 1; i < readers; ++i) Launch([this, i] { Work(i); });
    if (uring_) {
      uring_->Start();
    } else if (config_.writable) {
      Launch([this] { Watch(); });
    }
    host_->Ready(facts_);
    error = Serve(buffers);
  }
  // An unmount before INIT is an end like any other.
  Leave(error == ENODEV ? 0 : error);
}

void Session::Work(unsigned index) {
  Pin(index);
  ServeMemory();
  Buffers buffers(config_.writable);
  const int error = buffers.memory ? Serve(buffers) : ENOMEM;
  Leave(error == ENODEV ? 0 : error);
}

void Session::Pin(unsigned index) const {
  pthread_setname_np(pthread_self(), "asof-fuse");
  if (cpus_.size() < 2) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus_[index % cpus_.size()], &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // slower without, not wrong
}

void Session::ServeMemory() const {
  if (!config_.writable) return;
  // Takes CAP_SYS_RESOURCE. Without it, memory that is short may wait for a worker that waits for memory.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  // Takes CAP_SYS_NICE. All that write wait for a snapshot, which waits for the writes that have begun: on a busy machine
  // for as long as one of these has no processor. As daemons of other disks do, iscsid for one.
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
}

ssize_t Session::Receive(Buffers& buffers) {
  if (stopping_) return -ENODEV;
  free_.fetch_add(1);
  const ssize_t n = read(config_.fd, buffers.request(), buffers.request_bytes);
  taken_.fetch_add(1, std::memory_order_relaxed);
  if (free_.fetch_sub(1) == 1 && config_.writable && !watched_.load()) {
    const std::lock_guard lock(mutex_);
    crowded_.notify_all();
  }
  if (n >= 0) return n;
  // ENOENT: the request was interrupted before it could be read.
  if (errno == EINTR || errno == ENOENT || errno == EAGAIN) return 0;
  // Aborted through fusectl or umount -f: an end that somebody asked for, like an unmount.
  return errno == ECONNABORTED ? -ENODEV : -errno;
}

int Session::Send(Buffers& buffers, uint64_t unique, int error, size_t length) {
  if (error) length = 0;
  const size_t total = sizeof(fuse_out_header) + length;
  const fuse_out_header header{static_cast<uint32_t>(total), -error, unique};
  memcpy(buffers.answer(), &header, sizeof header);
  for (;;) {
    if (write(config_.fd, buffers.answer(), total) >= 0) return 0;
    if (errno == EINTR) continue;
    // ENOENT: nobody waits for this answer any more.
    if (errno == ENOENT || errno == EAGAIN) return 0;
    if (error == 0 && errno != ENODEV) return Send(buffers, unique, EIO, 0);
    return errno;
  }
}

int Session::Serve(Buffers& buffers) {
  for (;;) {
    const ssize_t n = Receive(buffers);
    if (n < 0) return static_cast<int>(-n);
    if (n == 0) continue;
    const auto* in = reinterpret_cast<const fuse_in_header*>(buffers.request());
    const size_t length = static_cast<size_t>(n);
    if (length < sizeof *in) return EPROTO;
    if (in->len != length) {
      if (const int error = Send(buffers, in->unique, EIO, 0)) return error;
      continue;
    }
    const uint8_t* body = buffers.request() + sizeof *in;
    const size_t rest = length - sizeof *in;
    const Reply reply = server_.Answer({*in, body, rest, body, rest}, buffers.payload(), kMaxRead);
    if (reply.silent) continue;
    if (const int error = Send(buffers, in->unique, reply.error, reply.length)) return error;
  }
}

int Session::Negotiate(Buffers& buffers) {
  for (;;) {
    const ssize_t n = Receive(buffers);
    if (n < 0) return static_cast<int>(-n);
    if (n == 0) continue;
    const auto* header = reinterpret_cast<const fuse_in_header*>(buffers.request());
    // fuse_init_in was 16 bytes until 7.36.
    if (static_cast<size_t>(n) < sizeof *header + 16) return EPROTO;
    if (header->opcode != FUSE_INIT) {
      if (const int error = Send(buffers, header->unique, EIO, 0)) return error;
      continue;
    }
    fuse_init_in in{};
    memcpy(&in, header + 1, std::min(sizeof in, static_cast<size_t>(n) - sizeof *header));
    const uint64_t unique = header->unique;
    InitOut out{};
    out.major = FUSE_KERNEL_VERSION;
    out.minor = kMinor;
    if (in.major > FUSE_KERNEL_VERSION) {  // it asks again, in our version
      memcpy(buffers.payload(), &out, sizeof out);
      if (const int error = Send(buffers, unique, 0, sizeof out)) return error;
      continue;
    }
    if (in.major < FUSE_KERNEL_VERSION || in.minor < kOldestMinor) {
      Send(buffers, unique, EPROTO, 0);
      return EPROTO;
    }

    uint64_t offered = in.flags;
    if (in.flags & FUSE_INIT_EXT) offered |= static_cast<uint64_t>(in.flags2) << 32;
    uint64_t wanted = FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS |
                      FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_EXPLICIT_INVAL_DATA |
                      FUSE_NO_OPENDIR_SUPPORT | FUSE_INIT_EXT | kDirectIoAllowMmap;
    if (MayPassThrough()) wanted |= kPassthrough;
    // Once the kernel is told yes, it sends nothing until every ring is there: whatever can fail comes before.
    if (config_.uring && (offered & kOverIoUring)) {
      uring_ = Uring::Create(this, kMaxRead, config_.writable);
      if (uring_) wanted |= kOverIoUring;
    }
    const uint64_t agreed = offered & wanted;
    if (agreed & FUSE_NO_OPENDIR_SUPPORT) server_.SkipOpendir();
    if (agreed & kPassthrough) passthrough_.Enable();

    out.minor = std::min(in.minor, kMinor);
    out.max_readahead = kReadAhead;
    out.flags = static_cast<uint32_t>(agreed);
    out.flags2 = static_cast<uint32_t>(agreed >> 32);
    out.max_background = config_.writable ? kWriterBackground : kBackground;
    out.congestion_threshold = static_cast<uint16_t>(out.max_background * 3 / 4);
    out.max_write = config_.writable ? kMaxWrite : kNoWrite;
    out.time_gran = 1000000;  // milliseconds
    out.max_pages = kMaxPages;
    out.max_stack_depth = agreed & kPassthrough ? 2 : 0;

    facts_.minor = out.minor;
    facts_.max_read = kMaxRead;
    facts_.max_write = config_.writable ? kMaxWrite : 0;
    facts_.uring = uring_ != nullptr;
    facts_.threads = uring_ ? uring_->queues() + 1 : threads_;
    facts_.passthrough = agreed & kPassthrough;
    memcpy(buffers.payload(), &out, sizeof out);
    return Send(buffers, unique, 0, sizeof out);
  }
}

bool Session::Update(Changes changes, std::function<void()> told) {
  std::vector<Notice> notices;
  if (!tree_->Update(std::move(changes), &notices)) return false;
  {
    std::lock_guard lock(mutex_);
    if (!notifier_ && !ending_ && !aborting_) {
      notifier_ = std::make_unique<Notifier>(config_.fd);
      notifying_ = true;
      ++live_;
      workers_.emplace_back([this] { Notify(); });
    }
  }
  // What was stopped tells at once.
  if (notifier_) {
    notifier_->Add(std::move(notices), std::move(told));
  } else {
    told();
  }
  return true;
}

void Session::Notify() {
  pthread_setname_np(pthread_self(), "asof-fuse-tell");
  notifier_->Run();
  {
    std::lock_guard lock(mutex_);
    notifying_ = false;
  }
  Leave(0);
}

// Adds a worker each time that none took a request for a while and none is free to.
void Session::Watch() {
  pthread_setname_np(pthread_self(), "asof-fuse-watch");
  ServeMemory();  // new workers are made when memory may wait for them
  std::unique_lock lock(mutex_);
  unsigned workers = threads_;
  while (!ending_ && !aborting_) {
    // Whoever takes the last free place after this store tells; who took it before is seen by the look at free_.
    watched_ = false;
    crowded_.wait(lock, [this] { return ending_ || aborting_ || free_ == 0; });
    watched_ = true;
    for (;;) {
      const uint64_t taken = taken_.load();
      if (crowded_.wait_for(lock, kStalled, [this] { return ending_ || aborting_; })) break;
      if (free_ != 0) break;
      if (taken_.load() != taken || workers == kMostThreads) continue;
      ++live_;
      workers_.emplace_back([this, workers] { Work(workers); });
      ++workers;
    }
  }
  lock.unlock();
  Leave(0);
}

void Session::Leave(int error) {
  if (error) {
    int none = 0;
    error_.compare_exchange_strong(none, error);
    Abort();
  }
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
    crowded_.notify_all();
    if (notifier_) notifier_->Stop();
    if (--live_ > 0) return;
  }
  // The last one. The rings hold the descriptor too.
  if (uring_) uring_->Close();
  close(config_.fd);
  host_->Ended(error_);
}

void Session::Abort() {
  std::lock_guard lock(mutex_);
  if (aborting_ || live_ == 0) return;
  aborting_ = true;
  crowded_.notify_all();
  if (notifier_) notifier_->Stop();
  if (!notifying_) stopping_ = true;
  // A signal that arrives between the look at stopping_ and read(2) wakes nobody: repeat until all have left.
  waker_ = std::thread([this] {
    for (;;) {
      {
        std::lock_guard inner(mutex_);
        if (live_ == 0) return;
        if (!notifying_) {
          stopping_ = true;
          for (std::thread& worker : workers_) pthread_kill(worker.native_handle(), WakeSignal());
        }
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
}

void Session::Join() {
  // No worker is left to launch another, or to start the waker.
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  if (waker_.joinable()) waker_.join();
}

}  // namespace asof::fuse
