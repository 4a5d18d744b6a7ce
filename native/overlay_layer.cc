#include "overlay_layer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "cow_checksum.h"

namespace asof::overlay {
namespace {

constexpr uint64_t kMagic = 0x3159414c464f5341;  // "ASOFLAY1"
constexpr uint32_t kPageMagic = 0x504d4c41;       // "ALMP"
constexpr uint64_t kAlign = 1 << 20;
constexpr size_t kCommitPages = 1024;  // that are copied at once

struct Header {
  uint64_t magic = kMagic;
  uint32_t version = 1;
  uint32_t block = kBlock;
  uint64_t size = 0;
  uint64_t sequence = 0;
  cow::Uuid id{};
  Identity identity{};
  uint64_t used = 0;
  uint32_t label_length = 0;
  char label[kMaxLabel] = {};
  uint8_t zeros[kBlock - 92 - kMaxLabel - 4] = {};
  uint32_t crc = 0;
  uint32_t Sum() const { return cow::Crc32c(this, kBlock - 4); }
};
static_assert(sizeof(Header) == kBlock && offsetof(Header, label) == 92 && offsetof(Header, crc) == kBlock - 4);

struct PageHeader {
  uint32_t magic = kPageMagic;
  uint32_t crc = 0;
  uint64_t number = 0;
  uint64_t sequence = 0;
  cow::Uuid id{};
  uint64_t first = 0;
  uint8_t zeros[16] = {};
};
static_assert(sizeof(PageHeader) == 64 && sizeof(PageHeader) + kPageWords * 8 == kBlock);

uint32_t PageSum(const uint8_t* page) { return cow::Crc32c(page + 8, kBlock - 8); }

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

bool Empty(const uint8_t* bytes) { return bytes[0] == 0 && memcmp(bytes, bytes + 1, kBlock - 1) == 0; }

}  // namespace

Layer::Layer(std::shared_ptr<cow::File> file, const LayerOptions& options)
    : file_(std::move(file)),
      options_(options),
      map_(RoundUp(options.size, kBlock) / kBlock),
      data_(options.kept ? RoundUp((2 + 2 * map_.pages()) * kBlock, kAlign) : 0),
      bytes_(data_ + RoundUp(options.size, kBlock)) {}

int Layer::Open(std::shared_ptr<cow::File> file, const LayerOptions& options, std::unique_ptr<Layer>* layer, std::string* why) {
  std::unique_ptr<Layer> made(new Layer(std::move(file), options));
  if (!made->map_.valid()) return ENOMEM;
  if (options.kept) {
    if (int err = options.create ? made->Make(why) : made->Load(why)) return err;
  }
  *layer = std::move(made);
  return 0;
}

int Layer::Make(std::string* why) {
  if (int err = file_->Truncate(bytes_)) {
    *why = "the file system there has no files of " + std::to_string(bytes_) + " bytes: " + strerror(err);
    return err;
  }
  sequence_ = counted_ = 1;
  for (int copy = 0; copy < 2; copy++) {
    if (int err = WriteHeader(copy)) return err;
  }
  return file_->Sync();
}

int Layer::Load(std::string* why) {
  uint64_t bytes = 0;
  if (int err = file_->Size(&bytes)) return err;
  if (int err = LoadHeader(why)) return err;
  if (bytes < bytes_) {
    *why = "it is damaged: it has been cut to " + std::to_string(bytes) + " of " + std::to_string(bytes_) + " bytes";
    return EUCLEAN;
  }
  return LoadPages(why);
}

int Layer::LoadHeader(std::string* why) {
  Header copies[2];
  bool valid[2] = {false, false};
  bool known = false;
  for (int copy = 0; copy < 2; copy++) {
    size_t got = 0;
    if (int err = file_->ReadSome(static_cast<uint64_t>(copy) * kBlock, kBlock, reinterpret_cast<uint8_t*>(&copies[copy]), &got)) return err;
    known = known || (got >= 8 && copies[copy].magic == kMagic);
    valid[copy] = got == kBlock && copies[copy].magic == kMagic && copies[copy].crc == copies[copy].Sum() &&
                  copies[copy].label_length <= kMaxLabel;
  }
  if (!valid[0] && !valid[1]) {
    *why = known ? "it is damaged: neither copy of its header is whole" : "it is no layer of an overlay";
    return known ? EUCLEAN : EINVAL;
  }
  const Header& header = copies[valid[0] && (!valid[1] || copies[0].sequence >= copies[1].sequence) ? 0 : 1];
  if (header.version != 1 || header.block != kBlock) {
    *why = "it is of version " + std::to_string(header.version) + ", which this asof does not know";
    return EINVAL;
  }
  if (header.identity != options_.identity || header.size != options_.size) {
    *why = "it belongs to another point: " + std::string(header.label, header.label_length);
    return ESTALE;
  }
  options_.id = header.id;
  options_.label.assign(header.label, header.label_length);
  sequence_ = header.sequence;
  used_ = header.used;
  if (valid[0] && valid[1] && copies[0].sequence == copies[1].sequence) return 0;
  // The worse copy first: the better one stays what it is.
  const int worse = &header == &copies[0] ? 1 : 0;
  if (int err = WriteHeader(worse)) return err;
  return file_->Sync();
}

int Layer::LoadPages(std::string* why) {
  const uint64_t count = map_.pages();
  const uint64_t counted = sequence_;
  uint64_t found = 0, uncounted = 0;
  std::vector<uint64_t> lost;
  uint8_t copies[2][kBlock];
  for (uint64_t number = 0; number < count; number++) {
    // Where both copies are holes nothing has been written. A hole of copy 0 alone is for LoadPage to judge.
    uint64_t next[2];
    for (int copy = 0; copy < 2; copy++) {
      const uint64_t at = PageAt(number, copy);
      const int err = file_->Seek(at, SEEK_DATA, &next[copy]);
      next[copy] = err == ENXIO ? count : err != 0 ? number : (next[copy] - PageAt(0, copy)) / kBlock;
    }
    number = std::min(next[0], next[1]);
    if (number >= count) break;
    for (int copy = 0; copy < 2; copy++) {
      if (int err = file_->Read(PageAt(number, copy), kBlock, copies[copy])) return err;
    }
    if (int err = LoadPage(number, copies, &lost)) return err;
    const Map::Page* page = map_.Find(number);
    if (page) (page->first <= counted ? found : uncounted)++;
  }
  if (found != used_) {
    *why = "it is damaged: " + std::to_string(used_) + " pages of its map were written, and " + std::to_string(found) + " are whole";
    return EUCLEAN;
  }
  // They were being written for the first time, and nobody was told that they had been.
  for (const uint64_t number : lost) {
    static const uint8_t zeros[kBlock] = {};
    for (int copy = 0; copy < 2; copy++) {
      if (int err = file_->Write(PageAt(number, copy), kBlock, zeros)) return err;
    }
  }
  if (int err = file_->Sync()) return err;
  if (uncounted > 0) sequence_++;
  counted_ = sequence_;
  if (uncounted == 0) return 0;
  used_ += uncounted;
  for (int copy = 0; copy < 2; copy++) {
    if (int err = WriteHeader(copy)) return err;
    if (int err = file_->Sync()) return err;
  }
  return 0;
}

int Layer::LoadPage(uint64_t number, const uint8_t copies[2][kBlock], std::vector<uint64_t>* lost) {
  PageHeader heads[2];
  bool valid[2];
  for (int copy = 0; copy < 2; copy++) {
    PageHeader& head = heads[copy];
    memcpy(&head, copies[copy], sizeof head);
    valid[copy] = head.magic == kPageMagic && head.number == number && head.id == options_.id && head.crc == PageSum(copies[copy]);
  }
  if (!valid[0] && !valid[1]) {
    if (!Empty(copies[0]) || !Empty(copies[1])) lost->push_back(number);
    return 0;
  }
  const int better = valid[0] && (!valid[1] || heads[0].sequence >= heads[1].sequence) ? 0 : 1;
  Map::Page* page = map_.Make(number);
  if (!page) return ENOMEM;
  map_.Load(page, number, copies[better] + sizeof(PageHeader));
  page->first = heads[better].first;
  sequence_ = std::max(sequence_, heads[better].sequence);
  if (valid[0] && valid[1] && heads[0].sequence == heads[1].sequence) return 0;
  // The better one stays what it is until the other is as good: LoadPages syncs.
  return file_->Write(PageAt(number, 1 - better), kBlock, copies[better]);
}

int Layer::Read(uint64_t offset, size_t length, uint8_t* into) {
  if (broken_) return EIO;
  size_t got = 0;
  if (int err = file_->ReadSome(data_ + offset, length, into, &got)) return err;
  if (got < length && options_.kept) return EIO;
  // One that is thrown away grows as it is written: what lies beyond its end has been discarded.
  memset(into + got, 0, length - got);
  return 0;
}

int Layer::Write(const iovec* parts, int count, uint64_t offset) {
  return broken_ ? EIO : file_->Write(parts, count, data_ + offset);
}

int Layer::Zero(uint64_t offset, uint64_t length) {
  if (broken_) return EIO;
  int err = file_->Zero(data_ + offset, length, true);
  if (err != EOPNOTSUPP) return err;
  const std::vector<uint8_t> zeros(std::min<uint64_t>(length, 1 << 20));
  for (uint64_t done = 0; done < length;) {
    const uint64_t n = std::min<uint64_t>(length - done, zeros.size());
    if ((err = file_->Write(data_ + offset + done, n, zeros.data()))) return err;
    done += n;
  }
  return 0;
}

int Layer::Seek(uint64_t offset, int whence, uint64_t* result) {
  const int err = file_->Seek(data_ + offset, whence, result);
  if (err == 0) *result -= data_;
  return err;
}

uint64_t Layer::Held() {
  uint64_t held = 0, free = 0;
  return file_->Space(&held, &free) == 0 ? held : 0;
}

// The kernel forgets what it could not write once it has told so: no later sync would say it again.
int Layer::Sync() {
  if (broken_) return EIO;
  const int err = file_->Sync();
  if (err) broken_ = true;
  return err;
}

int Layer::Flush() {
  std::unique_lock lock(mu_);
  const uint64_t mine = ++asked_;
  while (flushing_) {
    flushed_.wait(lock);
    if (done_ >= mine) return 0;
  }
  flushing_ = true;
  const uint64_t covered = asked_;
  lock.unlock();
  const int err = Commit();
  lock.lock();
  flushing_ = false;
  if (err == 0) done_ = covered;
  flushed_.notify_all();
  return err;
}

int Layer::Commit() {
  if (!options_.kept) return Sync();
  const std::vector<uint64_t> dirty = map_.TakeDirty();
  int err = dirty.empty() ? Sync() : 0;
  for (size_t at = 0; err == 0 && at < dirty.size(); at += kCommitPages) {
    const auto from = dirty.begin() + static_cast<ptrdiff_t>(at);
    err = CommitPages({from, from + static_cast<ptrdiff_t>(std::min(kCommitPages, dirty.size() - at))});
  }
  if (err) {
    for (const uint64_t number : dirty) map_.MakeDirty(number);
  }
  return err;
}

int Layer::CommitPages(const std::vector<uint64_t>& dirty) {
  // The bits as they are before the sync: a later one may name a block that the sync does not cover.
  const uint64_t sequence = ++sequence_;
  uint64_t fresh = 0;
  std::vector<uint8_t> bytes(dirty.size() * kBlock);
  for (size_t i = 0; i < dirty.size(); i++) {
    Map::Page* page = map_.Find(dirty[i]);
    if (page->first == 0) page->first = sequence;
    if (page->first > counted_) fresh++;
    BuildPage(dirty[i], bytes.data() + i * kBlock);
  }
  int err = Sync();
  if (!err) err = WritePages(dirty, bytes, 0);
  if (!err) err = Sync();
  if (!err) err = WritePages(dirty, bytes, 1);
  if (err) return err;
  if (fresh == 0) return Sync();
  const uint64_t before = used_;
  used_ += fresh;
  if ((err = WriteHeader(0))) {
    used_ = before;
    return err;
  }
  if ((err = Sync())) return err;
  counted_ = sequence;
  return WriteHeader(1);
}

void Layer::BuildPage(uint64_t number, uint8_t* bytes) {
  const Map::Page* page = map_.Find(number);
  PageHeader head;
  head.number = number;
  head.sequence = sequence_;
  head.id = options_.id;
  head.first = page->first;
  for (size_t i = 0; i < kPageWords; i++) {
    const uint64_t word = page->words[i].load();
    memcpy(bytes + sizeof head + i * 8, &word, 8);
  }
  memcpy(bytes, &head, sizeof head);
  head.crc = PageSum(bytes);
  memcpy(bytes, &head, sizeof head);
}

int Layer::WritePages(const std::vector<uint64_t>& numbers, const std::vector<uint8_t>& bytes, int copy) {
  for (size_t i = 0; i < numbers.size(); i++) {
    if (int err = file_->Write(PageAt(numbers[i], copy), kBlock, bytes.data() + i * kBlock)) return err;
  }
  return 0;
}

int Layer::WriteHeader(int copy) {
  Header header;
  header.size = options_.size;
  header.sequence = sequence_;
  header.id = options_.id;
  header.identity = options_.identity;
  header.used = used_;
  header.label_length = static_cast<uint32_t>(std::min(options_.label.size(), kMaxLabel));
  memcpy(header.label, options_.label.data(), header.label_length);
  header.crc = header.Sum();
  return file_->Write(static_cast<uint64_t>(copy) * kBlock, kBlock, reinterpret_cast<const uint8_t*>(&header));
}

int Layer::Close() {
  int err = options_.kept ? Flush() : 0;
  if (!err && options_.kept) err = Sync();
  file_->LetGo();
  return err;
}

}  // namespace asof::overlay
