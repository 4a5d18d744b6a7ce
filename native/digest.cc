#include "digest.h"

#include <openssl/evp.h>

namespace asof {

Digester::Digester() : context_(EVP_MD_CTX_new()) {}
Digester::~Digester() { EVP_MD_CTX_free(context_); }

bool Digester::Begin() { return context_ != nullptr && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1; }
bool Digester::Add(const void* bytes, size_t length) { return EVP_DigestUpdate(context_, bytes, length) == 1; }
bool Digester::End(uint8_t* into) { return EVP_DigestFinal_ex(context_, into, nullptr) == 1; }

bool Digest(const void* bytes, size_t length, uint8_t* into) {
  thread_local Digester own;
  return own.Begin() && own.Add(bytes, length) && own.End(into);
}

}  // namespace asof
