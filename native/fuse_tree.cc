#include "fuse_tree.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <unordered_set>
#include <utility>

namespace asof::fuse {

Node::Node(NodeFacts facts)
    : id(facts.id),
      parent(facts.parent),
      name(std::move(facts.name)),
      kind(facts.kind),
      disk(std::move(facts.disk)),
      writable(std::move(facts.writable)),
      modified_ms(facts.modified_ms),
      partial(facts.partial) {}

const Tree::Slot* Tree::SlotOf(uint64_t number) const {
  if (number >= kFirstAlias) {
    const auto alias = aliases_.find(number);
    if (alias == aliases_.end()) return nullptr;
    number = alias->second.target;
  }
  const auto found = slots_.find(number);
  return found == slots_.end() ? nullptr : &found->second;
}

NodePtr Tree::Find(uint64_t number) const {
  std::shared_lock lock(mutex_);
  if (const Slot* slot = SlotOf(number)) return slot->node;
  const auto found = removed_.find(number);
  return found == removed_.end() ? nullptr : found->second.lock();
}

NodePtr Tree::Child(uint64_t number, const std::string& name) const {
  std::shared_lock lock(mutex_);
  const Slot* slot = SlotOf(number);
  if (!slot) return nullptr;
  const auto found = slot->by_name.find(name);
  return found == slot->by_name.end() ? nullptr : slots_.at(found->second).node;
}

std::vector<NodePtr> Tree::Children(uint64_t number, uint64_t from, size_t limit) const {
  std::vector<NodePtr> found;
  std::shared_lock lock(mutex_);
  const Slot* slot = SlotOf(number);
  if (!slot) return found;
  const std::vector<uint64_t>& ids = slot->children;
  for (auto id = std::lower_bound(ids.begin(), ids.end(), from); id != ids.end() && found.size() < limit; ++id) {
    found.push_back(slots_.at(*id).node);
  }
  return found;
}

size_t Tree::size() const {
  std::shared_lock lock(mutex_);
  return slots_.size();
}

uint64_t Tree::disk_bytes() const {
  std::shared_lock lock(mutex_);
  return disk_bytes_;
}

bool Tree::Matches(const NodeFacts& facts, const Node& node) const {
  return facts.parent == node.parent && facts.name == node.name && facts.kind == node.kind &&
         facts.disk == node.disk && facts.writable == node.writable;
}

bool Tree::Acceptable(const Changes& changes, const std::vector<uint64_t>& gone) const {
  const std::unordered_set<uint64_t> left(gone.begin(), gone.end());
  std::unordered_map<uint64_t, Kind> fresh;
  std::set<std::pair<uint64_t, std::string>> names;
  uint64_t last = last_id_;
  for (const NodeFacts& facts : changes.nodes) {
    if (facts.id <= last_id_) {
      const auto known = slots_.find(facts.id);
      if (known == slots_.end() || left.contains(facts.id) || !Matches(facts, *known->second.node)) return false;
      continue;
    }
    if (facts.id <= last || facts.id >= kFirstAlias) return false;
    if ((facts.kind == Kind::kDisk) != (facts.disk != nullptr)) return false;
    if (facts.writable && !facts.disk) return false;
    if (last == 0) {
      if (facts.id != 1 || facts.parent != 1 || facts.kind != Kind::kDirectory) return false;
    } else {
      const auto parent = slots_.find(facts.parent);
      const bool listed = parent != slots_.end() && !left.contains(facts.parent);
      if (listed ? parent->second.node->kind != Kind::kDirectory
                 : !fresh.contains(facts.parent) || fresh[facts.parent] != Kind::kDirectory) {
        return false;
      }
      if (!names.emplace(facts.parent, facts.name).second) return false;
      if (listed) {
        const auto taken = parent->second.by_name.find(facts.name);
        if (taken != parent->second.by_name.end() && !left.contains(taken->second)) return false;
      }
    }
    fresh.emplace(facts.id, facts.kind);
    last = facts.id;
  }
  return last > 0;
}

// Children before their parents.
void Tree::Collect(uint64_t id, std::vector<uint64_t>* gone) const {
  for (const uint64_t child : slots_.at(id).children) Collect(child, gone);
  gone->push_back(id);
}

bool Tree::Update(Changes changes, std::vector<Notice>* notices) {
  std::unique_lock lock(mutex_);
  std::vector<uint64_t> gone;
  for (const uint64_t id : changes.remove) {
    if (id == 1 || !slots_.contains(id)) return false;
    Collect(id, &gone);
  }
  const size_t count = gone.size();
  if (std::unordered_set<uint64_t>(gone.begin(), gone.end()).size() != count) return false;
  if (!Acceptable(changes, gone)) return false;

  std::erase_if(removed_, [](const auto& entry) { return entry.second.expired(); });
  AliasesOf aliases;
  for (const auto& [number, alias] : aliases_) aliases.emplace(alias.target, number);

  std::set<uint64_t> touched;  // directories of which the names changed
  for (const uint64_t id : gone) {
    touched.insert(slots_.at(id).node->parent);
    Remove(id, aliases, notices);
  }
  const uint64_t before = last_id_;
  for (NodeFacts& facts : changes.nodes) {
    if (facts.id <= before) {
      Node& node = *slots_.at(facts.id).node;
      if (node.modified_ms.exchange(facts.modified_ms) != facts.modified_ms) {
        notices->push_back({Notice::Kind::kAttributes, facts.id, 0, {}});
      }
      continue;
    }
    if (facts.parent <= before && before > 0) {
      touched.insert(facts.parent);
      // The kernel may know that there is no such name.
      notices->push_back({Notice::Kind::kName, 0, facts.parent, facts.name});
      const auto [first, last] = aliases.equal_range(facts.parent);
      for (auto at = first; at != last; ++at) notices->push_back({Notice::Kind::kName, 0, at->second, facts.name});
    }
    Add(std::move(facts));
  }

  // What a name of a directory resolves to may be another now.
  for (const auto& [key, number] : alias_numbers_) {
    const auto& [parent, name, target] = key;
    const Slot* slot = SlotOf(parent);
    if (!slot || !touched.contains(slot->node->id) || slot->by_name.contains(name)) continue;
    notices->push_back({Notice::Kind::kName, 0, parent, name});
  }
  // After the names: telling of a name waits for whoever lists its directory now, and could keep the old list.
  for (const uint64_t id : touched) {
    if (!slots_.contains(id)) continue;
    notices->push_back({Notice::Kind::kContent, id, 0, {}});
    const auto [first, last] = aliases.equal_range(id);
    for (auto at = first; at != last; ++at) notices->push_back({Notice::Kind::kContent, at->second, 0, {}});
  }
  for (const uint64_t id : changes.refresh) notices->push_back({Notice::Kind::kContent, id, 0, {}});
  return true;
}

void Tree::Remove(uint64_t id, const AliasesOf& aliases, std::vector<Notice>* notices) {
  const auto slot = slots_.find(id);
  const NodePtr node = std::move(slot->second.node);
  slots_.erase(slot);
  node->removed = true;
  removed_.emplace(id, node);
  Slot& parent = slots_.at(node->parent);
  std::erase(parent.children, id);
  parent.by_name.erase(node->name);
  if (node->kind == Kind::kDirectory) --parent.node->directories;
  if (node->disk) disk_bytes_ -= node->disk->Size();

  notices->push_back({Notice::Kind::kRemoved, id, node->parent, node->name});
  if (node->kind == Kind::kDirectory) {
    const auto [first, last] = aliases.equal_range(id);
    for (auto at = first; at != last; ++at) {
      const auto& [place, name, target] = aliases_.at(at->second).key->first;
      notices->push_back({Notice::Kind::kRemoved, at->second, place, name});
    }
  } else {
    const auto [first, last] = aliases.equal_range(node->parent);
    for (auto at = first; at != last; ++at) {
      notices->push_back({Notice::Kind::kRemoved, id, at->second, node->name});
    }
  }
}

void Tree::Add(NodeFacts facts) {
  const uint64_t id = facts.id;
  last_id_ = id;
  const auto node = std::make_shared<Node>(std::move(facts));
  if (id != 1) {
    Slot& parent = slots_.at(node->parent);
    parent.children.push_back(id);
    parent.by_name.emplace(node->name, id);
    if (node->kind == Kind::kDirectory) ++parent.node->directories;
  }
  if (node->disk) disk_bytes_ += node->disk->Size();
  slots_.emplace(id, Slot{node, {}, {}});
}

uint64_t Tree::Alias(uint64_t parent, std::string_view name, uint64_t target) {
  std::unique_lock lock(mutex_);
  if (!slots_.contains(target)) return 0;
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
  std::unique_lock lock(mutex_);
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
