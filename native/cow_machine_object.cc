#include "cow_machine_object.h"

#include <string>
#include <vector>

#include "cow_model.h"
#include "cow_task.h"

namespace asof {
namespace {

using namespace cow;  // NOLINT: this file is the border of that namespace

constexpr napi_type_tag kMachineTag = {0x2d95b8e60f1c47a3, 0xb704e3c19a5d8f26};

class MachineObject : public Napi::ObjectWrap<MachineObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "CowMachine",
                       {
                           InstanceMethod<&MachineObject::Cut>("cut"),
                           InstanceMethod<&MachineObject::SetFaults>("setFaults"),
                           InstanceMethod<&MachineObject::GetBytes>("bytes"),
                           InstanceMethod<&MachineObject::SetBytes>("setBytes"),
                       });
  }

  explicit MachineObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    napi_type_tag_object(info.Env(), info.This(), &kMachineTag);
    if (info[0].IsExternal()) {
      machine_ = *info[0].As<Napi::External<std::shared_ptr<Machine>>>().Data();
      return;
    }
    std::vector<uint64_t> sizes;
    if (info[0].IsArray()) {
      const auto list = info[0].As<Napi::Array>();
      for (uint32_t i = 0; i < list.Length(); i++) {
        uint64_t size;
        if (!ToInteger(list.Get(i), 1 << 30, &size)) break;
        sizes.push_back(size);
      }
    }
    if (sizes.empty()) {
      Throw(info.Env(), "EINVAL", "CowMachine takes the sizes of its files, each at most 1 GiB");
      return;
    }
    machine_ = std::make_shared<Machine>(sizes);
  }

  std::shared_ptr<Machine> machine() const { return machine_; }

 private:
  Napi::Value Cut(const Napi::CallbackInfo& info) {
    uint64_t seed;
    if (!ToInteger(info[0], kMaxOffset, &seed)) return Throw(info.Env(), "EINVAL", "cut takes a seed");
    std::shared_ptr<Machine> next = machine_->Cut(seed);
    return info.This().As<Napi::Object>().Get("constructor").As<Napi::Function>().New(
        {Napi::External<std::shared_ptr<Machine>>::New(info.Env(), &next)});
  }

  bool File(const Napi::CallbackInfo& info, size_t* file) {
    uint64_t index;
    if (!ToInteger(info[0], machine_->Files() - 1, &index)) {
      Throw(info.Env(), "EINVAL", "there is no such file");
      return false;
    }
    *file = index;
    return true;
  }

  void SetFaults(const Napi::CallbackInfo& info) {
    size_t file;
    if (!File(info, &file)) return;
    const auto options = info[1].As<Napi::Object>();
    const auto number = [&](const char* name) {
      const Napi::Value value = options.Get(name);
      return value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : 0;
    };
    const auto flag = [&](const char* name) { return options.Get(name).ToBoolean().Value(); };
    Faults faults;
    faults.read_ms = static_cast<unsigned>(number("readMs"));
    faults.write_ms = static_cast<unsigned>(number("writeMs"));
    faults.sync_ms = static_cast<unsigned>(number("syncMs"));
    faults.read_error = static_cast<int>(number("readError"));
    faults.write_error = static_cast<int>(number("writeError"));
    faults.sync_error = static_cast<int>(number("syncError"));
    faults.after = static_cast<uint64_t>(number("after"));
    faults.capacity = static_cast<uint64_t>(number("capacity"));
    faults.hang = flag("hang");
    faults.drop_sync = flag("dropSync");
    faults.no_punch = flag("noPunch");
    const std::string unsynced = options.Get("unsynced").ToString();
    faults.unsynced = unsynced == "copies" ? Written::kCopy : unsynced == "records" ? Written::kRecord : Written::kOther;
    machine_->SetFaults(file, faults);
  }

  Napi::Value GetBytes(const Napi::CallbackInfo& info) {
    size_t file;
    if (!File(info, &file)) return info.Env().Undefined();
    const std::vector<uint8_t> bytes = machine_->Bytes(file);
    return Napi::Buffer<uint8_t>::Copy(info.Env(), bytes.data(), bytes.size());
  }

  void SetBytes(const Napi::CallbackInfo& info) {
    size_t file;
    uint8_t* data;
    size_t length;
    if (!File(info, &file)) return;
    if (!SecondBytes(info, "setBytes takes a file's number and a Uint8Array", &data, &length)) return;
    machine_->SetBytes(file, std::vector<uint8_t>(data, data + length));
  }

  std::shared_ptr<Machine> machine_;
};

}  // namespace

Napi::Function DefineCowMachine(Napi::Env env) { return MachineObject::Define(env); }

std::unique_ptr<cow::File> OpenModelFile(const Napi::Value& value) {
  if (!value.IsObject()) return nullptr;
  const Napi::Value machine = value.As<Napi::Object>().Get("machine");
  uint64_t index;
  if (!Tagged(machine, kMachineTag) || !ToInteger(value.As<Napi::Object>().Get("file"), 64, &index)) return nullptr;
  const std::shared_ptr<Machine> model = MachineObject::Unwrap(machine.As<Napi::Object>())->machine();
  return index < model->Files() ? model->Open(index) : nullptr;
}

}  // namespace asof
