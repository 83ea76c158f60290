// Opens hostile files and draws from those that are read: no input may crash, or touch memory that
// is not its own.
//
// The mutator knows the format. It changes the manifest, the header, the tensors or all bytes, and
// seals the file with the right checksum; without that nearly all inputs would end there.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "network.h"
#include "stugan.h"
#include "writing.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace stugan {
namespace {

// What one input may take: a model can be right and still be large.
constexpr int64_t kMostNumbers = 1 << 20;
constexpr int64_t kMostProducts = 1 << 24;

// What the mutator changes.
struct Parts {
  std::string manifest, tensors, body;

  // Whether a file has these parts.
  bool read(std::string_view file) {
    if (file.size() < 8) return false;
    uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint8_t>(file[i]);
    if (length > file.size() - 8) return false;
    Json header;
    if (!header.parse(file.substr(8, length)).ok()) return false;
    if (!header.root()["__metadata__"]["manifest"].string(&manifest)) return false;
    const auto entries = header.root().elements();
    for (size_t i = 0; i + 1 < entries.size(); i += 2) {
      if (entries[i].is("__metadata__")) continue;
      if (!tensors.empty()) tensors += ",";
      tensors += "\"" + std::string(entries[i].raw()) + "\":" + raw(entries[i + 1]);
    }
    body = file.substr(8 + length);
    return true;
  }

  // The JSON of a value.
  static std::string raw(const Value& value) {
    const std::string text(value.raw());
    return value.is_string() ? "\"" + text + "\"" : text;
  }
};

using Random = std::minstd_rand;

size_t below(Random* random, size_t limit) { return (*random)() % std::max<size_t>(1, limit); }

void collect(const Value& value, std::vector<Value>* all) {
  all->push_back(value);
  for (const Value& each : value.elements()) collect(each, all);
}

// Puts something else in the place of a value of a JSON text.
void change_value(Random* random, std::string* text) {
  static const char* const kOthers[] = {
      "0", "1", "2", "3", "4", "7", "8", "9", "16", "64", "65", "-1", "255", "256", "4096", "65536",
      "16777216", "16777217", "33554432", "268435456", "2147483647", "2147483648", "4294967296",
      "4611686018427387904", "9223372036854775807", "-9223372036854775808", "18446744073709551616",
      "1e300", "1e-300", "0.5", "NaN", "-Infinity", "true", "false", "null", "\"\"", "[]", "{}",
      "[null]", "[1, 1]", "[2, 2]", "[3, 3]", "[64, 64]", "[0, 1]", "\"same\"", "\"valid\"",
      "\"nearest\"", "\"bilinear\"", "\"relu\"", "\"softmax\"", "\"gelu\"", "\"Conv2D\"",
      "\"Conv2DTranspose\"", "\"Dense\"", "\"Add\"", "\"Multiply\"", "\"Concatenate\"",
      "\"Attention\"", "\"Flatten\"", "\"ReLU\"", "\"Activation\"", "\"UpSampling2D\"",
      "\"AveragePooling2D\"", "\"MaxPooling2D\"", "\"BatchNormalization\"", "\"Embedding\"",
      "\"Cropping1D\"", "\"int32\"", "\"float32\""};
  Json json;
  if (!json.parse(*text).ok()) return;
  std::vector<Value> all;
  collect(json.root(), &all);
  const Value value = all[below(random, all.size())];
  const bool is_text = value.is_string();
  const size_t begin = value.raw().data() - text->data() - is_text;
  const size_t length = value.raw().size() + 2 * is_text;
  std::string other = kOthers[below(random, std::size(kOthers))];
  int64_t number;
  switch (below(random, 5)) {
    case 0: other = Parts::raw(all[below(random, all.size())]); break;    // Another value.
    case 1: other = Parts::raw(value) + "," + Parts::raw(value); break;   // Twice.
    case 2:
      if (value.integer(-1000, 1000, &number)) {
        other = std::to_string(number + static_cast<int64_t>(below(random, 5)) - 2);
      }
      break;
    default: break;
  }
  *text = text->substr(0, begin) + other + text->substr(begin + length);
}

// Bytes changed as libFuzzer changes them; as many of them as before if `keeps`.
void change_bytes(std::string* bytes, size_t most, bool keeps) {
  std::vector<uint8_t> changed(std::max(bytes->size(), most) + 1);
  std::copy(bytes->begin(), bytes->end(), changed.begin());
  const size_t size =
      LLVMFuzzerMutate(changed.data(), bytes->size(), keeps ? bytes->size() : changed.size());
  bytes->resize(keeps ? bytes->size() : size);
  std::copy_n(changed.begin(), std::min(size, bytes->size()), bytes->begin());
}

void draw(const Interface& about, Network* network) {
  constexpr int64_t kImages = 2;
  const int64_t size = about.height * about.width * about.channels;
  if (network->weight_bytes() > 4 * kMostNumbers || network->workspace_bytes() > 8 * kMostNumbers ||
      network->num_products() > kMostProducts || size > kMostNumbers ||
      about.latent_dim > kMostNumbers) {
    return;
  }
  std::vector<float> latents(kImages * about.latent_dim), images(kImages * size);
  for (size_t i = 0; i < latents.size(); ++i) latents[i] = std::sin(static_cast<float>(i));
  const int32_t labels[kImages] = {0, static_cast<int32_t>(about.num_classes - 1)};
  if (!network->generate(kImages, latents.data(), about.conditional ? labels : nullptr,
                         images.data()).ok()) {
    std::abort();  // No file that was opened may fail here.
  }
  std::vector<uint8_t> pixels(images.size());
  stugan_to_pixels(images.data(), images.size(), pixels.data());
}

}  // namespace
}  // namespace stugan

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace stugan;
  // A copy of its own size: reading past its end is seen.
  const std::unique_ptr<uint8_t[]> copy(new uint8_t[size]);
  std::copy(data, data + size, copy.get());
  stugan_generator* generator = nullptr;
  char message[STUGAN_MESSAGE_SIZE];
  const stugan_status status = stugan_open_memory(copy.get(), size, 1, &generator, message);
  if ((status == STUGAN_OK) != (generator != nullptr)) std::abort();
  if (status == STUGAN_WRONG_ARGUMENT) std::abort();
  if (status != STUGAN_OK && std::strlen(message) < 20) std::abort();
  if (!generator) return 0;
  stugan_description about;
  stugan_describe(generator, &about);
  for (int32_t i = -1; i <= std::min(about.num_classes, 100); ++i) {
    stugan_class_name(generator, i);
  }
  stugan_close(generator);
  SparseFile file;  // Its parts, which say how much work it is.
  Network network;
  if (!file.open(copy.get(), size).ok() || !network.open(file, 1, STUGAN_FLOAT32).ok()) std::abort();
  draw(file.interface(), &network);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  using namespace stugan;
  Random random(seed);
  Parts parts;
  const size_t choice = below(&random, 16);
  if (choice == 0 || !parts.read({reinterpret_cast<const char*>(data), size})) {
    return LLVMFuzzerMutate(data, size, max_size);
  }
  for (size_t changes = 1 + below(&random, 3); changes > 0; --changes) {
    if (choice < 9) {
      change_value(&random, &parts.manifest);
    } else if (choice < 11) {
      change_bytes(&parts.manifest, parts.manifest.size() + 64, false);
    } else if (choice < 14) {
      std::string object = "{" + parts.tensors + "}";
      change_value(&random, &object);
      if (object.size() >= 2) parts.tensors = object.substr(1, object.size() - 2);
    } else {
      change_bytes(&parts.body, parts.body.size() + 64, below(&random, 4) > 0);
    }
  }
  const std::string file = sparse_file(parts.manifest, parts.tensors, parts.body);
  if (file.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(file.begin(), file.end(), data);
  return file.size();
}

// The manifest of one file with the tensors of another, or values of one in the other.
extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* data, size_t size,
                                            const uint8_t* other_data, size_t other_size,
                                            uint8_t* result, size_t max_size, unsigned int seed) {
  using namespace stugan;
  Random random(seed);
  Parts one, other;
  if (!one.read({reinterpret_cast<const char*>(data), size}) ||
      !other.read({reinterpret_cast<const char*>(other_data), other_size})) {
    return 0;
  }
  if (below(&random, 4) == 0) {
    one.manifest = other.manifest;
  } else {
    Json json, other_json;
    if (!json.parse(one.manifest).ok() || !other_json.parse(other.manifest).ok()) return 0;
    std::vector<Value> values, others;
    collect(json.root(), &values);
    collect(other_json.root(), &others);
    const Value value = values[below(&random, values.size())];
    std::string text = Parts::raw(others[below(&random, others.size())]);
    const bool is_text = value.is_string();
    const size_t begin = value.raw().data() - one.manifest.data() - is_text;
    one.manifest.replace(begin, value.raw().size() + 2 * is_text, text);
  }
  const std::string file = sparse_file(one.manifest, one.tensors, one.body);
  if (file.size() > max_size) return 0;
  std::copy(file.begin(), file.end(), result);
  return file.size();
}
