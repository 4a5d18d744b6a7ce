// What reads of a disk could not vouch for: intervals of whole sectors, in order, joined where the reason is the
// same. Bounded: a disk that is damaged all over is told of in few lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace asof {

struct Defect {
  uint64_t start;
  uint64_t end;
  std::string why;
};

class Defects {
 public:
  // Of what is known already, the first reason stays.
  void Add(uint64_t start, uint64_t end, const std::string& why);

  std::vector<Defect> List() const;

 private:
  struct Entry {
    uint64_t end;
    std::string why;
  };

  void AddNew(uint64_t start, uint64_t end, const std::string& why);

  mutable std::mutex mutex_;
  std::map<uint64_t, Entry> entries_;
  // The span of what came when the list was full.
  uint64_t more_start_ = UINT64_MAX;
  uint64_t more_end_ = 0;
};

}  // namespace asof
