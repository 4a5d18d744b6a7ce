// The names of a mount: made once, read by all workers without a lock, never changed.
//
// The only thing that comes and goes is an alias: an unlisted name ("@2026-11-21T10:15Z") that JavaScript resolved to a
// listed directory. The kernel allows a directory one place in its tree, so such a name gets a node number of its own,
// which lives until the kernel forgets it; below it, directories are aliases again, and files are the listed ones
// (a file may have many names).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "disk.h"

namespace asof::fuse {

enum class Kind { kDirectory, kDisk, kText };

struct Node {
  uint64_t id = 0;
  uint64_t parent = 0;
  std::string name;
  Kind kind = Kind::kDirectory;
  int64_t modified_ms = 0;
  std::shared_ptr<Disk> disk;  // of kDisk

  std::vector<uint64_t> children;  // of kDirectory, in the order of the tree
  std::unordered_map<std::string, uint64_t> by_name;
  uint32_t directories = 0;  // among the children
};

class Tree {
 public:
  // False where the ids are not 1, 2, 3 … in order, or a parent is no directory before its child.
  bool Build(std::vector<Node> nodes);

  // The listed node behind a node number of the kernel's (an alias stands for its target); null where there is none.
  const Node* Find(uint64_t number) const;

  bool IsAlias(uint64_t number) const { return number >= kFirstAlias; }

  // The node number for `target` under the name `name` of `parent`; each call is one look-up that the kernel counts.
  uint64_t Alias(uint64_t parent, std::string_view name, uint64_t target);

  // The kernel drops `count` look-ups of `number`. Only aliases are counted.
  void Forget(uint64_t number, uint64_t count);

  size_t size() const { return nodes_.size() - 1; }
  uint64_t disk_bytes() const { return disk_bytes_; }

 private:
  static constexpr uint64_t kFirstAlias = 1ull << 40;

  using AliasKey = std::tuple<uint64_t, std::string, uint64_t>;
  struct AliasEntry {
    uint64_t target;
    uint64_t lookups;
    std::map<AliasKey, uint64_t>::iterator key;
  };

  std::vector<Node> nodes_;  // [0] is unused
  uint64_t disk_bytes_ = 0;

  mutable std::mutex mutex_;  // guards what follows
  std::map<AliasKey, uint64_t> alias_numbers_;
  std::unordered_map<uint64_t, AliasEntry> aliases_;
  uint64_t next_alias_ = kFirstAlias;
};

}  // namespace asof::fuse
