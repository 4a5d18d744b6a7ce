// Where a sparse file holds data: lseek(2) with SEEK_DATA and SEEK_HOLE, which Node's fs does not have.
#include "file_extents.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "js_value.h"

namespace asof {
namespace {

// Appends start and length of each run of data in [offset, end); 0 or an errno.
int Walk(int fd, int64_t offset, int64_t end, size_t limit, std::vector<double>* runs) {
  while (offset < end && runs->size() < limit * 2) {
    int64_t data = lseek(fd, offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return 0;  // nothing but a hole up to the end of the file
    // A file system or device that knows no holes says EINVAL or ENOTSUP; then all is data.
    if (data < 0 && errno != EINVAL && errno != EOPNOTSUPP) return errno;
    int64_t hole = data < 0 ? end : lseek(fd, data, SEEK_HOLE);
    if (data < 0) data = offset;
    // The file may shrink between the two calls; what then lies behind its end is no data.
    if (hole < 0 && errno == ENXIO) return 0;
    if (hole < 0) return errno;
    if (data >= end) return 0;
    hole = std::min(hole, end);
    runs->push_back(static_cast<double>(data));
    runs->push_back(static_cast<double>(hole - data));
    offset = hole;
  }
  return 0;
}

Napi::Value FileExtents(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  uint64_t fd, offset, length, limit;
  if (!ToInteger(info[0], INT32_MAX, &fd) || !ToInteger(info[1], kMaxOffset, &offset) ||
      !ToInteger(info[2], kMaxOffset - offset, &length) || !ToInteger(info[3], UINT32_MAX, &limit)) {
    return Throw(env, "EINVAL", "fileExtents takes a descriptor, an offset, a length and a limit");
  }
  std::vector<double> runs;
  int error = Walk(static_cast<int>(fd), static_cast<int64_t>(offset), static_cast<int64_t>(offset + length),
                   limit, &runs);
  if (error != 0) return ThrowErrno(env, error, "cannot tell the data of the file from its holes");
  Napi::Float64Array out = Napi::Float64Array::New(env, runs.size());
  std::copy(runs.begin(), runs.end(), out.Data());
  return out;
}

}  // namespace

void InitFileExtents(Napi::Env env, Napi::Object exports) {
  exports.Set("fileExtents", Napi::Function::New(env, FileExtents, "fileExtents"));
}

}  // namespace asof
