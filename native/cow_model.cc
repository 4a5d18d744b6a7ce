#include "cow_model.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <random>
#include <iterator>
#include <thread>

#include "cow_format.h"

namespace asof::cow {
namespace {

constexpr size_t kSector = 512;

Written KindOf(const iovec& first) {
  SlotHeader slot;
  RecordHeader record;
  if (first.iov_len < std::max(sizeof slot, sizeof record)) return Written::kOther;
  memcpy(&slot, first.iov_base, sizeof slot);
  memcpy(&record, first.iov_base, sizeof record);
  if (record.magic == kRecordMagic) return Written::kRecord;
  return slot.magic == kSlotMagic && slot.kind == SlotKind::kCopy ? Written::kCopy : Written::kOther;
}

}  // namespace

class ModelFile final : public File {
 public:
  ModelFile(std::shared_ptr<Machine> machine, size_t file) : machine_(std::move(machine)), file_(file) {}

  using File::Write;

  int ReadSome(uint64_t offset, size_t length, uint8_t* into, size_t* got) override {
    std::unique_lock lock(machine_->mu_);
    const Faults faults = Content().faults;
    // The bytes are those at the end of the delay: the worst for a reader that looked at the map before it read.
    *got = offset >= Content().cache.size() ? 0 : std::min<size_t>(length, Content().cache.size() - offset);
    if (faults.read_ms != 0) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(faults.read_ms));
      lock.lock();
      *got = offset >= Content().cache.size() ? 0 : std::min<size_t>(length, Content().cache.size() - offset);
    }
    if (machine_->off_) return EIO;
    if (*got > 0) memcpy(into, Content().cache.data() + offset, *got);
    return Fails(faults.read_error);
  }

  int Write(const iovec* parts, int count, uint64_t offset) override {
    std::unique_lock lock(machine_->mu_);
    Wait(lock, Content().faults.write_ms);
    if (machine_->off_) return EIO;
    if (int err = Fails(Content().faults.write_error)) return err;
    size_t total = 0;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    if (Content().faults.capacity != 0 && offset + total > Content().faults.capacity) return ENOSPC;
    for (int i = 0; i < count; i++) {
      machine_->Put(Content(), offset, static_cast<const uint8_t*>(parts[i].iov_base), parts[i].iov_len, KindOf(parts[0]));
      offset += parts[i].iov_len;
    }
    return 0;
  }

  int Sync() override {
    std::unique_lock lock(machine_->mu_);
    Machine::Content& content = Content();
    const uint64_t upto = content.applied + content.pending.size();
    Wait(lock, content.faults.sync_ms);
    if (machine_->off_) return EIO;
    if (int err = Fails(content.faults.sync_error)) return err;
    if (content.faults.drop_sync) return 0;
    size_t done = 0;
    std::vector<Machine::Pending> left;
    for (; content.applied < upto && done < content.pending.size(); content.applied++) {
      Machine::Pending& write = content.pending[done++];
      if (content.faults.unsynced != Written::kOther && write.kind == content.faults.unsynced) {
        left.push_back(std::move(write));
        continue;
      }
      // What is stable now came after what it covers.
      std::erase_if(left, [&](const Machine::Pending& old) {
        return old.offset < write.offset + write.bytes.size() && write.offset < old.offset + old.bytes.size();
      });
      if (content.stable.size() < write.offset + write.bytes.size()) content.stable.resize(write.offset + write.bytes.size());
      memcpy(content.stable.data() + write.offset, write.bytes.data(), write.bytes.size());
    }
    content.pending.erase(content.pending.begin(), content.pending.begin() + static_cast<ptrdiff_t>(done));
    content.applied -= left.size();
    content.pending.insert(content.pending.begin(), std::make_move_iterator(left.begin()), std::make_move_iterator(left.end()));
    return 0;
  }

  int Zero(uint64_t offset, uint64_t length, bool) override {
    {
      const std::lock_guard lock(machine_->mu_);
      if (machine_->off_) return EIO;
      if (Content().faults.no_punch) return EOPNOTSUPP;
      const uint64_t size = Content().cache.size();
      if (offset >= size) return 0;
      length = std::min(length, size - offset);
    }
    const std::vector<uint8_t> zeros(length);
    const iovec part{const_cast<uint8_t*>(zeros.data()), zeros.size()};
    return Write(&part, 1, offset);
  }

  int Truncate(uint64_t size) override {
    const std::lock_guard lock(machine_->mu_);
    Content().cache.resize(size);
    Content().stable.resize(size);
    std::erase_if(Content().pending, [&](const auto& write) { return write.offset + write.bytes.size() > size; });
    return 0;
  }

  int Size(uint64_t* bytes) override {
    const std::lock_guard lock(machine_->mu_);
    *bytes = Content().cache.size();
    return 0;
  }

  int Seek(uint64_t offset, int whence, uint64_t* result) override {
    const std::lock_guard lock(machine_->mu_);
    if (offset >= Content().cache.size()) return ENXIO;
    *result = whence == SEEK_HOLE ? Content().cache.size() : offset;
    return 0;
  }

  int Space(uint64_t* held, uint64_t* free) override {
    const std::lock_guard lock(machine_->mu_);
    *held = Content().cache.size();
    *free = Content().faults.capacity == 0 ? UINT64_MAX : Content().faults.capacity - std::min<uint64_t>(*held, Content().faults.capacity);
    return 0;
  }

  std::pair<uint64_t, uint64_t> Identity() const override { return {reinterpret_cast<uintptr_t>(machine_.get()), file_}; }

 private:
  Machine::Content& Content() const { return machine_->contents_[file_]; }

  int Fails(int error) {
    if (error == 0) return 0;
    uint64_t& after = Content().faults.after;
    if (after > 0) {
      after--;
      return 0;
    }
    return error;
  }

  void Wait(std::unique_lock<std::mutex>& lock, unsigned ms) {
    if (ms != 0) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(ms));
      lock.lock();
    }
    machine_->changed_.wait(lock, [this] { return machine_->off_ || !Content().faults.hang; });
  }

  const std::shared_ptr<Machine> machine_;
  const size_t file_;
};

Machine::Machine(const std::vector<uint64_t>& sizes) : contents_(sizes.size()) {
  for (size_t i = 0; i < sizes.size(); i++) {
    contents_[i].cache.resize(sizes[i]);
    contents_[i].stable.resize(sizes[i]);
  }
}

std::unique_ptr<File> Machine::Open(size_t file) { return std::make_unique<ModelFile>(shared_from_this(), file); }

void Machine::Put(Content& content, uint64_t offset, const uint8_t* from, size_t length, Written kind) {
  if (content.cache.size() < offset + length) content.cache.resize(offset + length);
  memcpy(content.cache.data() + offset, from, length);
  content.pending.push_back({offset, std::vector<uint8_t>(from, from + length), kind});
}

std::shared_ptr<Machine> Machine::Cut(uint64_t seed) {
  const std::lock_guard lock(mu_);
  off_ = true;
  changed_.notify_all();
  auto next = std::make_shared<Machine>(std::vector<uint64_t>(contents_.size()));
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < contents_.size(); i++) {
    const Content& content = contents_[i];
    std::vector<uint8_t> left = content.stable;
    // The versions of each sector that was written since: as it was after each of its writes.
    std::map<uint64_t, std::vector<std::vector<uint8_t>>> sectors;
    for (const Pending& write : content.pending) {
      for (uint64_t at = write.offset; at < write.offset + write.bytes.size();) {
        const uint64_t sector = at / kSector;
        const uint64_t n = std::min((sector + 1) * kSector, write.offset + write.bytes.size()) - at;
        auto& versions = sectors[sector];
        std::vector<uint8_t> now(kSector);
        if (!versions.empty()) {
          now = versions.back();
        } else if (sector * kSector < left.size()) {
          memcpy(now.data(), left.data() + sector * kSector, std::min<uint64_t>(kSector, left.size() - sector * kSector));
        }
        memcpy(now.data() + at % kSector, write.bytes.data() + (at - write.offset), n);
        versions.push_back(std::move(now));
        at += n;
      }
    }
    // From nothing kept, over a few, to everything kept.
    const unsigned keep = std::array<unsigned, 5>{0, 20, 50, 90, 100}[random() % 5];
    for (const auto& [sector, versions] : sectors) {
      if (random() % 100 >= keep) continue;
      const auto& version = keep == 100 ? versions.back() : versions[random() % versions.size()];
      const uint64_t end = std::min<uint64_t>((sector + 1) * kSector, content.cache.size());
      if (left.size() < end) left.resize(end);
      memcpy(left.data() + sector * kSector, version.data(), end - sector * kSector);
    }
    next->contents_[i].cache = left;
    next->contents_[i].stable = std::move(left);
  }
  return next;
}

void Machine::SetFaults(size_t file, const Faults& faults) {
  const std::lock_guard lock(mu_);
  contents_[file].faults = faults;
  changed_.notify_all();
}

std::vector<uint8_t> Machine::Bytes(size_t file) const {
  const std::lock_guard lock(mu_);
  return contents_[file].cache;
}

void Machine::SetBytes(size_t file, std::vector<uint8_t> bytes) {
  const std::lock_guard lock(mu_);
  contents_[file].cache = bytes;
  contents_[file].stable = std::move(bytes);
  contents_[file].pending.clear();
}

}  // namespace asof::cow
