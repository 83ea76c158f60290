#include "sha256.h"

#include <algorithm>
#include <cstring>

#include "machine_code.h"

#ifdef STUGAN_X86_64
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace stugan {
namespace {

alignas(16) constexpr uint32_t kConstants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t rotated(uint32_t x, int n) { return x >> n | x << (32 - n); }

void compress_block(const uint8_t* block, uint32_t* state) {
  uint32_t w[64];
  for (int i = 0; i < 16; ++i) {
    w[i] = uint32_t{block[4 * i]} << 24 | uint32_t{block[4 * i + 1]} << 16 |
           uint32_t{block[4 * i + 2]} << 8 | block[4 * i + 3];
  }
  for (int i = 16; i < 64; ++i) {
    const uint32_t s0 = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
    const uint32_t s1 = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  uint32_t s[8];
  std::copy(state, state + 8, s);
  // The state turns by one in each round. After eight it is back in its place.
  const auto round = [&](int i, int turn) {
    const auto at = [turn](int k) { return (k - turn) & 7; };
    const uint32_t a = s[at(0)], b = s[at(1)], c = s[at(2)];
    const uint32_t e = s[at(4)], f = s[at(5)], g = s[at(6)];
    const uint32_t first = s[at(7)] + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) +
                           ((e & f) ^ (~e & g)) + kConstants[i] + w[i];
    const uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) +
                            ((a & b) ^ (a & c) ^ (b & c));
    s[at(3)] += first;
    s[at(7)] = first + second;
  };
  for (int i = 0; i < 64; i += 8) {
    round(i, 0);
    round(i + 1, 1);
    round(i + 2, 2);
    round(i + 3, 3);
    round(i + 4, 4);
    round(i + 5, 5);
    round(i + 6, 6);
    round(i + 7, 7);
  }
  for (int i = 0; i < 8; ++i) state[i] += s[i];
}

// Adds blocks of 64 bytes to the state.
void compress(const uint8_t* blocks, size_t count, uint32_t* state) {
  for (size_t i = 0; i < count; ++i) compress_block(blocks + 64 * i, state);
}

#ifdef STUGAN_X86_64

bool has_instructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return machine_code(false).tiles != &kBaseline && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
         (b >> 29 & 1);
}

// The same by instructions of the processor: two rounds each. They hold the state as (a, b, e, f)
// and (c, d, g, h), the first one highest.
__attribute__((target("sha,sse4.1"))) void compress_by_instructions(const uint8_t* blocks,
                                                                    size_t count,
                                                                    uint32_t* state) {
  const auto load = [](const void* data) __attribute__((target("sha,sse4.1"))) {
    return _mm_loadu_si128(static_cast<const __m128i*>(data));
  };
  const __m128i swapped = _mm_set_epi64x(0x0C0D0E0F08090A0B, 0x0405060700010203);
  const __m128i cdab = _mm_shuffle_epi32(load(state), 0xB1);
  const __m128i efgh = _mm_shuffle_epi32(load(state + 4), 0x1B);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);
  for (; count > 0; --count, blocks += 64) {
    const __m128i old_abef = abef, old_cdgh = cdgh;
    __m128i w[4];
    for (int i = 0; i < 16; ++i) {
      __m128i& next = w[i % 4];
      if (i < 4) {
        next = _mm_shuffle_epi8(load(blocks + 16 * i), swapped);
      } else {
        const __m128i last = w[(i + 3) % 4];
        next = _mm_add_epi32(_mm_sha256msg1_epu32(next, w[(i + 1) % 4]),
                             _mm_alignr_epi8(last, w[(i + 2) % 4], 4));
        next = _mm_sha256msg2_epu32(next, last);
      }
      const __m128i sums = _mm_add_epi32(next, load(kConstants + 4 * i));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sums);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sums, 0x0E));
    }
    abef = _mm_add_epi32(abef, old_abef);
    cdgh = _mm_add_epi32(cdgh, old_cdgh);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  auto* const result = reinterpret_cast<__m128i*>(state);
  _mm_storeu_si128(result, _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(result + 1, _mm_alignr_epi8(dchg, feba, 8));
}

#endif  // STUGAN_X86_64

}  // namespace

Sha256::Sha256() : compress_(compress) {
#ifdef STUGAN_X86_64
  if (has_instructions()) compress_ = compress_by_instructions;
#endif
}

void Sha256::add(const uint8_t* data, size_t size) {
  while (size > 0) {
    const size_t filled = size_ % 64;
    const bool is_whole = filled == 0 && size >= 64;
    const size_t part = is_whole ? size / 64 * 64 : std::min(size, 64 - filled);
    if (is_whole) {
      compress_(data, part / 64, state_);
    } else {
      std::memcpy(pending_ + filled, data, part);
      if (filled + part == 64) compress_(pending_, 1, state_);
    }
    data += part;
    size -= part;
    size_ += part;
  }
}

std::string Sha256::finish() {
  const uint64_t bits = size_ * 8;
  const uint8_t one = 0x80, zero = 0;
  add(&one, 1);
  while (size_ % 64 != 56) add(&zero, 1);
  uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
  add(length, 8);
  std::string digest;
  for (const uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) {
      digest.push_back("0123456789abcdef"[word >> shift & 15]);
    }
  }
  return digest;
}

}  // namespace stugan
