// The sparse file: safetensors with a manifest, see docs/export.md.
//
// Opening it checks everything that is in it, by its size before memory is taken: checksum, sizes,
// codes of positions, values. What is left to the graph is whether the weights fit the layers.

#ifndef STUGAN_RUNTIME_FILE_H_
#define STUGAN_RUNTIME_FILE_H_

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "status.h"

namespace stugan {

// Numbers of half precision; to the nearest one, or infinite.
float half_to_float(uint16_t half);
uint16_t float_to_half(float number);

// A weight as it stands in the file. The bytes belong to the file.
struct Weight {
  std::vector<int64_t> shape;
  bool is_half = false;
  bool is_coded = false;  // Non-zeros and the code of their positions; else all values.
  int64_t count = 0;      // Of the values.
  const uint8_t* values = nullptr;
  const uint8_t* high = nullptr;  // Rice's code of the gaps, see stugan_tf/serving/positions.py.
  const uint8_t* low = nullptr;
  size_t high_size = 0, low_size = 0;
  int low_bits = 0;

  int64_t size() const {
    int64_t product = 1;
    for (const int64_t length : shape) product *= length;
    return product;
  }

  float value(int64_t i) const {
    if (is_half) {
      uint16_t half;
      std::memcpy(&half, values + 2 * i, 2);
      return half_to_float(half);
    }
    float result;
    std::memcpy(&result, values + 4 * i, 4);
    return result;
  }

  // Calls visit(position in the flat weight, value) for each value that is not zero, ascending.
  // The code was checked when the file was opened.
  template <typename Visitor>
  void visit(Visitor visitor) const {
    if (!is_coded) {
      for (int64_t i = 0; i < count; ++i) {
        if (const float x = value(i); x != 0) visitor(i, x);
      }
      return;
    }
    Decoder decoder(*this);
    for (int64_t i = 0; i < count; ++i) {
      decoder.next();
      if (const float x = value(i); x != 0) visitor(decoder.position, x);
    }
  }

  int64_t num_nonzero() const {
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) total += value(i) != 0;
    return total;
  }

  // All values, zeros included. For weights of which few values are zero.
  std::vector<float> dense() const;

  // Whether the positions are the code of a mask of this size.
  bool check_code() const;

 private:
  struct Decoder {
    explicit Decoder(const Weight& weight) : weight(weight) {}

    // Goes to the next one. Returns false if there is none.
    bool next() {
      int64_t zeros = 0;
      for (;;) {
        const int64_t byte = high_bit / 8;
        if (byte >= static_cast<int64_t>(weight.high_size)) return false;
        const int left = 64 - static_cast<int>(high_bit % 8);
        const uint64_t code = bits(weight.high, weight.high_size, byte) << (64 - left);
        const int count = code ? __builtin_clzll(code) : left;
        zeros += count;
        high_bit += count;
        if (code) break;
      }
      ++high_bit;
      const uint64_t code = bits(weight.low, weight.low_size, low_bit / 8) << low_bit % 8;
      const uint32_t gap = reversed(static_cast<uint32_t>(code >> 32)) & ~(~0u << weight.low_bits);
      low_bit += weight.low_bits;
      position += (zeros << weight.low_bits) + gap + 1;
      return true;
    }

    // The 64 bits from a byte on, the first one as the highest; zeros after the end.
    static uint64_t bits(const uint8_t* data, size_t size, size_t byte) {
      uint64_t result = 0;
      if (size >= 8 && byte <= size - 8) {
        for (int i = 0; i < 8; ++i) result = result << 8 | data[byte + i];
        return result;
      }
      for (size_t i = 0; i < 8; ++i) result = result << 8 | (byte + i < size ? data[byte + i] : 0);
      return result;
    }

    // The lowest bit becomes the highest.
    static uint32_t reversed(uint32_t x) {
      x = (x >> 1 & 0x55555555) | (x & 0x55555555) << 1;
      x = (x >> 2 & 0x33333333) | (x & 0x33333333) << 2;
      x = (x >> 4 & 0x0F0F0F0F) | (x & 0x0F0F0F0F) << 4;
      x = (x >> 8 & 0x00FF00FF) | (x & 0x00FF00FF) << 8;
      return x >> 16 | x << 16;
    }

    const Weight& weight;
    int64_t position = -1, high_bit = 0, low_bit = 0;
  };
};

// Sizes and classes of a generator.
struct Interface {
  int64_t latent_dim, height, width, channels, num_classes;
  bool conditional;
  std::vector<std::string> class_names;  // Empty if there are none.
};

class SparseFile {
 public:
  static constexpr size_t kMaxFile = size_t{1} << 31;
  static constexpr size_t kMaxHeader = size_t{1} << 23;
  static constexpr int64_t kMaxWeights = int64_t{1} << 28;
  static constexpr int64_t kMaxExpansion = 1 << 10;  // The most weights for each byte.

  // Reads a file from memory, which must outlive this.
  Status open(const uint8_t* data, size_t size);

  const Interface& interface() const { return interface_; }
  const std::map<std::string, Weight>& weights() const { return weights_; }
  Value model() const { return manifest_.root()["model"]; }

  // The greatest magnitude of any layer's output in the images that were drawn when the file was
  // written, if it was noted.
  bool has_greatest_output() const { return greatest_output_ >= 0; }
  double greatest_output() const { return greatest_output_; }

 private:
  struct Tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    const uint8_t* data;
    size_t size;
    int64_t count() const;
  };

  Status check_digest(const uint8_t* data, size_t size, size_t header_end,
                      const std::string& digest) const;
  Status read_tensors(Value header, const uint8_t* data, size_t size);
  Status read_weights(size_t file_size);
  Status read_interface();
  Status read_ranges();
  bool take(const std::string& name, Tensor* tensor);
  bool take_values(const std::string& name, Weight* weight);
  bool take_bits(const std::string& name, const uint8_t** data, size_t* size);

  std::string text_;  // The manifest.
  Json header_, manifest_;
  Interface interface_;
  double greatest_output_ = -1;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, Weight> weights_;
};

}  // namespace stugan

#endif  // STUGAN_RUNTIME_FILE_H_
