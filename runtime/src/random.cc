#include "random.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace stugan {
namespace {

constexpr int64_t kBlock = 64;  // Images drawn together.
constexpr int64_t kSamples = 4;  // randomness.Purpose.SAMPLES
constexpr double kPi = 3.14159265358979323846;

using Words = std::array<uint32_t, 4>;

// Philox 4x32 with ten rounds (Salmon et al. 2011).
Words philox(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

struct Seed {
  int64_t first, second;
};

// The stream of a seed, as TensorFlow's stateless operations make it.
class Stream {
 public:
  explicit Stream(Seed seed) {
    const auto a = static_cast<uint64_t>(seed.first), b = static_cast<uint64_t>(seed.second);
    const Words mixed = philox({static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32),
                                static_cast<uint32_t>(b), static_cast<uint32_t>(b >> 32)},
                               0x3ec8f720, 0x02461e29);
    key0_ = mixed[0];
    key1_ = mixed[1];
    counter_ = {0, 0, mixed[2], mixed[3]};
  }

  // Four words from number 4 * index of the stream on.
  Words at(uint64_t index) const {
    Words counter = counter_;
    counter[0] = static_cast<uint32_t>(index);
    counter[1] = static_cast<uint32_t>(index >> 32);
    return philox(counter, key0_, key1_);
  }

  uint32_t word(uint64_t index) const { return at(index / 4)[index % 4]; }

 private:
  uint32_t key0_, key1_;
  Words counter_;
};

Seed fold(Seed seed, int64_t value) {
  const Words words = Stream(seed).at(0);
  return {static_cast<int64_t>(uint64_t{words[1]} << 32 | words[0]), value};
}

// A multiple of 2^-24 in [0, 1).
float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

}  // namespace

double inverse_erf(double x) {
  // Giles (2010) for a start, then Newton's method.
  double w = -std::log((1 - x) * (1 + x)), y;
  if (w < 5) {
    w -= 2.5;
    y = 2.81022636e-08;
    for (const double c : {3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
                           -0.00125372503, -0.00417768164, 0.246640727, 1.50140941}) {
      y = y * w + c;
    }
  } else {
    w = std::sqrt(w) - 3;
    y = -0.000200214257;
    for (const double c : {0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
                           -0.0076224613, 0.00943887047, 1.00167406, 2.83297682}) {
      y = y * w + c;
    }
  }
  y *= x;
  for (int i = 0; i < 2; ++i) y -= (std::erf(y) - x) * std::sqrt(kPi) / 2 * std::exp(y * y);
  return y;
}

void draw_numbered(int64_t seed, int64_t num_images, int64_t latent_dim, int64_t num_classes,
                   const double* truncation, float* latents, int32_t* labels) {
  const Seed samples = fold(fold({seed, 0}, kSamples), 0);
  const double inside = truncation ? std::erf(*truncation / std::sqrt(2.0)) : 1;
  const int64_t size = kBlock * latent_dim;
  std::vector<float> numbers(latents ? 2 * size : 0);
  for (int64_t first = 0; first < num_images; first += kBlock) {
    const int64_t count = std::min(kBlock, num_images - first);
    const Seed block = fold(samples, first / kBlock);
    if (latents) {
      const Stream stream(fold(block, 0));
      for (int64_t i = 0; i < 2 * size; i += 4) {  // A block of 64: no remainder.
        const Words words = stream.at(i / 4);
        for (int k = 0; k < 4; ++k) numbers[i + k] = uniform(words[k]);
      }
      for (int64_t i = 0; i < count * latent_dim; ++i) {
        const float radius = numbers[i], angle = numbers[size + i];
        float& latent = latents[first * latent_dim + i];
        if (truncation) {
          const float centred = 2 * radius - 1 + 0x1p-24f;
          const float cut = centred * static_cast<float>(inside);
          latent = static_cast<float>(std::sqrt(2.0) * inverse_erf(cut));
        } else {
          const float turned = static_cast<float>(2 * kPi) * angle;
          latent = std::sqrt(-2 * std::log(1 - radius)) * std::cos(turned);
        }
      }
    }
    if (labels) {
      const Stream stream(fold(block, 1));
      for (int64_t i = 0; i < count; ++i) {
        labels[first + i] = static_cast<int32_t>(stream.word(i) % num_classes);
      }
    }
  }
}

}  // namespace stugan
