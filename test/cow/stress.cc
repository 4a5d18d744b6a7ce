// All operations of a volume at once, from many threads: for the thread and address sanitizers, which a Node process does
// not suit. scripts/stress-cow.sh builds and runs it.
//
// What is checked besides: a snapshot that is read twice is the same both times, and each of its 4 KiB blocks is of one
// write; the live device's owner of a block reads what it wrote last.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../../native/cow_disks.h"
#include "../../native/cow_model.h"
#include "../../native/cow_volume.h"

using namespace asof::cow;  // NOLINT

namespace {

constexpr uint64_t kSize = 2 << 20;
constexpr size_t kBlock = 4096;
constexpr unsigned kWriters = 4;

[[noreturn]] void Die(const char* what, int err = 0) {
  fprintf(stderr, "%s: %s\n", what, strerror(err));
  abort();
}

Uuid NewId(std::mt19937_64* random) {
  Uuid id;
  for (auto& byte : id) byte = static_cast<uint8_t>((*random)());
  return id;
}

bool Uniform(const uint8_t* block) { return memcmp(block, block + 8, kBlock - 8) == 0; }

void Run(bool power, unsigned timeout_ms, unsigned seconds) {
  auto machine = std::make_shared<Machine>(std::vector<uint64_t>{kSize, 0, 0});
  VolumeOptions options;
  options.size = kSize;
  options.chunk_size = 16384;
  options.region_size = 65536;
  options.power = power;
  options.timeout_ms = timeout_ms;
  options.create = true;
  std::shared_ptr<Volume> volume;
  OpenReport report;
  std::string why;
  if (int err = Volume::Open(options, machine->Open(0), machine->Open(1), machine->Open(2), {}, &volume, &report, &why)) Die(why.c_str(), err);

  std::atomic<bool> stop{false};
  std::atomic<uint64_t> writes{0}, snapshots{0}, reads{0};
  std::vector<std::thread> threads;
  for (unsigned w = 0; w < kWriters; w++) {
    threads.emplace_back([&, w] {
      std::mt19937_64 random(w);
      std::vector<uint8_t> bytes(kBlock), back(kBlock);
      for (uint64_t n = 1; !stop; n++) {
        // Blocks are dealt out in turn, so that each chunk has all the writers.
        const uint64_t block = random() % (kSize / kBlock / kWriters) * kWriters + w;
        const uint64_t stamp = n << 8 | w;
        for (size_t i = 0; i < kBlock; i += 8) memcpy(bytes.data() + i, &stamp, 8);
        int err;
        if (random() % 10 == 0) {
          memset(bytes.data(), 0, kBlock);
          err = volume->WriteZeroes(block * kBlock, kBlock, true);
        } else {
          err = volume->Write(block * kBlock, kBlock, bytes.data());
        }
        if (err == 0) err = volume->Read(block * kBlock, kBlock, back.data());
        if (err != 0) Die("write", err);
        if (back != bytes) Die("the live device lost a write");
        if (random() % 64 == 0) volume->Flush();
        writes++;
      }
    });
  }
  threads.emplace_back([&] {
    std::mt19937_64 random(77);
    std::vector<Uuid> ids;
    while (!stop) {
      SnapshotResult result;
      const Uuid id = NewId(&random);
      if (int err = Volume::Take({{volume, id}}, NewId(&random), 10000, &result)) Die("take", err);
      ids.push_back(id);
      snapshots++;
      if (ids.size() > 6) {
        const size_t i = random() % ids.size();
        if (int err = volume->Delete(ids[i])) Die("delete", err);
        ids.erase(ids.begin() + static_cast<ptrdiff_t>(i));
      }
      if (random() % 4 == 0) volume->Release(ids[random() % ids.size()], {{0, 65536}}, 100);
      volume->ChangesSince(0, 0);
      volume->Counters();
    }
  });
  for (unsigned r = 0; r < 2; r++) {
    threads.emplace_back([&, r] {
      std::mt19937_64 random(r + 500);
      std::vector<uint8_t> once(10 * kBlock), twice(10 * kBlock);
      while (!stop) {
        const auto list = volume->List();
        if (list.empty()) continue;
        auto disk = OpenSnapshotDisk(volume, list[random() % list.size()].id);
        if (!disk) continue;
        const auto reader = disk->OpenReader();
        const uint64_t at = random() % (kSize / kBlock - 10) * kBlock;
        const int first = disk->Read(at, once.size(), once.data(), reader.get());
        const int second = disk->Read(at, twice.size(), twice.data(), reader.get());
        // Deleted or released meanwhile: an error from then on.
        if (first != 0 || second != 0) {
          if (!disk->Defects().empty()) Die(disk->Defects()[0].why.c_str(), first);
          continue;
        }
        if (once != twice) Die("a snapshot changed");
        for (size_t i = 0; i < once.size(); i += kBlock) {
          if (!Uniform(once.data() + i)) Die("a snapshot holds half a write");
        }
        reads++;
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::seconds(seconds));
  stop = true;
  for (auto& thread : threads) thread.join();
  const int err = volume->Close();
  if (err != 0) Die("close", err);
  printf("%s, time-out %u ms: %lu writes, %lu snapshots, %lu reads\n", power ? "power" : "process", timeout_ms,
         static_cast<unsigned long>(writes), static_cast<unsigned long>(snapshots), static_cast<unsigned long>(reads));
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned seconds = argc > 1 ? static_cast<unsigned>(atoi(argv[1])) : 5;
  Run(false, 0, seconds);
  Run(true, 0, seconds);
  Run(true, 60000, seconds);
  return 0;
}
