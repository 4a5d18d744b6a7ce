// SHA-256 (FIPS 180-4) by the OpenSSL that Node carries and exports to addons: it uses the processor's own instructions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

struct evp_md_ctx_st;

namespace asof {

using Sha256 = std::array<uint8_t, 32>;

// One digest after the other, or one of many pieces. Not for two threads at once.
class Digester {
 public:
  Digester();
  ~Digester();
  Digester(const Digester&) = delete;
  Digester& operator=(const Digester&) = delete;

  // False where OpenSSL refuses, for lack of memory.
  bool Begin();
  bool Add(const void* bytes, size_t length);
  bool End(uint8_t* into);

 private:
  evp_md_ctx_st* const context_;
};

// Of one piece, with a context that the thread keeps.
bool Digest(const void* bytes, size_t length, uint8_t* into);

}  // namespace asof
