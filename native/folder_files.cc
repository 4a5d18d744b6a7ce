// The files of a folder and what tells one from another, in one call: thousands of fs.statSync cost more than a listing may.
#include "folder_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "js_value.h"

namespace asof {
namespace {

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};

// As Node's Stats have it, to the same last bit.
double Milliseconds(const struct timespec& time) {
  return static_cast<double>(time.tv_sec) * 1000 + static_cast<double>(time.tv_nsec) / 1e6;
}

bool EndsAsWanted(std::string_view name, const std::vector<std::string>& endings) {
  return std::any_of(endings.begin(), endings.end(), [name](const std::string& end) { return name.ends_with(end); });
}

// 0 or an errno. A file that cannot be asked has NaN four times.
int List(const std::string& path, const std::vector<std::string>& endings, std::string* names, std::vector<double>* states) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  std::unique_ptr<DIR, CloseFolder> folder(fdopendir(fd));
  if (!folder) {
    const int error = errno;
    close(fd);
    return error;
  }
  for (;;) {
    errno = 0;
    const struct dirent* entry = readdir(folder.get());
    if (!entry) return errno;
    if (!EndsAsWanted(entry->d_name, endings)) continue;
    // No name has a slash.
    if (!states->empty()) names->push_back('/');
    names->append(entry->d_name);
    struct stat stat;
    if (fstatat(fd, entry->d_name, &stat, 0) == 0) {
      states->insert(states->end(), {static_cast<double>(stat.st_ino), static_cast<double>(stat.st_size),
                                     Milliseconds(stat.st_mtim), Milliseconds(stat.st_ctim)});
    } else {
      states->insert(states->end(), 4, std::nan(""));
    }
  }
}

Napi::Value FolderFiles(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsString() || !info[1].IsArray()) return Throw(env, "EINVAL", "folderFiles takes a path and endings");
  std::vector<std::string> endings;
  auto list = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    if (!list.Get(i).IsString()) return Throw(env, "EINVAL", "an ending is a string");
    endings.push_back(list.Get(i).As<Napi::String>().Utf8Value());
  }
  std::string names;
  std::vector<double> states;
  const int error = List(info[0].As<Napi::String>().Utf8Value(), endings, &names, &states);
  if (error != 0) return ThrowErrno(env, error, "cannot list the folder");
  Napi::Float64Array numbers = Napi::Float64Array::New(env, states.size());
  std::copy(states.begin(), states.end(), numbers.Data());
  Napi::Object out = Napi::Object::New(env);
  out.Set("names", Napi::String::New(env, names));
  out.Set("states", numbers);
  return out;
}

}  // namespace

void InitFolderFiles(Napi::Env env, Napi::Object exports) {
  exports.Set("folderFiles", Napi::Function::New(env, FolderFiles, "folderFiles"));
}

}  // namespace asof
