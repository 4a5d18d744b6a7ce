// A disk that can be written: the live device of a volume. What disk.h says of reads and threads holds here too.
#pragma once

#include "disk.h"

namespace asof {

class WritableDisk : public Disk {
 public:
  // Each returns 0 or an errno. The range must lie within the size. EROFS is never one of them; ESHUTDOWN is, after
  // Close. An error of Write leaves the range with old, new or mixed sectors, as on any disk.
  virtual int Write(uint64_t offset, size_t length, const uint8_t* from) = 0;

  // Everything acknowledged so far is on stable storage when it returns 0. FUA is Write, then Flush.
  virtual int Flush() = 0;

  // Afterwards the range reads as zeros. With `punch` its space is given back where the origin can.
  virtual int WriteZeroes(uint64_t offset, uint64_t length, bool punch) = 0;
};

}  // namespace asof
