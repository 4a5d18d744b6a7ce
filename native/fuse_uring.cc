#include "fuse_uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "fuse_session.h"

namespace asof::fuse {

namespace {

constexpr unsigned kDepth = 8;            // entries a queue; their memory is touched as it is used
constexpr unsigned kMostDepth = 32;       // where disks can be written: see fuse_uring.h
constexpr size_t kSubmission = 128;       // bytes, with IORING_SETUP_SQE128
constexpr size_t kCommandArea = 48;       // where io_uring_sqe.cmd begins
constexpr size_t kHeaderBytes = 4096;     // a page for each entry's header
static_assert(sizeof(UringHeader) <= kHeaderBytes && kCommandArea + sizeof(UringCommand) <= kSubmission);

// Of the machine, not of this process: queue numbers are CPU numbers. The file says "0-7" or "0".
unsigned PossibleCpus() {
  FILE* file = fopen("/sys/devices/system/cpu/possible", "re");
  if (!file) return 0;
  unsigned first = 0;
  unsigned last = 0;
  const int fields = fscanf(file, "%u-%u", &first, &last);
  fclose(file);
  if (fields < 1 || first != 0) return 0;
  return fields == 1 ? 1 : last + 1;
}

// A pointer into memory that the kernel writes, read with acquire and written with release.
uint32_t Acquire(uint32_t* at) { return std::atomic_ref<uint32_t>(*at).load(std::memory_order_acquire); }
void Release(uint32_t* at, uint32_t value) {
  std::atomic_ref<uint32_t>(*at).store(value, std::memory_order_release);
}

class Mapping {
 public:
  Mapping() = default;
  ~Mapping() { Unmap(); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  bool Map(size_t length, int flags, int fd, off_t offset) {
    void* at = mmap(nullptr, length, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (at == MAP_FAILED) return false;
    at_ = static_cast<uint8_t*>(at);
    length_ = length;
    return true;
  }
  void Unmap() {
    if (at_) munmap(at_, length_);
    at_ = nullptr;
  }
  uint8_t* at(size_t offset = 0) const { return at_ + offset; }

 private:
  uint8_t* at_ = nullptr;
  size_t length_ = 0;
};

}  // namespace

class Uring::Queue {
 public:
  Queue(Uring* uring, unsigned number, size_t max_payload, unsigned depth)
      : uring_(uring), session_(uring->session_), number_(number), max_payload_(max_payload), depth_(depth) {}
  ~Queue() { Close(); }

  bool Open();
  void Close();
  void Run();

  // For a helper: answers the request of an entry and gives it back to the queue's thread.
  void Finish(unsigned index);

 private:
  struct Entry {
    UringHeader* header;
    uint8_t* payload;
    uint64_t commit;
    iovec parts[2];  // REGISTER reads it when it is submitted
  };

  io_uring_sqe* Next();
  void Submit(unsigned index, uint32_t operation, uint64_t commit);
  void Listen();
  void Collect();
  template <typename F>
  void WithRequest(unsigned index, F use);
  void Take(unsigned index);
  void Answer(unsigned index);
  int Loop();

  Uring* const uring_;
  Session* const session_;
  const unsigned number_;
  const size_t max_payload_;
  const unsigned depth_;
  int ring_ = -1;
  int finished_ = -1;  // eventfd: there is something in done_
  std::mutex mutex_;
  std::vector<unsigned> done_;  // under mutex_: entries that helpers have answered
  Mapping rings_;
  Mapping submissions_;
  Mapping memory_;
  Entry entries_[kMostDepth]{};
  uint32_t* sq_tail_ = nullptr;
  uint32_t* sq_array_ = nullptr;
  uint32_t sq_mask_ = 0;
  uint32_t* cq_head_ = nullptr;
  uint32_t* cq_tail_ = nullptr;
  uint32_t cq_mask_ = 0;
  const io_uring_cqe* completions_ = nullptr;
  unsigned unsubmitted_ = 0;
};

bool Uring::Queue::Open() {
  io_uring_params params{};
  params.flags = IORING_SETUP_SQE128 | IORING_SETUP_CQSIZE;
  params.cq_entries = 4 * depth_;
  ring_ = static_cast<int>(syscall(SYS_io_uring_setup, 2 * depth_, &params));
  if (ring_ < 0) return false;
  finished_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (finished_ < 0) return false;
  done_.reserve(depth_);
  // Since 5.4 one mapping holds both rings; the kernels that have FUSE over io_uring all do.
  if (!(params.features & IORING_FEAT_SINGLE_MMAP)) return false;
  const size_t sq_bytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  const size_t cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  const int shared = MAP_SHARED | MAP_POPULATE;
  if (!rings_.Map(std::max(sq_bytes, cq_bytes), shared, ring_, IORING_OFF_SQ_RING)) return false;
  if (!submissions_.Map(params.sq_entries * kSubmission, shared, ring_, IORING_OFF_SQES)) return false;
  const size_t slot = kHeaderBytes + max_payload_;
  if (!memory_.Map(depth_ * slot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) return false;

  sq_tail_ = reinterpret_cast<uint32_t*>(rings_.at(params.sq_off.tail));
  sq_array_ = reinterpret_cast<uint32_t*>(rings_.at(params.sq_off.array));
  sq_mask_ = params.sq_entries - 1;
  cq_head_ = reinterpret_cast<uint32_t*>(rings_.at(params.cq_off.head));
  cq_tail_ = reinterpret_cast<uint32_t*>(rings_.at(params.cq_off.tail));
  cq_mask_ = params.cq_entries - 1;
  completions_ = reinterpret_cast<const io_uring_cqe*>(rings_.at(params.cq_off.cqes));
  for (unsigned i = 0; i < depth_; ++i) {
    uint8_t* at = memory_.at(i * slot);
    entries_[i].header = reinterpret_cast<UringHeader*>(at);
    entries_[i].payload = at + kHeaderBytes;
    entries_[i].parts[0] = {at, sizeof(UringHeader)};
    entries_[i].parts[1] = {entries_[i].payload, max_payload_};
  }
  return true;
}

void Uring::Queue::Close() {
  if (ring_ >= 0) close(ring_);
  if (finished_ >= 0) close(finished_);
  ring_ = finished_ = -1;
}

// Never more at once than one for each entry and one for the eventfd, and the kernel has taken the earlier ones when this
// is called again for the same: the ring cannot overflow.
io_uring_sqe* Uring::Queue::Next() {
  const uint32_t tail = *sq_tail_;
  const uint32_t slot = tail & sq_mask_;
  uint8_t* at = submissions_.at(slot * kSubmission);
  memset(at, 0, kSubmission);
  sq_array_[slot] = slot;
  return reinterpret_cast<io_uring_sqe*>(at);
}

void Uring::Queue::Listen() {
  io_uring_sqe* sqe = Next();
  sqe->opcode = IORING_OP_POLL_ADD;
  sqe->fd = finished_;
  sqe->poll32_events = POLLIN;
  sqe->user_data = depth_;
  Release(sq_tail_, *sq_tail_ + 1);
  ++unsubmitted_;
}

void Uring::Queue::Collect() {
  uint64_t count;
  while (read(finished_, &count, sizeof count) < 0 && errno == EINTR) {
  }
  std::vector<unsigned> done;
  done.reserve(depth_);
  {
    const std::lock_guard lock(mutex_);
    done_.swap(done);
  }
  for (const unsigned index : done) Submit(index, kUringCommitAndFetch, entries_[index].commit);
  Listen();
}

void Uring::Queue::Submit(unsigned index, uint32_t operation, uint64_t commit) {
  io_uring_sqe* sqe = Next();
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = session_->fd();
  sqe->cmd_op = operation;
  sqe->user_data = index;
  if (operation == kUringRegister) {
    sqe->addr = reinterpret_cast<uintptr_t>(entries_[index].parts);
    sqe->len = 2;
  }
  UringCommand command{};
  command.commit_id = commit;
  command.queue = static_cast<uint16_t>(number_);
  memcpy(reinterpret_cast<uint8_t*>(sqe) + kCommandArea, &command, sizeof command);
  Release(sq_tail_, *sq_tail_ + 1);
  ++unsubmitted_;
}

template <typename F>
void Uring::Queue::WithRequest(unsigned index, F use) {
  Entry& entry = entries_[index];
  // The request is copied out of the header page, where the answer's header will lie.
  fuse_in_header in;
  memcpy(&in, entry.header->in_out, sizeof in);
  UringEntry state;
  memcpy(&state, &entry.header->entry, sizeof state);
  const size_t rest = std::min<size_t>(state.payload_size, max_payload_);
  entry.commit = state.commit_id;
  use(Request{in, entry.header->op_in, sizeof entry.header->op_in, entry.payload, rest});
}

// To a helper, or answered at once.
void Uring::Queue::Take(unsigned index) {
  bool waits = false;
  WithRequest(index, [&](const Request& request) { waits = session_->server().MayWait(request); });
  if (waits) {
    uring_->Help(this, index);
    return;
  }
  Answer(index);
  Submit(index, kUringCommitAndFetch, entries_[index].commit);
}

void Uring::Queue::Finish(unsigned index) {
  Answer(index);
  {
    const std::lock_guard lock(mutex_);
    done_.push_back(index);
  }
  const uint64_t one = 1;
  while (write(finished_, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void Uring::Queue::Answer(unsigned index) {
  Entry& entry = entries_[index];
  WithRequest(index, [&](const Request& request) {
    const uint64_t unique = request.header.unique;
    const Reply reply = session_->server().Answer(request, entry.payload, max_payload_);
    const size_t length = reply.error ? 0 : reply.length;
    const fuse_out_header out{static_cast<uint32_t>(sizeof out + length), -reply.error, unique};
    memcpy(entry.header->in_out, &out, sizeof out);
    entry.header->entry.payload_size = static_cast<uint32_t>(length);
  });
}

int Uring::Queue::Loop() {
  for (unsigned i = 0; i < depth_; ++i) Submit(i, kUringRegister, 0);
  Listen();
  unsigned alive = depth_;
  while (alive > 0) {
    if (session_->stopping()) return 0;
    const long taken =
        syscall(SYS_io_uring_enter, ring_, unsubmitted_, 1, IORING_ENTER_GETEVENTS, nullptr, size_t{0});
    if (taken < 0) {
      if (errno == EINTR || errno == EAGAIN || errno == EBUSY) continue;
      return errno;
    }
    unsubmitted_ -= static_cast<unsigned>(taken);
    uint32_t head = *cq_head_;
    for (; head != Acquire(cq_tail_); ++head) {
      const io_uring_cqe& completion = completions_[head & cq_mask_];
      const auto index = static_cast<unsigned>(completion.user_data);
      const int result = completion.res;
      if (index == depth_) {
        if (result < 0) return -result;
        Collect();
        continue;
      }
      if (index > depth_) continue;
      switch (-result) {
        case 0:
          Take(index);
          break;
        case ENOTCONN:  // the mount is gone
        case ENODEV:
        case ECONNABORTED:
        case ECANCELED:
          --alive;
          break;
        default:
          // Without its entries a queue would hold up every reader on its CPU.
          Release(cq_head_, head + 1);
          return result < 0 ? -result : EPROTO;
      }
    }
    Release(cq_head_, head);
  }
  return 0;
}

void Uring::Queue::Run() {
  pthread_setname_np(pthread_self(), "asof-fuse-ring");
  cpu_set_t set;
  CPU_ZERO(&set);
  if (number_ < CPU_SETSIZE) {
    CPU_SET(number_, &set);
    // Fails for a CPU that is off line or not ours: its queue is served from elsewhere.
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  }
  session_->ServeMemory();
  const int error = Loop();
  uring_->Ended();
  session_->Leave(error);
}

Uring::Uring() = default;
Uring::~Uring() = default;

std::unique_ptr<Uring> Uring::Create(Session* session, size_t max_payload, bool writable) {
  const unsigned cpus = PossibleCpus();
  if (cpus == 0 || cpus > UINT16_MAX) return nullptr;
  std::unique_ptr<Uring> uring(new Uring);
  uring->session_ = session;
  const unsigned depth = writable ? kMostDepth : kDepth;
  for (unsigned i = 0; i < cpus; ++i) {
    uring->queues_.push_back(std::make_unique<Queue>(uring.get(), i, max_payload, depth));
    if (!uring->queues_.back()->Open()) return nullptr;
  }
  return uring;
}

void Uring::Help(Queue* queue, unsigned index) {
  const std::lock_guard lock(mutex_);
  waiting_.emplace_back(queue, index);
  if (idle_ < waiting_.size()) {
    session_->Launch([this] { Serve(); });
  } else {
    more_.notify_one();
  }
}

void Uring::Serve() {
  pthread_setname_np(pthread_self(), "asof-fuse-help");
  session_->ServeMemory();
  {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      more_.wait(lock, [this] { return !waiting_.empty() || running_ == 0; });
      --idle_;
      if (waiting_.empty()) break;
      const auto [queue, index] = waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      queue->Finish(index);
      lock.lock();
    }
  }
  session_->Leave(0);
}

// A queue gives up what its helpers have only where the session ends by force: they then end it for themselves.
void Uring::Ended() {
  const std::lock_guard lock(mutex_);
  if (--running_ == 0) more_.notify_all();
}

void Uring::Start() {
  running_ = queues_.size();
  for (const auto& queue : queues_) {
    session_->Launch([at = queue.get()] { at->Run(); });
  }
}

void Uring::Close() {
  for (const auto& queue : queues_) queue->Close();
}

}  // namespace asof::fuse
