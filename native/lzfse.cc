// LZFSE, by the format that Apple published with its reference (lzfse/lzfse, src/lzfse_internal.h), written anew.
//
// A stream is blocks, each with a magic of its own, up to one of the end: plain bytes; LZVN, a byte-wise LZ; and LZFSE, in which
// literals, and triplets of a number of literals, a length and a distance of a match, are coded by finite state entropy (FSE). Its
// frequencies stand in the header, plain (version 1) or packed (version 2). Distances reach back over blocks.
//
// Nothing bears a checksum. Every length and distance is held against what there is before it is used: nothing is read or written
// outside of the two buffers, whatever the stream says.
#include "lzfse.h"

#include <string.h>

#include <bit>
#include <memory>

namespace asof {
namespace {

constexpr uint32_t Magic(char kind) {
  return 'b' | 'v' << 8 | 'x' << 16 | static_cast<uint32_t>(kind) << 24;
}

uint16_t Read16(const uint8_t* at) { return static_cast<uint16_t>(at[0] | at[1] << 8); }

uint32_t Read32(const uint8_t* at) {
  return at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24;
}

uint64_t Read64(const uint8_t* at) { return Read32(at) | static_cast<uint64_t>(Read32(at + 4)) << 32; }

struct Input {
  const uint8_t* at;
  size_t left;

  // The next `length` bytes; nullptr where there are fewer.
  const uint8_t* Take(size_t length) {
    if (length > left) return nullptr;
    const uint8_t* taken = at;
    at += length;
    left -= length;
    return taken;
  }
};

struct Output {
  uint8_t* begin;
  size_t length;
  size_t done;

  bool Copy(const uint8_t* from, size_t count) {
    if (count > length - done) return false;
    memcpy(begin + done, from, count);
    done += count;
    return true;
  }

  bool Repeat(size_t distance, size_t count) {
    if (distance == 0 || distance > done || count > length - done) return false;
    uint8_t* to = begin + done;
    const uint8_t* from = to - distance;
    // What overlaps repeats itself.
    if (distance >= count) memcpy(to, from, count);
    else
      for (size_t i = 0; i < count; i++) to[i] = from[i];
    done += count;
    return true;
  }
};

// --- FSE ---------------------------------------------------------------------------------------------------------------

// A stream of bits that is read from its end to its start.
class Bits {
 public:
  // `spare`: bits at the end that are not the stream's, 0 to 7. They are zeros.
  bool Init(const uint8_t* bytes, size_t length, int spare) {
    if (length == 0 ? spare != 0 : bytes[length - 1] >> (8 - spare) != 0) return false;
    bytes_ = bytes;
    length_ = length;
    left_ = length * 8 - static_cast<size_t>(spare);
    return true;
  }

  // At most 32 bits; false where there are fewer.
  bool Pull(unsigned count, uint32_t* value) {
    if (count > left_) return false;
    left_ -= count;
    const size_t at = left_ / 8;
    uint64_t word = 0;
    if (length_ - at >= 8) word = Read64(bytes_ + at);
    else
      for (size_t i = at; i < length_; i++) word |= static_cast<uint64_t>(bytes_[i]) << (8 * (i - at));
    *value = static_cast<uint32_t>((word >> (left_ % 8)) & ((uint64_t{1} << count) - 1));
    return true;
  }

 private:
  const uint8_t* bytes_ = nullptr;
  size_t length_ = 0;
  size_t left_ = 0;
};

struct State {
  // Bits that lead to the next state, added to `next`; bits of the value behind them, added to `value`.
  uint8_t state_bits;
  uint8_t value_bits;
  bool known;
  uint16_t next;
  uint32_t value;
};

template <unsigned kStates>
struct Table {
  State states[kStates];

  // A symbol has as many states as its frequency says; those that no symbol has are not to be met.
  template <typename Value>
  bool Init(const uint16_t* frequencies, unsigned symbols, Value value_of) {
    constexpr int kLog = std::bit_width(kStates) - 1;
    unsigned next = 0;
    for (unsigned symbol = 0; symbol < symbols; symbol++) {
      const unsigned count = frequencies[symbol];
      if (count > kStates - next) return false;
      for (unsigned x = count; x < 2 * count; x++) {
        State& state = states[next++];
        const int bits = kLog - (std::bit_width(x) - 1);
        state.state_bits = static_cast<uint8_t>(bits);
        state.next = static_cast<uint16_t>((x << bits) - kStates);
        state.known = true;
        value_of(symbol, &state);
      }
    }
    for (; next < kStates; next++) states[next] = {};
    return true;
  }

  bool Decode(Bits* bits, uint16_t* state, uint32_t* value) const {
    const State& here = states[*state];
    uint32_t pulled;
    if (!here.known || !bits->Pull(here.state_bits + here.value_bits, &pulled)) return false;
    *state = static_cast<uint16_t>(here.next + (pulled >> here.value_bits));
    *value = here.value + (pulled & ((1u << here.value_bits) - 1));
    return true;
  }
};

constexpr unsigned kLengths = 20;
constexpr unsigned kDistances = 64;
constexpr unsigned kLiterals = 256;
constexpr unsigned kFrequencies = 2 * kLengths + kDistances + kLiterals;
constexpr unsigned kLengthStates = 64;
constexpr unsigned kDistanceStates = 256;
constexpr unsigned kLiteralStates = 1024;
constexpr uint32_t kMostMatches = 10000;
constexpr uint32_t kMostLiterals = 4 * kMostMatches;

// The first sixteen lengths are their own symbol; the last four begin ranges.
struct Range {
  uint8_t bits;
  uint16_t base;
};
constexpr Range kLiteralRanges[4] = {{2, 16}, {3, 20}, {5, 28}, {8, 60}};
constexpr Range kMatchRanges[4] = {{3, 16}, {5, 24}, {8, 56}, {11, 312}};

struct Header {
  uint32_t raw;
  uint32_t literals;
  uint32_t matches;
  uint32_t literal_bytes;
  uint32_t match_bytes;
  int literal_spare;
  int match_spare;
  uint16_t literal_states[4];
  uint16_t states[3];
  // Of numbers of literals, lengths, distances, literals.
  uint16_t frequencies[kFrequencies];
};

struct Tables {
  Header header;
  Table<kLengthStates> counts;
  Table<kLengthStates> lengths;
  Table<kDistanceStates> distances;
  Table<kLiteralStates> literal;
  uint8_t literals[kMostLiterals];
};

// Frequencies of version 2: small ones take few bits.
bool ReadFrequencies(const uint8_t* at, size_t length, uint16_t* frequencies) {
  if (length == 0) {
    memset(frequencies, 0, kFrequencies * sizeof(*frequencies));
    return true;
  }
  size_t used = 0;
  for (unsigned i = 0; i < kFrequencies; i++) {
    uint32_t bits = 0;
    for (size_t byte = used / 8, n = 0; n < 3 && byte + n < length; n++) bits |= at[byte + n] << (8 * n);
    bits >>= used % 8;
    unsigned size, value;
    if ((bits & 1) == 0) {
      size = 2;
      value = bits >> 1 & 1;
    } else if ((bits & 2) == 0) {
      size = 3;
      value = 2 + (bits >> 2 & 1);
    } else if ((bits & 4) == 0) {
      size = 5;
      value = 4 + (bits >> 3 & 3);
    } else if ((bits & 8) == 0) {
      size = 8;
      value = 8 + (bits >> 4 & 15);
    } else {
      size = 14;
      value = 24 + (bits >> 4 & 1023);
    }
    used += size;
    if (used > length * 8) return false;
    frequencies[i] = static_cast<uint16_t>(value);
  }
  return length * 8 - used < 8;
}

bool ReadVersion1(Input* in, Header* header) {
  const uint8_t* at = in->Take(772);
  if (!at) return false;
  header->raw = Read32(at + 4);
  header->literals = Read32(at + 12);
  header->matches = Read32(at + 16);
  header->literal_bytes = Read32(at + 20);
  header->match_bytes = Read32(at + 24);
  const int literal = static_cast<int>(Read32(at + 28));
  const int match = static_cast<int>(Read32(at + 40));
  if (literal < -7 || literal > 0 || match < -7 || match > 0) return false;
  header->literal_spare = -literal;
  header->match_spare = -match;
  for (int i = 0; i < 4; i++) header->literal_states[i] = Read16(at + 32 + 2 * i);
  for (int i = 0; i < 3; i++) header->states[i] = Read16(at + 44 + 2 * i);
  for (unsigned i = 0; i < kFrequencies; i++) header->frequencies[i] = Read16(at + 50 + 2 * i);
  return true;
}

bool ReadVersion2(Input* in, Header* header) {
  constexpr size_t kFixed = 32;
  if (in->left < kFixed) return false;
  const uint32_t size = Read32(in->at + 24);
  if (size < kFixed) return false;
  const uint8_t* at = in->Take(size);
  if (!at) return false;
  const uint64_t first = Read64(at + 8);
  const uint64_t second = Read64(at + 16);
  const uint64_t third = Read64(at + 24);
  auto field = [](uint64_t word, int shift, int bits) {
    return static_cast<uint32_t>(word >> shift & ((uint64_t{1} << bits) - 1));
  };
  header->raw = Read32(at + 4);
  header->literals = field(first, 0, 20);
  header->literal_bytes = field(first, 20, 20);
  header->matches = field(first, 40, 20);
  header->literal_spare = 7 - static_cast<int>(field(first, 60, 3));
  for (int i = 0; i < 4; i++) header->literal_states[i] = static_cast<uint16_t>(field(second, 10 * i, 10));
  header->match_bytes = field(second, 40, 20);
  header->match_spare = 7 - static_cast<int>(field(second, 60, 3));
  for (int i = 0; i < 3; i++) header->states[i] = static_cast<uint16_t>(field(third, 32 + 10 * i, 10));
  return ReadFrequencies(at + kFixed, size - kFixed, header->frequencies);
}

bool InitTables(Tables* tables) {
  const Header& header = tables->header;
  const uint16_t* at = header.frequencies;
  auto ranged = [](const Range* ranges) {
    return [ranges](unsigned symbol, State* state) {
      const bool own = symbol < kLengths - 4;
      state->value_bits = own ? 0 : ranges[symbol - (kLengths - 4)].bits;
      state->value = own ? symbol : ranges[symbol - (kLengths - 4)].base;
    };
  };
  // Four distances for each number of extra bits.
  auto distance = [](unsigned symbol, State* state) {
    const unsigned bits = symbol / 4;
    state->value_bits = static_cast<uint8_t>(bits);
    state->value = 4 * ((1u << bits) - 1) + (symbol % 4 << bits);
  };
  auto plain = [](unsigned symbol, State* state) {
    state->value_bits = 0;
    state->value = symbol;
  };
  return tables->counts.Init(at, kLengths, ranged(kLiteralRanges)) &&
         tables->lengths.Init(at + kLengths, kLengths, ranged(kMatchRanges)) &&
         tables->distances.Init(at + 2 * kLengths, kDistances, distance) &&
         tables->literal.Init(at + 2 * kLengths + kDistances, kLiterals, plain);
}

bool DecodeLiterals(Tables* tables, const uint8_t* payload) {
  const Header& header = tables->header;
  uint16_t states[4];
  for (int i = 0; i < 4; i++) {
    states[i] = header.literal_states[i];
    if (states[i] >= kLiteralStates) return false;
  }
  Bits bits;
  if (!bits.Init(payload, header.literal_bytes, header.literal_spare)) return false;
  for (uint32_t i = 0; i < header.literals; i++) {
    uint32_t value;
    if (!tables->literal.Decode(&bits, &states[i % 4], &value)) return false;
    tables->literals[i] = static_cast<uint8_t>(value);
  }
  return true;
}

bool DecodeMatches(const Tables& tables, const uint8_t* payload, Output* out) {
  const Header& header = tables.header;
  uint16_t states[3];
  memcpy(states, header.states, sizeof(states));
  if (states[0] >= kLengthStates || states[1] >= kLengthStates || states[2] >= kDistanceStates) return false;
  Bits bits;
  if (!bits.Init(payload, header.match_bytes, header.match_spare)) return false;
  uint32_t literal = 0;
  uint32_t distance = 0;
  for (uint32_t i = 0; i < header.matches; i++) {
    uint32_t count, length, found;
    if (!tables.counts.Decode(&bits, &states[0], &count) || !tables.lengths.Decode(&bits, &states[1], &length) ||
        !tables.distances.Decode(&bits, &states[2], &found)) {
      return false;
    }
    // Zero stands for the one before.
    if (found != 0) distance = found;
    if (count > header.literals - literal || !out->Copy(tables.literals + literal, count)) return false;
    literal += count;
    if (length > 0 && !out->Repeat(distance, length)) return false;
  }
  return true;
}

bool UnpackFse(bool packed_header, Tables* tables, Input* in, Output* out) {
  Header* header = &tables->header;
  if (packed_header ? !ReadVersion2(in, header) : !ReadVersion1(in, header)) return false;
  if (header->literals > kMostLiterals || header->literals % 4 != 0 || header->matches > kMostMatches) return false;
  const uint8_t* literals = in->Take(header->literal_bytes);
  const uint8_t* matches = literals ? in->Take(header->match_bytes) : nullptr;
  if (!matches || header->raw > out->length - out->done) return false;
  Output block = {out->begin, out->done + header->raw, out->done};
  if (!InitTables(tables) || !DecodeLiterals(tables, literals) || !DecodeMatches(*tables, matches, &block)) {
    return false;
  }
  out->done = block.done;
  return block.done == block.length;
}

// --- LZVN --------------------------------------------------------------------------------------------------------------

// An instruction has up to three bytes, then the literals that it copies, then the match behind them.
bool UnpackLzvn(Input in, Output* out) {
  size_t distance = 0;
  for (;;) {
    const uint8_t* at = in.Take(1);
    if (!at) return false;
    const uint8_t op = *at;
    size_t literals = 0;
    size_t match = 0;
    if (op == 0x06) {
      // The end has eight bytes, seven of them zeros.
      return in.left == 7;
    } else if (op == 0x0e || op == 0x16) {
      continue;
    } else if (op >= 0xf0) {
      match = op & 15;
      if (match == 0) {
        if (!(at = in.Take(1))) return false;
        match = *at + 16u;
      }
    } else if (op >= 0xe0) {
      literals = op & 15;
      if (literals == 0) {
        if (!(at = in.Take(1))) return false;
        literals = *at + 16u;
      }
    } else if (op >> 4 == 0x7 || op >> 4 == 0xd) {
      return false;
    } else if (op >> 5 == 0x5) {
      if (!(at = in.Take(2))) return false;
      const unsigned rest = Read16(at);
      literals = op >> 3 & 3;
      match = ((op & 7u) << 2 | (rest & 3)) + 3;
      distance = rest >> 2;
    } else {
      literals = op >> 6;
      match = (op >> 3 & 7u) + 3;
      const unsigned low = op & 7;
      if (low == 6) {
        // The distance before, which only an instruction with literals takes.
        if (literals == 0) return false;
      } else if (low == 7) {
        if (!(at = in.Take(2))) return false;
        distance = Read16(at);
      } else {
        if (!(at = in.Take(1))) return false;
        distance = low << 8 | *at;
      }
    }
    if (literals > 0) {
      if (!(at = in.Take(literals)) || !out->Copy(at, literals)) return false;
    }
    if (match > 0 && !out->Repeat(distance, match)) return false;
  }
}

}  // namespace

bool UnpackLzfse(const uint8_t* bytes, size_t in_length, uint8_t* to, size_t out_length) {
  // Large for a stack; kept by each thread that needs it.
  thread_local std::unique_ptr<Tables> tables;
  Input in = {bytes, in_length};
  Output out = {to, out_length, 0};
  // Every block takes some input, so the loop ends.
  for (;;) {
    if (in.left < 4) return false;
    const uint32_t magic = Read32(in.at);
    if (magic == Magic('$')) return out.done == out.length;
    if (magic == Magic('1') || magic == Magic('2')) {
      if (!tables) tables = std::make_unique<Tables>();
      if (!UnpackFse(magic == Magic('2'), tables.get(), &in, &out)) return false;
    } else if (magic == Magic('-')) {
      const uint8_t* head = in.Take(8);
      const uint32_t length = head ? Read32(head + 4) : 0;
      const uint8_t* plain = head ? in.Take(length) : nullptr;
      if (!plain || !out.Copy(plain, length)) return false;
    } else if (magic == Magic('n')) {
      const uint8_t* head = in.Take(12);
      const uint32_t raw = head ? Read32(head + 4) : 0;
      const size_t length = head ? Read32(head + 8) : 0;
      const uint8_t* packed = head ? in.Take(length) : nullptr;
      if (!packed || raw > out.length - out.done) return false;
      Output block = {out.begin, out.done + raw, out.done};
      if (!UnpackLzvn({packed, length}, &block) || block.done != block.length) return false;
      out.done = block.done;
    } else {
      return false;
    }
  }
}

}  // namespace asof
