// Writes sparse files for the fuzzers: with a checksum that is right, whatever they hold.

#ifndef STUGAN_RUNTIME_FUZZ_WRITING_H_
#define STUGAN_RUNTIME_FUZZ_WRITING_H_

#include <cstdint>
#include <string>

#include "sha256.h"

namespace stugan {

// A text as JSON writes it, without the quotes.
inline std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      constexpr char kDigits[] = "0123456789abcdef";
      result += {'\\', 'u', '0', '0', kDigits[c >> 4], kDigits[c & 15]};
    } else {
      result += c;
    }
  }
  return result;
}

// A sparse file.
//   manifest: its JSON.
//   tensors: the entries of the header, such as "a":{...},"b":{...}.
//   body: the bytes of the tensors.
inline std::string sparse_file(const std::string& manifest, const std::string& tensors,
                               const std::string& body) {
  const std::string before = R"({"__metadata__":{"format":"stugan_tf.sparse","version":"1","sha256":")";
  std::string header = before + std::string(64, '0') + R"(","manifest":")" + escaped(manifest) +
                       "\"}" + (tensors.empty() ? "" : ",") + tensors + "}";
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> 8 * i & 255);
  file += header + body;
  Sha256 hash;
  hash.add(reinterpret_cast<const uint8_t*>(file.data()), file.size());
  return file.replace(8 + before.size(), 64, hash.finish());
}

}  // namespace stugan

#endif  // STUGAN_RUNTIME_FUZZ_WRITING_H_
