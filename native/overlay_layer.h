// The file of an overlay: blocks at their own places, and the map of those that are there (docs/formats.md, "The layer of
// an overlay").
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cow_file.h"
#include "cow_format.h"
#include "overlay_map.h"

namespace asof::overlay {

using Identity = std::array<uint8_t, 32>;

constexpr size_t kMaxLabel = 1024;

struct LayerOptions {
  uint64_t size = 0;  // bytes of the disk
  bool kept = false;  // else it has no map on disk, and goes with its file
  bool create = false;
  // Of a kept one:
  Identity identity{};
  std::string label;
  cow::Uuid id{};  // of a new one
};

class Layer {
 public:
  // 0 and *layer, or an errno and, in words, why: EUCLEAN damaged, ESTALE of another point, EINVAL no layer.
  static int Open(std::shared_ptr<cow::File> file, const LayerOptions& options, std::unique_ptr<Layer>* layer, std::string* why);

  Map& map() { return map_; }

  // Of blocks that are in the map. After a sync that failed: EIO, for what the file then holds is anybody's guess.
  int Read(uint64_t offset, size_t length, uint8_t* into);
  // Neither sets bits. Reads as zeros after Zero, and takes no space.
  int Write(const iovec* parts, int count, uint64_t offset);
  int Zero(uint64_t offset, uint64_t length);
  // As lseek(2), of the disk's offsets.
  int Seek(uint64_t offset, int whence, uint64_t* result);
  uint64_t Held();  // bytes that the file takes

  // All blocks whose bits were set before the call are stable when it returns 0.
  int Flush();
  // After the last call of anything else: what was deferred by Flush is stable too, and the file is let go.
  int Close();

 private:
  Layer(std::shared_ptr<cow::File> file, const LayerOptions& options);

  int Make(std::string* why);
  int Load(std::string* why);
  int LoadHeader(std::string* why);
  int LoadPages(std::string* why);
  int LoadPage(uint64_t number, const uint8_t copies[2][kBlock], std::vector<uint64_t>* lost);
  int Commit();
  int CommitPages(const std::vector<uint64_t>& numbers);
  int WritePages(const std::vector<uint64_t>& numbers, const std::vector<uint8_t>& bytes, int copy);
  int WriteHeader(int copy);
  int Sync();
  void BuildPage(uint64_t number, uint8_t* bytes);
  uint64_t PageAt(uint64_t number, int copy) const { return 2 * kBlock + (static_cast<uint64_t>(copy) * map_.pages() + number) * kBlock; }

  const std::shared_ptr<cow::File> file_;
  LayerOptions options_;
  Map map_;
  const uint64_t data_;   // where block 0 lies
  const uint64_t bytes_;  // of the whole file
  std::atomic<bool> broken_{false};

  // Of whoever flushes.
  uint64_t sequence_ = 0;  // the last flush that wrote
  uint64_t used_ = 0;      // map pages
  uint64_t counted_ = 0;   // the flush up to which the header counts them

  // One flush at a time; those that come meanwhile share the next.
  std::mutex mu_;  // guards what follows
  std::condition_variable flushed_;
  uint64_t asked_ = 0;
  uint64_t done_ = 0;
  bool flushing_ = false;
};

}  // namespace asof::overlay
