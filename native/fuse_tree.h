// The names of a mount, which may change while it is mounted (Update).
//
// A node keeps its number, name, place and disk for as long as anybody holds it; an open file holds its own, so that it
// can be read after its name has gone. Numbers are never given out twice, so the kernel can take no new node for an old
// one. The lock is held for moments only, and never by one who waits for JavaScript, whose thread updates.
//
// Besides, aliases come and go: an alias is an unlisted name ("@2026-11-21T10:15Z") that JavaScript resolved to a
// listed directory. The kernel allows a directory one place in its tree, so such a name gets a node number of its own,
// which lives until the kernel forgets it; below it, directories are aliases again, and files are the listed ones
// (a file may have many names).
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "disk.h"
#include "writable_disk.h"

namespace asof::fuse {

enum class Kind { kDirectory, kDisk, kText };

// What is said of a node when it is made.
struct NodeFacts {
  uint64_t id = 0;
  uint64_t parent = 0;
  std::string name;
  Kind kind = Kind::kDirectory;
  int64_t modified_ms = 0;
  bool partial = false;                    // of kDirectory: more names come when somebody looks (Host::List)
  std::shared_ptr<Disk> disk;              // of kDisk
  std::shared_ptr<WritableDisk> writable;  // the same, where it may be written
};

struct Node {
  explicit Node(NodeFacts facts);

  const uint64_t id;
  const uint64_t parent;
  const std::string name;
  const Kind kind;
  const std::shared_ptr<Disk> disk;
  const std::shared_ptr<WritableDisk> writable;

  // From any thread.
  std::atomic<int64_t> modified_ms;
  std::atomic<uint32_t> directories{0};  // among the children of a directory
  std::atomic<uint64_t> text_size{0};    // bytes, of what a text last said
  std::atomic<bool> partial;             // not all names of a directory are known yet
  std::atomic<bool> waited{false};       // the blocks of a disk were waited for, in vain
  std::atomic<bool> removed{false};
};

using NodePtr = std::shared_ptr<Node>;

// Something that the kernel may remember and must forget (fuse_notifier.h sends it).
struct Notice {
  enum class Kind {
    kName,        // whether there is a `name` of `parent`, and which: it shall ask anew
    kRemoved,     // that `number` was the `name` of `parent`
    kAttributes,  // of `number`
    kContent,     // of `number`: attributes and bytes, or names
  };
  Kind kind;
  uint64_t number = 0;
  uint64_t parent = 0;
  std::string name;
};

struct Changes {
  std::vector<uint64_t> remove;   // with everything below them
  std::vector<NodeFacts> nodes;   // new ones; and known ones, of which only `modified_ms` may differ
  std::vector<uint64_t> refresh;  // disks of which the kernel shall forget the bytes
};

class Tree {
 public:
  // False, with nothing changed, where it cannot be: an id that is not higher than all before it, a parent that is no
  // directory, a name twice, a known id with another place, kind or disk, a removal of the root or of an unknown id.
  // The first change makes the root, which is 1. `notices`: what to tell the kernel, in this order, afterwards.
  bool Update(Changes changes, std::vector<Notice>* notices);

  // The node behind a number of the kernel's (an alias stands for its target), also of one that was removed and is
  // still held; null where there is none.
  NodePtr Find(uint64_t number) const;

  // The child `name` of the directory `number`; null where there is none.
  NodePtr Child(uint64_t number, const std::string& name) const;

  // Children of the directory `number`, those with an id of at least `from` in ascending order, at most `limit`.
  std::vector<NodePtr> Children(uint64_t number, uint64_t from, size_t limit) const;

  bool IsAlias(uint64_t number) const { return number >= kFirstAlias; }

  // The node number for `target` under the name `name` of `parent`; each call is one look-up that the kernel counts.
  // 0 where the target has been removed.
  uint64_t Alias(uint64_t parent, std::string_view name, uint64_t target);

  // The kernel drops `count` look-ups of `number`. Only aliases are counted.
  void Forget(uint64_t number, uint64_t count);

  size_t size() const;          // nodes
  uint64_t disk_bytes() const;  // of all disks

 private:
  static constexpr uint64_t kFirstAlias = 1ull << 40;

  struct Slot {
    NodePtr node;
    std::vector<uint64_t> children;  // ascending
    std::unordered_map<std::string, uint64_t> by_name;
  };
  using AliasKey = std::tuple<uint64_t, std::string, uint64_t>;
  struct AliasEntry {
    uint64_t target;
    uint64_t lookups;
    std::map<AliasKey, uint64_t>::iterator key;
  };
  using AliasesOf = std::unordered_multimap<uint64_t, uint64_t>;  // by target

  // All with the lock.
  const Slot* SlotOf(uint64_t number) const;
  bool Acceptable(const Changes& changes, const std::vector<uint64_t>& gone) const;
  bool Matches(const NodeFacts& facts, const Node& node) const;
  void Collect(uint64_t id, std::vector<uint64_t>* gone) const;
  void Remove(uint64_t id, const AliasesOf& aliases, std::vector<Notice>* notices);
  void Add(NodeFacts facts);

  mutable std::shared_mutex mutex_;  // guards all that follows
  std::unordered_map<uint64_t, Slot> slots_;
  std::unordered_map<uint64_t, std::weak_ptr<Node>> removed_;  // that somebody may hold
  uint64_t last_id_ = 0;
  uint64_t disk_bytes_ = 0;
  std::map<AliasKey, uint64_t> alias_numbers_;
  std::unordered_map<uint64_t, AliasEntry> aliases_;
  uint64_t next_alias_ = kFirstAlias;
};

}  // namespace asof::fuse
