// Where the blocks of a file lie on its device: FS_IOC_FIEMAP (Documentation/filesystems/fiemap.rst of the kernel), or FIBMAP
// where the file system has no more than that.
#include "file_places.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <vector>

#include "js_value.h"

namespace asof {
namespace {

constexpr uint32_t kBatch = 256;

// No place on the device, or one that is not the file's alone to name: inline data lies in the inode.
constexpr uint32_t kPlaceless = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_DATA_INLINE;

// Appends start and length of each extent, at most `limit`; 0 or an errno. `flags`: what of the file is asked for.
int Fiemap(int fd, uint32_t flags, size_t limit, std::vector<double>* places) {
  std::vector<uint8_t> memory(sizeof(struct fiemap) + kBatch * sizeof(struct fiemap_extent));
  auto* map = reinterpret_cast<struct fiemap*>(memory.data());
  uint64_t at = 0;
  while (places->size() < limit * 2) {
    memset(memory.data(), 0, memory.size());
    map->fm_start = at;
    map->fm_length = FIEMAP_MAX_OFFSET - at;
    map->fm_flags = flags;
    map->fm_extent_count = kBatch;
    if (ioctl(fd, FS_IOC_FIEMAP, map) != 0) return errno;
    if (map->fm_mapped_extents == 0) return 0;
    for (uint32_t i = 0; i < std::min(map->fm_mapped_extents, kBatch); i++) {
      const struct fiemap_extent& one = map->fm_extents[i];
      if ((one.fe_flags & kPlaceless) == 0 && one.fe_physical <= kMaxOffset && one.fe_length <= kMaxOffset) {
        places->push_back(static_cast<double>(one.fe_physical));
        places->push_back(static_cast<double>(one.fe_length));
      }
      if ((one.fe_flags & FIEMAP_EXTENT_LAST) != 0) return 0;
      if (one.fe_length == 0 || one.fe_logical + one.fe_length <= at) return 0;  // no way forward
      at = one.fe_logical + one.fe_length;
    }
  }
  return 0;
}

// One call a block: for file systems that are small.
int Fibmap(int fd, size_t limit, std::vector<double>* places) {
  struct stat file;
  int block = 0;
  if (fstat(fd, &file) != 0 || ioctl(fd, FIGETBSZ, &block) != 0) return errno;
  if (!S_ISREG(file.st_mode) || block <= 0) return EOPNOTSUPP;
  const int64_t count = std::min<int64_t>((file.st_size + block - 1) / block, INT32_MAX);
  for (int64_t i = 0; i < count && places->size() < limit * 2; i++) {
    int number = static_cast<int>(i);
    if (ioctl(fd, FIBMAP, &number) != 0) return errno;
    if (number == 0) continue;
    const double at = static_cast<double>(static_cast<uint32_t>(number)) * block;
    const size_t size = places->size();
    if (size > 0 && (*places)[size - 2] + (*places)[size - 1] == at) {
      (*places)[size - 1] += block;
    } else {
      places->push_back(at);
      places->push_back(block);
    }
  }
  return 0;
}

Napi::Value FilePlaces(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  uint64_t fd, limit;
  if (!ToInteger(info[0], INT32_MAX, &fd) || !ToInteger(info[1], UINT32_MAX, &limit)) {
    return Throw(env, "EINVAL", "filePlaces takes a descriptor and a limit");
  }
  std::vector<double> places;
  const int file = static_cast<int>(fd);
  int error = Fiemap(file, 0, limit, &places);
  if (error == EOPNOTSUPP || error == ENOTTY) error = Fibmap(file, limit, &places);
  // Attributes that have a block of their own; many file systems do not tell of them.
  else if (error == 0) Fiemap(file, FIEMAP_FLAG_XATTR, limit, &places);
  if (error != 0) return ThrowErrno(env, error, "cannot tell where the file lies");
  Napi::Float64Array out = Napi::Float64Array::New(env, places.size());
  std::copy(places.begin(), places.end(), out.Data());
  return out;
}

}  // namespace

void InitFilePlaces(Napi::Env env, Napi::Object exports) {
  exports.Set("filePlaces", Napi::Function::New(env, FilePlaces, "filePlaces"));
}

}  // namespace asof
