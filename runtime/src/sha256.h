// SHA-256 (FIPS 180-4).

#ifndef STUGAN_RUNTIME_SHA256_H_
#define STUGAN_RUNTIME_SHA256_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace stugan {

class Sha256 {
 public:
  Sha256();

  void add(const uint8_t* data, size_t size);

  // The digest of all that was added, in 64 hexadecimal digits. Nothing can be added afterwards.
  std::string finish();

 private:
  void (*compress_)(const uint8_t* blocks, size_t count, uint32_t* state);
  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t pending_[64];
  uint64_t size_ = 0;
};

}  // namespace stugan

#endif  // STUGAN_RUNTIME_SHA256_H_
