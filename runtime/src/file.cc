#include "file.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "sha256.h"

namespace stugan {
namespace {

constexpr int kMaxLowBits = 24;
constexpr int64_t kMaxClasses = 1 << 20;
constexpr int64_t kMaxSide = 1 << 14;

// Reads the shape of a weight; the product of its sizes goes to `size`.
bool read_shape(Value value, int64_t least, std::vector<int64_t>* shape, int64_t* size) {
  if (!value.is_array()) return false;
  const auto sizes = value.elements();
  if (sizes.size() > 8) return false;
  *size = 1;
  for (const Value& each : sizes) {
    int64_t length;
    if (!each.integer(least, (int64_t{1} << 31) - 1, &length)) return false;
    if (length > 0 && *size > (int64_t{1} << 40) / length) return false;
    *size *= length;
    shape->push_back(length);
  }
  return true;
}

// A name from a file, for a message.
std::string shown(const std::string& name) {
  std::string result = "'";
  for (const char c : name.substr(0, 60)) result += c < 0x20 || c == 0x7F ? '?' : c;
  return result + "'";
}

std::string letters(int64_t number) { return std::to_string(number); }

}  // namespace

float half_to_float(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  float result;
  if (exponent == 31) {
    result = fraction ? NAN : INFINITY;
  } else if (exponent == 0) {
    result = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    const uint32_t bits = static_cast<uint32_t>(exponent + 112) << 23 | fraction << 13;
    std::memcpy(&result, &bits, 4);
  }
  return half >> 15 ? -result : result;
}

uint16_t float_to_half(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7FFFFFFF;
  if (bits >= 0x7F800000) return sign | (bits > 0x7F800000 ? 0x7E00 : 0x7C00);
  if (bits >= 0x47800000) return sign | 0x7C00;
  // Ties go to even numbers. What is small is counted in units of 2^-24.
  if (bits < 0x38800000) {
    const float units = std::nearbyint(std::ldexp(std::fabs(number), 24));
    return sign | static_cast<uint16_t>(units);
  }
  const uint32_t rounded = bits - 0x38000000 + 0xFFF + (bits >> 13 & 1);
  return sign | static_cast<uint16_t>(rounded >> 13);
}

std::vector<float> Weight::dense() const {
  std::vector<float> result(size());
  visit([&](int64_t position, float x) { result[position] = x; });
  return result;
}

bool Weight::check_code() const {
  const int64_t length = size();
  if (low_bits < 0 || low_bits > kMaxLowBits || count < 0 || count > length) return false;
  if (static_cast<int64_t>(low_size) != (count * low_bits + 7) / 8) return false;
  if (static_cast<int64_t>(high_size) > (length + count) / 8 + 1) return false;
  Decoder decoder(*this);
  for (int64_t i = 0; i < count; ++i) {
    if (!decoder.next() || decoder.position >= length) return false;
  }
  if (static_cast<int64_t>(high_size) != (decoder.high_bit + 7) / 8) return false;
  Decoder rest = decoder;
  return !rest.next();
}

int64_t SparseFile::Tensor::count() const {
  int64_t product = 1;
  for (const int64_t length : shape) product *= length;
  return product;
}

Status SparseFile::open(const uint8_t* data, size_t size) {
  if (size > kMaxFile) {
    return unsupported("The file has " + letters(size) + " bytes; up to " + letters(kMaxFile) +
                       " are read.");
  }
  if (size < 8) return damaged("it ends within its header");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | data[i];
  if (length > std::min(kMaxHeader, size - 8)) return damaged("the length of its header");
  const std::string_view text(reinterpret_cast<const char*>(data) + 8, length);
  STUGAN_RETURN_IF_ERROR(header_.parse(text));
  const Value metadata = header_.root()["__metadata__"];
  if (!metadata["format"].is("stugan_tf.sparse")) {
    return damaged("it does not say format = stugan_tf.sparse");
  }
  if (!metadata["version"].is("1")) {
    return unsupported(
        "The file is of another version of its format; this library reads version 1. Use the "
        "library of the version that wrote it, or export it again.");
  }
  std::string digest;
  if (!metadata["sha256"].string(&digest)) return damaged("it has no checksum");
  STUGAN_RETURN_IF_ERROR(check_digest(data, size, 8 + length, digest));
  if (!metadata["manifest"].string(&text_)) return damaged("it has no manifest");
  STUGAN_RETURN_IF_ERROR(manifest_.parse(text_));
  STUGAN_RETURN_IF_ERROR(read_interface());
  STUGAN_RETURN_IF_ERROR(read_ranges());
  STUGAN_RETURN_IF_ERROR(read_tensors(header_.root(), data + 8 + length, size - 8 - length));
  return read_weights(size);
}

Status SparseFile::check_digest(const uint8_t* data, size_t size, size_t header_end,
                                const std::string& digest) const {
  if (digest.size() != 64) return damaged("it has no checksum");
  const std::string_view header(reinterpret_cast<const char*>(data), header_end);
  const size_t found = header.find("\"sha256\":\"" + digest + "\"");
  if (found == std::string_view::npos) return damaged("it has no checksum");
  const size_t begin = found + 10;
  const std::string zeros(64, '0');
  Sha256 hash;
  hash.add(data, begin);
  hash.add(reinterpret_cast<const uint8_t*>(zeros.data()), 64);
  hash.add(data + begin + 64, size - begin - 64);
  if (hash.finish() != digest) {
    return {STUGAN_DAMAGED, "The file is damaged: its checksum is wrong. Copy or export it again."};
  }
  return {};
}

Status SparseFile::read_tensors(Value header, const uint8_t* data, size_t size) {
  std::vector<std::pair<size_t, size_t>> parts;
  const auto entries = header.elements();
  for (size_t i = 0; i + 1 < entries.size(); i += 2) {
    std::string name;
    if (!entries[i].string(&name)) return damaged("the name of a tensor");
    if (name == "__metadata__") continue;
    const Value about = entries[i + 1];
    const auto offsets = about["data_offsets"].elements();
    Tensor tensor;
    int64_t count, begin, end;
    const int64_t most = static_cast<int64_t>(size);
    if (!about["dtype"].string(&tensor.dtype) ||
        !read_shape(about["shape"], 0, &tensor.shape, &count) || offsets.size() != 2 ||
        !offsets[0].integer(0, most, &begin) || !offsets[1].integer(begin, most, &end)) {
      return damaged("the description of the tensor " + shown(name));
    }
    const int64_t bytes = tensor.dtype == "F32"   ? 4
                          : tensor.dtype == "F16" ? 2
                          : tensor.dtype == "U8"  ? 1
                                                  : 0;
    if (bytes == 0 || end - begin != count * bytes) {
      return damaged("the size of the tensor " + shown(name));
    }
    tensor.data = data + begin;
    tensor.size = static_cast<size_t>(end - begin);
    parts.emplace_back(begin, end);
    if (!tensors_.emplace(name, std::move(tensor)).second) {
      return damaged("two tensors " + shown(name));
    }
  }
  std::sort(parts.begin(), parts.end());
  size_t covered = 0;
  for (const auto& [begin, end] : parts) {
    if (begin != covered) return damaged("its tensors overlap or leave gaps");
    covered = end;
  }
  return covered == size ? Status{} : damaged("it ends elsewhere than its tensors");
}

bool SparseFile::take(const std::string& name, Tensor* tensor) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return false;
  *tensor = std::move(found->second);
  tensors_.erase(found);
  return true;
}

bool SparseFile::take_values(const std::string& name, Weight* weight) {
  Tensor tensor;
  if (!take(name, &tensor)) return false;
  if (tensor.dtype != "F32" && tensor.dtype != "F16") return false;
  weight->is_half = tensor.dtype == "F16";
  weight->values = tensor.data;
  weight->count = tensor.count();
  for (int64_t i = 0; i < weight->count; ++i) {
    if (!std::isfinite(weight->value(i))) return false;
  }
  if (!weight->is_coded) return tensor.shape == weight->shape;
  return tensor.shape.size() == 1;
}

bool SparseFile::take_bits(const std::string& name, const uint8_t** data, size_t* size) {
  Tensor tensor;
  if (!take(name, &tensor)) return true;  // A part without elements is left out.
  if (tensor.dtype != "U8" || tensor.shape.size() != 1) return false;
  *data = tensor.data;
  *size = tensor.size;
  return true;
}

Status SparseFile::read_weights(size_t file_size) {
  const Value described = manifest_.root()["tensors"];
  if (!described.is_object()) return damaged("it does not describe its weights");
  const auto entries = described.elements();
  const int64_t most =
      std::min(kMaxWeights, kMaxExpansion * static_cast<int64_t>(file_size));
  int64_t total = 0;
  for (size_t i = 0; i + 1 < entries.size(); i += 2) {
    std::string name;
    Weight weight;
    int64_t size;
    const Value about = entries[i + 1];
    if (!entries[i].string(&name) || !read_shape(about["shape"], 1, &weight.shape, &size)) {
      return damaged("the shape of a weight");
    }
    total += size;
    if (total > most) {
      return damaged("it declares more than " + letters(most) + " weights in " +
                     letters(file_size) + " bytes");
    }
    bool is_right;
    if (about["nonzero"].is_there()) {
      weight.is_coded = true;
      int64_t nonzero, low_bits;
      is_right = about["nonzero"].integer(0, size, &nonzero) &&
                 about["low_bits"].integer(0, kMaxLowBits, &low_bits) &&
                 (nonzero == 0 || take_values(name + ":values", &weight)) &&
                 weight.count == nonzero &&
                 take_bits(name + ":mask", &weight.high, &weight.high_size) &&
                 take_bits(name + ":low", &weight.low, &weight.low_size);
      if (is_right) {
        weight.low_bits = static_cast<int>(low_bits);
        is_right = weight.check_code();
      }
    } else {
      is_right = take_values(name, &weight);
    }
    if (!is_right) return damaged("the weight " + shown(name));
    if (!weights_.emplace(name, std::move(weight)).second) {
      return damaged("two weights " + shown(name));
    }
  }
  if (tensors_.empty()) return {};
  return damaged(shown(tensors_.begin()->first) + " is not a weight");
}

// {layer: the greatest magnitude of its output}; older files have none.
Status SparseFile::read_ranges() {
  const Value ranges = manifest_.root()["ranges"];
  if (!ranges.is_there()) return {};
  if (!ranges.is_object()) return damaged("the ranges of its layers");
  const auto entries = ranges.elements();
  for (size_t i = 1; i < entries.size(); i += 2) {
    double greatest;
    if (!entries[i].number(&greatest) || greatest < 0) return damaged("the ranges of its layers");
    greatest_output_ = std::max(greatest_output_, greatest);
  }
  return {};
}

Status SparseFile::read_interface() {
  const Status fault = damaged("the description of the generator");
  const Value about = manifest_.root()["interface"];
  const auto shape = about["image_shape"].elements();
  Interface& i = interface_;
  if (!about["latent_dim"].integer(1, kMaxClasses, &i.latent_dim) ||
      !about["num_classes"].integer(1, kMaxClasses, &i.num_classes) ||
      !about["conditional"].is_bool() || !about["image_shape"].is_array() || shape.size() != 3 ||
      !shape[0].integer(1, kMaxSide, &i.height) || !shape[1].integer(1, kMaxSide, &i.width) ||
      !shape[2].integer(1, kMaxSide, &i.channels)) {
    return fault;
  }
  i.conditional = about["conditional"].is_true();
  const Value names = about["class_names"];
  if (names.is_null()) return {};
  const auto each = names.elements();
  if (!names.is_array() || static_cast<int64_t>(each.size()) != i.num_classes) return fault;
  for (const Value& name : each) {
    std::string text;
    if (!name.string(&text) || text.size() > 4000) return fault;
    i.class_names.push_back(std::move(text));
  }
  return {};
}

}  // namespace stugan
