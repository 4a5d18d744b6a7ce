// A disk, as the rest of the addon sees one: bytes at an offset, or an errno.
//
// The engine (engine.h) implements it over extents; the FUSE session (fuse_*.h), fuse-native's reads and JavaScript's
// read it. All members may be called from any thread at once, except the one that runs JavaScript: a call may wait for
// JavaScript to say where sectors live.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace asof {

// What one open file remembers between its reads, so that read-ahead can tell a sequential reader. The engine alone
// interprets it; one of these belongs to each open file handle, and reads of one handle may overlap.
class Reader {
 public:
  virtual ~Reader() = default;
};

class Disk {
 public:
  virtual ~Disk() = default;

  virtual uint64_t Size() const = 0;        // bytes
  virtual uint32_t SectorSize() const = 0;  // bytes

  // Fills `into` with the `length` bytes from `offset`; the range must lie within the size. 0, or an errno: EIO where
  // any sector of the range cannot be vouched for (it then stands in the defect list), ESHUTDOWN after Close. On an
  // error `into` holds nothing of use. `reader` may be null.
  virtual int Read(uint64_t offset, size_t length, uint8_t* into, Reader* reader) = 0;

  // lseek(2) with SEEK_DATA or SEEK_HOLE: 0 and *result, or ENXIO where there is no more data, or another errno. What
  // cannot be vouched for counts as data.
  virtual int Seek(uint64_t offset, int whence, uint64_t* result) = 0;

  // Bytes that are not zero runs, for st_blocks. Waits up to `wait_ms` milliseconds for them to be counted; false,
  // with *bytes an upper bound, where they are unknown still.
  virtual bool Allocated(uint64_t* bytes, unsigned wait_ms) = 0;

  // Whether a read or write of the range may wait for more than memory and a disk's own time: for another request of the
  // mount that shows this disk, or for others to get their share of a flush. A caller that others depend on then has it
  // done by a thread that none does.
  virtual bool MayWait(uint64_t, size_t, bool /*write*/) { return false; }

  virtual std::unique_ptr<Reader> OpenReader() = 0;

  // The descriptor of the one plain file that this disk is from the first byte to the last, for passthrough; -1 where
  // it is anything else, or where damage is to be shown otherwise than the file would. Owned by the disk.
  virtual int WholeFile() = 0;

  // Reads under way end, later ones fail. Called once, before the files are closed.
  virtual void Close() = 0;
};

}  // namespace asof
