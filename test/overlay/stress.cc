// All operations of an overlay at once, from many threads: for the thread and address sanitizers, which a Node process does
// not suit. scripts/stress-overlay.sh builds and runs it.
//
// What is checked besides: a writer reads back what it wrote beside others in the same blocks, and what the layer holds when
// it is opened again is what all of them wrote last.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../../native/cow_model.h"
#include "../../native/overlay_disk.h"

using namespace asof;           // NOLINT
using namespace asof::overlay;  // NOLINT

namespace {

constexpr uint64_t kSize = (3 << 20) + 512;
constexpr size_t kSector = 512;
constexpr unsigned kWriters = 4;

[[noreturn]] void Die(const char* what, int err = 0) {
  fprintf(stderr, "%s: %s\n", what, strerror(err));
  abort();
}

// A point whose every byte is 0xbe.
class Below final : public Disk {
 public:
  uint64_t Size() const override { return kSize; }
  uint32_t SectorSize() const override { return kSector; }
  int Read(uint64_t, size_t length, uint8_t* into, Reader*) override {
    memset(into, 0xbe, length);
    return 0;
  }
  int Seek(uint64_t offset, int whence, uint64_t* result) override {
    *result = whence == SEEK_HOLE ? kSize : offset;
    return 0;
  }
  bool Allocated(uint64_t* bytes, unsigned) override {
    *bytes = kSize;
    return true;
  }
  std::unique_ptr<Reader> OpenReader() override { return nullptr; }
  int WholeFile() override { return -1; }
  void Close() override {}
};

std::unique_ptr<OverlayDisk> Open(const std::shared_ptr<cow::Machine>& machine, bool create) {
  LayerOptions options;
  options.size = kSize;
  options.kept = true;
  options.create = create;
  options.label = "stress";
  std::unique_ptr<Layer> layer;
  std::string why;
  if (int err = Layer::Open(machine->Open(0), options, &layer, &why)) Die(why.c_str(), err);
  return std::make_unique<OverlayDisk>(std::make_shared<Below>(), std::move(layer));
}

void Run(unsigned seconds) {
  auto machine = std::make_shared<cow::Machine>(std::vector<uint64_t>{0});
  auto disk = Open(machine, true);
  std::vector<uint8_t> model(kSize, 0xbe);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> writes{0}, reads{0};
  std::vector<std::thread> threads;
  for (unsigned w = 0; w < kWriters; w++) {
    threads.emplace_back([&, w] {
      std::mt19937_64 random(w);
      uint8_t bytes[kSector], back[kSector];
      while (!stop) {
        const uint64_t at = (random() % (kSize / kSector / kWriters) * kWriters + w) * kSector;
        const bool zero = random() % 8 == 0;
        memset(bytes, zero ? 0 : static_cast<int>(random()), kSector);
        memcpy(model.data() + at, bytes, kSector);
        if (int err = zero ? disk->WriteZeroes(at, kSector, true) : disk->Write(at, kSector, bytes)) Die("write", err);
        if (int err = disk->Read(at, kSector, back, nullptr)) Die("read", err);
        if (memcmp(bytes, back, kSector) != 0) Die("a write is lost");
        if (random() % 256 == 0 && disk->Flush() != 0) Die("flush");
        writes++;
      }
    });
  }
  for (unsigned r = 0; r < 2; r++) {
    threads.emplace_back([&, r] {
      std::mt19937_64 random(100 + r);
      std::vector<uint8_t> into(65536);
      while (!stop) {
        const auto file = disk->OpenReader();
        if (int err = disk->Read(random() % (kSize - into.size()), into.size(), into.data(), file.get())) Die("read", err);
        uint64_t found, bytes;
        disk->Seek(random() % kSize, random() % 2 ? SEEK_DATA : SEEK_HOLE, &found);
        disk->Allocated(&bytes, 0);
        reads++;
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::seconds(seconds));
  stop = true;
  for (auto& thread : threads) thread.join();
  if (int err = disk->End()) Die("end", err);
  uint8_t byte;
  if (disk->Read(0, 1, &byte, nullptr) != ESHUTDOWN) Die("it can be read after its end");
  disk = Open(machine, false);
  std::vector<uint8_t> all(kSize);
  if (int err = disk->Read(0, kSize, all.data(), nullptr)) Die("read", err);
  if (all != model) Die("what was written is not what is there");
  printf("%lu writes, %lu reads\n", writes.load(), reads.load());
}

}  // namespace

int main(int argc, char** argv) {
  for (int run = 0; run < 3; run++) Run(argc > 1 ? static_cast<unsigned>(atoi(argv[1])) : 5);
}
