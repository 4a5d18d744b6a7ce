// Extended attributes of a file, a folder or a symbolic link itself (xattr(7)): Node's fs has none of it. ACLs are among them.
#include "file_attributes.h"

#include <errno.h>
#include <sys/xattr.h>

#include <string>
#include <vector>

#include "js_value.h"

namespace asof {
namespace {

// What xattr(7) allows of a list of names and of a value.
constexpr size_t kMost = 65536;

Napi::Value FileAttributes(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsBuffer()) return Throw(env, "EINVAL", "fileAttributes takes a path, as a buffer");
  const auto buffer = info[0].As<Napi::Buffer<char>>();
  const std::string path(buffer.Data(), buffer.Length());
  Napi::Array found = Napi::Array::New(env);
  std::vector<char> names(kMost), value(kMost);
  const ssize_t length = llistxattr(path.c_str(), names.data(), names.size());
  if (length < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) return found;
  if (length < 0) return ThrowErrno(env, errno, "cannot list the attributes of a file");
  uint32_t count = 0;
  for (const char* name = names.data(); name < names.data() + length;) {
    const std::string one(name);
    name += one.size() + 1;
    const ssize_t size = lgetxattr(path.c_str(), one.c_str(), value.data(), value.size());
    if (size < 0) return ThrowErrno(env, errno, "cannot read an attribute of a file");
    found.Set(count++, Napi::Buffer<char>::Copy(env, one.data(), one.size()));
    found.Set(count++, Napi::Buffer<char>::Copy(env, value.data(), static_cast<size_t>(size)));
  }
  return found;
}

}  // namespace

void InitFileAttributes(Napi::Env env, Napi::Object exports) {
  exports.Set("fileAttributes", Napi::Function::New(env, FileAttributes, "fileAttributes"));
}

}  // namespace asof
