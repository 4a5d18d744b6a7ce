#include "fuse_tree.h"

#include <utility>

namespace asof::fuse {

bool Tree::Build(std::vector<Node> nodes) {
  nodes_.clear();
  nodes_.emplace_back();
  for (Node& node : nodes) {
    const bool root = nodes_.size() == 1;
    if (node.id != nodes_.size()) return false;
    if (root ? node.kind != Kind::kDirectory : node.parent == 0 || node.parent >= node.id) return false;
    if ((node.kind == Kind::kDisk) != (node.disk != nullptr)) return false;
    if (!root) {
      Node& parent = nodes_[node.parent];
      if (parent.kind != Kind::kDirectory) return false;
      if (!parent.by_name.emplace(node.name, node.id).second) return false;
      parent.children.push_back(node.id);
      if (node.kind == Kind::kDirectory) ++parent.directories;
    }
    if (node.disk) disk_bytes_ += node.disk->Size();
    nodes_.push_back(std::move(node));
  }
  return nodes_.size() > 1;
}

const Node* Tree::Find(uint64_t number) const {
  if (number >= kFirstAlias) {
    std::lock_guard lock(mutex_);
    const auto found = aliases_.find(number);
    return found == aliases_.end() ? nullptr : &nodes_[found->second.target];
  }
  return number > 0 && number < nodes_.size() ? &nodes_[number] : nullptr;
}

uint64_t Tree::Alias(uint64_t parent, std::string_view name, uint64_t target) {
  std::lock_guard lock(mutex_);
  const auto [key, fresh] = alias_numbers_.try_emplace(AliasKey(parent, name, target), next_alias_);
  if (fresh) {
    aliases_.emplace(next_alias_, AliasEntry{target, 0, key});
    ++next_alias_;
  }
  ++aliases_.at(key->second).lookups;
  return key->second;
}

void Tree::Forget(uint64_t number, uint64_t count) {
  if (number < kFirstAlias) return;
  std::lock_guard lock(mutex_);
  const auto found = aliases_.find(number);
  if (found == aliases_.end()) return;
  if (found->second.lookups > count) {
    found->second.lookups -= count;
    return;
  }
  alias_numbers_.erase(found->second.key);
  aliases_.erase(found);
}

}  // namespace asof::fuse
