#include "cow_format.h"

#include <cstdio>

namespace asof::cow {

std::string UuidText(const Uuid& id) {
  std::string text;
  for (size_t i = 0; i < id.size(); i++) {
    char hex[3];
    snprintf(hex, sizeof hex, "%02x", id[i]);
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += hex;
  }
  return text;
}

bool ParseUuid(const std::string& text, Uuid* id) {
  if (text.size() != 36) return false;
  size_t at = 0;
  for (size_t i = 0; i < id->size(); i++) {
    if ((i == 4 || i == 6 || i == 8 || i == 10) && text[at++] != '-') return false;
    unsigned byte = 0;
    for (int digit = 0; digit < 2; digit++) {
      const char c = text[at++];
      const int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (value < 0) return false;
      byte = byte * 16 + static_cast<unsigned>(value);
    }
    (*id)[i] = static_cast<uint8_t>(byte);
  }
  return true;
}

}  // namespace asof::cow
