// What the session needs of the FUSE protocol beyond the system's <linux/fuse.h>, which may be as old as 7.38.
// Source: include/uapi/linux/fuse.h of Linux 6.14 (protocol 7.42). Names are our own, so that a newer header does no harm.
#pragma once

#include <linux/fuse.h>
#include <sys/ioctl.h>

#include <cstdint>

namespace asof::fuse {

inline constexpr uint32_t kMinor = 42;        // what we speak
inline constexpr uint32_t kOldestMinor = 28;  // MAX_PAGES; Linux 4.20

// 7.40: OPEN may hand the kernel a file that answers in our place.
inline constexpr uint32_t kOpenPassthrough = 1u << 7;

// INIT flags; those above 31 travel in flags2.
inline constexpr uint64_t kDirectIoAllowMmap = 1ull << 36;  // 7.39
inline constexpr uint64_t kPassthrough = 1ull << 37;        // 7.40
inline constexpr uint64_t kOverIoUring = 1ull << 41;        // 7.42

inline constexpr uint32_t kStatx = 52;  // opcode, 7.39

struct BackingMap {
  int32_t fd;
  uint32_t flags;
  uint64_t padding;
};

inline constexpr unsigned long kBackingOpen = _IOW(229, 1, BackingMap);
inline constexpr unsigned long kBackingClose = _IOW(229, 2, uint32_t);

// fuse_init_out of 7.42; the first 40 bytes are the older ones.
struct InitOut {
  uint32_t major;
  uint32_t minor;
  uint32_t max_readahead;
  uint32_t flags;
  uint16_t max_background;
  uint16_t congestion_threshold;
  uint32_t max_write;
  uint32_t time_gran;
  uint16_t max_pages;
  uint16_t map_alignment;
  uint32_t flags2;
  uint32_t max_stack_depth;
  uint16_t request_timeout;
  uint16_t unused[11];
};
static_assert(sizeof(InitOut) == 64 && sizeof(fuse_init_out) == 64);

// fuse_open_out of 7.40.
struct OpenOut {
  uint64_t fh;
  uint32_t open_flags;
  int32_t backing_id;
};
static_assert(sizeof(OpenOut) == sizeof(fuse_open_out));

// FUSE over io_uring, 7.42.
struct UringEntry {  // fuse_uring_ent_in_out
  uint64_t flags;
  uint64_t commit_id;
  uint32_t payload_size;
  uint32_t padding;
  uint64_t reserved;
};

struct UringHeader {    // fuse_uring_req_header
  uint8_t in_out[128];  // fuse_in_header, then fuse_out_header in its place
  uint8_t op_in[128];   // the operation's own first structure
  UringEntry entry;
};
static_assert(sizeof(UringHeader) == 288);

struct UringCommand {  // fuse_uring_cmd_req, in the command area of a 128-byte submission entry
  uint64_t flags;
  uint64_t commit_id;
  uint16_t queue;
  uint8_t padding[6];
};
static_assert(sizeof(UringCommand) == 24);

inline constexpr uint32_t kUringRegister = 1;
inline constexpr uint32_t kUringCommitAndFetch = 2;

}  // namespace asof::fuse
