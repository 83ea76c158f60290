// Makes models of allowed layers from bytes. Each one must open, and draw the same images whatever
// the number of threads, the batch and the instruction set are.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include <fuzzer/FuzzedDataProvider.h>

#include "stugan.h"
#include "writing.h"

namespace stugan {
namespace {

constexpr int64_t kMostNumbers = 1 << 14;  // Of a layer for an image.
constexpr int64_t kClasses = 3;
constexpr int64_t kImages = 5;

constexpr char kFailed[] = "failed_model.safetensors";

// Leaves the model behind as a sparse file.
[[noreturn]] void fail(const std::string& what, const std::string& file) {
  std::fprintf(stderr, "%s. The model is in %s.\n", what.c_str(), kFailed);
  std::ofstream(kFailed, std::ios::binary) << file;
  std::abort();
}

std::string list(const std::vector<int64_t>& numbers) {
  std::string result;
  for (const int64_t number : numbers) {
    result += (result.empty() ? "" : ", ") + std::to_string(number);
  }
  return "[" + result + "]";
}

int64_t product(const std::vector<int64_t>& shape) {
  int64_t result = 1;
  for (const int64_t length : shape) result *= length;
  return result;
}

// Bits, the highest of each byte first.
class Bits {
 public:
  void add(int bit) {
    if (count_++ % 8 == 0) bytes_.push_back('\0');
    if (bit) bytes_.back() = static_cast<char>(bytes_.back() | 1 << (7 - (count_ - 1) % 8));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
  int64_t count_ = 0;
};

class Maker {
 public:
  explicit Maker(FuzzedDataProvider* choices) : choices_(*choices) {}

  // A sparse file.
  std::string make() {
    conditional_ = choices_.ConsumeBool();
    const int64_t latent_dim = from(1, 12);
    add_input("latents", "[null, " + std::to_string(latent_dim) + "]", "float32", {latent_dim});
    if (conditional_) add_input("labels", "[null]", "int32", {});
    grow();
    for (int64_t i = from(1, 14); i > 0; --i) add_layer();
    const std::vector<int64_t> image = finish();
    const std::string manifest = R"({"interface": {"latent_dim": )" + std::to_string(latent_dim) +
               R"(, "image_shape": )" + list(image) + R"(, "num_classes": )" +
               std::to_string(kClasses) + R"(, "conditional": )" +
               (conditional_ ? "true" : "false") + R"(, "class_names": null}, "model": {"config": )"
               R"({"layers": [)" + layers_ + R"(], "input_layers": )" +
               (conditional_ ? R"([["latents", 0, 0], ["labels", 0, 0]])"
                             : R"(["latents", 0, 0])") +
               R"(, "output_layers": [["n)" + std::to_string(nodes_.size() - 1) +
               R"(", 0, 0]]}}, "tensors": {)" + described_ + "}}";
    return sparse_file(manifest, tensors_, body_);
  }

 private:
  struct Made {
    std::string name;
    std::vector<int64_t> shape;
    bool is_used = false;
  };

  int64_t from(int64_t least, int64_t most) {
    return choices_.ConsumeIntegralInRange<int64_t>(least, most);
  }

  const std::vector<int64_t>& shape(int i) const { return nodes_[i].shape; }

  void add_input(const std::string& name, const std::string& batch_shape, const std::string& dtype,
                 const std::vector<int64_t>& shape) {
    layers_ += std::string(layers_.empty() ? "" : ", ") + R"({"class_name": "InputLayer", "name": ")" +
               name + R"(", "config": {"batch_shape": )" + batch_shape + R"(, "dtype": ")" + dtype +
               R"("}, "inbound_nodes": []})";
    nodes_.push_back({name, shape, shape.empty()});
  }

  int add(const std::string& kind, const std::string& config, const std::vector<int>& inputs,
          const std::vector<int64_t>& shape) {
    const std::string name = "n" + std::to_string(nodes_.size());
    std::string tensors;
    for (const int i : inputs) {
      tensors += std::string(tensors.empty() ? "" : ", ") + R"({"config": {"keras_history": [")" +
                 nodes_[i].name + R"(", 0, 0]}})";
      nodes_[i].is_used = true;
    }
    if (inputs.size() > 1) tensors = "[" + tensors + "]";
    layers_ += R"(, {"class_name": ")" + kind + R"(", "name": ")" + name + R"(", "config": {)" +
               config + R"(}, "inbound_nodes": [{"args": [)" + tensors + "]}]}";
    nodes_.push_back({name, shape, false});
    return static_cast<int>(nodes_.size()) - 1;
  }

  void add_tensor(const std::string& name, const char* dtype, int64_t count,
                  const std::string& bytes, const std::string& shape) {
    if (count == 0) return;
    tensors_ += std::string(tensors_.empty() ? "" : ",") + "\"" + name + R"(":{"dtype":")" + dtype +
                R"(","shape":)" + shape + R"(,"data_offsets":[)" + std::to_string(body_.size()) +
                "," + std::to_string(body_.size() + bytes.size()) + "]}";
    body_ += bytes;
  }

  // A weight of the node that comes next, some of it zeros.
  void add_weight(const std::string& weight, const std::vector<int64_t>& shape, int64_t inputs) {
    const std::string name = "n" + std::to_string(nodes_.size()) + "/" + weight;
    const int64_t size = product(shape);
    const bool is_half = from(0, 3) == 0, is_coded = from(0, 3) > 0;
    const int64_t zeros = is_coded ? from(0, 24) : 0;  // Before each non-zero, about.
    const int low_bits = static_cast<int>(is_coded ? from(0, 6) : 0);
    uint32_t state = choices_.ConsumeIntegral<uint16_t>() + 1u;
    const auto next = [&state] { return (state = state * 1664525u + 1013904223u) >> 8; };
    const float scale = 1.0f / std::sqrt(static_cast<float>(inputs) / static_cast<float>(zeros + 1) + 1);
    std::string values;
    Bits high, low;
    int64_t count = 0;
    for (int64_t at = -1; at + 1 < size;) {
      const int64_t gap = zeros == 0 ? 0 : next() % (2 * zeros + 1);
      at += gap + 1;
      if (at >= size) break;
      if (is_coded) {
        for (int64_t i = gap >> low_bits; i > 0; --i) high.add(0);
        high.add(1);
        for (int i = 0; i < low_bits; ++i) low.add(gap >> i & 1);
      }
      const float value = scale * (static_cast<float>(next() % 2001) / 1000 - 1);
      if (is_half) {  // Of float16 only 2 ** -k and 0.
        const uint16_t half = value == 0 ? 0 : (value < 0 ? 0x8000 : 0) | (12 + next() % 3) << 10;
        values.append(reinterpret_cast<const char*>(&half), 2);
      } else {
        values.append(reinterpret_cast<const char*>(&value), 4);
      }
      ++count;
    }
    const char* const dtype = is_half ? "F16" : "F32";
    described_ += std::string(described_.empty() ? "" : ", ") + "\"" + name + R"(": {"shape": )" +
                  list(shape);
    if (is_coded) {
      described_ += R"(, "nonzero": )" + std::to_string(count) + R"(, "low_bits": )" +
                    std::to_string(low_bits);
      add_tensor(name + ":values", dtype, count, values, list({count}));
      for (const auto& [part, bits] : {std::pair{":mask", &high}, std::pair{":low", &low}}) {
        const auto bytes = static_cast<int64_t>(bits->bytes().size());
        add_tensor(name + part, "U8", bytes, bits->bytes(), list({bytes}));
      }
    } else {
      add_tensor(name, dtype, count, values, list(shape));
    }
    described_ += "}";
  }

  std::string activation() {
    static const char* const kNames[] = {"linear", "relu", "relu6", "leaky_relu", "elu", "selu",
                                         "gelu", "silu", "softplus", "tanh", "sigmoid", "softmax"};
    return std::string(R"("activation": ")") + (from(0, 1) ? "linear" : kNames[from(0, 11)]) + "\"";
  }

  std::string bias(int64_t units) {
    const bool has_bias = choices_.ConsumeBool();
    if (has_bias) add_weight("bias", {units}, 1);
    return std::string(R"("use_bias": )") + (has_bias ? "true" : "false");
  }

  int add_dense(int input, int64_t units) {
    std::vector<int64_t> result = shape(input);
    add_weight("kernel", {result.back(), units}, result.back());
    const std::string config =
        R"("units": )" + std::to_string(units) + ", " + activation() + ", " + bias(units);
    result.back() = units;
    return add("Dense", config, {input}, result);
  }

  int add_reshape(int input, const std::vector<int64_t>& shape) {
    return add("Reshape", R"("target_shape": )" + list(shape), {input}, shape);
  }

  int add_flatten(int input) {
    return add("Flatten", R"("data_format": "channels_last")", {input}, {product(shape(input))});
  }

  int add_embedding(int64_t units) {
    add_weight("embeddings", {kClasses, units}, 1);
    return add("Embedding",
               R"("input_dim": )" + std::to_string(kClasses) + R"(, "output_dim": )" +
                   std::to_string(units) + R"(, "mask_zero": false)",
               {1}, {units});
  }

  // Latents become a small image.
  void grow() {
    const std::vector<int64_t> image{from(1, 6), from(1, 6), from(1, 20)};
    add_reshape(add_dense(0, product(image)), image);
  }

  void add_convolution(int input, bool transposed) {
    const std::vector<int64_t> in = shape(input);
    const bool same = choices_.ConsumeBool();
    const int64_t filters = from(1, 20);
    std::vector<int64_t> window, strides, out;
    for (int k = 0; k < 2; ++k) {
      window.push_back(from(1, same || transposed ? 5 : std::min<int64_t>(5, in[k])));
      strides.push_back(from(1, 8) < 6 ? 1 : from(1, 3));
      out.push_back(transposed ? in[k] * strides[k] +
                                     (same ? 0 : std::max<int64_t>(window[k] - strides[k], 0))
                    : same     ? (in[k] + strides[k] - 1) / strides[k]
                               : (in[k] - window[k]) / strides[k] + 1);
    }
    out.push_back(filters);
    if (product(out) > kMostNumbers) return;
    const std::vector<int64_t> kernel{window[0], window[1], transposed ? filters : in[2],
                                      transposed ? in[2] : filters};
    add_weight("kernel", kernel, window[0] * window[1] * in[2]);
    std::string config = R"("filters": )" + std::to_string(filters) + R"(, "kernel_size": )" +
                         list(window) + R"(, "strides": )" + list(strides) + R"(, "padding": ")" +
                         (same ? "same" : "valid") + "\", " + activation() + ", " + bias(filters) +
                         R"(, "data_format": "channels_last", "dilation_rate": [1, 1], )" +
                         (transposed ? R"("output_padding": null)" : R"("groups": 1)");
    add(transposed ? "Conv2DTranspose" : "Conv2D", config, {input}, out);
  }

  void add_upsampling(int input) {
    const int64_t height = from(1, 3), width = from(0, 3) ? height : from(1, 3);
    upsample(input, height, width, from(0, 3) ? "nearest" : "bilinear");
  }

  // What is computed before the upsampling, if its kernel is sparse and has enough channels.
  void add_upsampled_convolution(int input) {
    const int64_t factor = 2 * from(1, 2);
    if (upsample(input, factor, factor, "nearest")) {
      add_convolution(static_cast<int>(nodes_.size()) - 1, false);
    }
  }

  // Returns whether the result is small enough.
  bool upsample(int input, int64_t height, int64_t width, const std::string& interpolation) {
    const std::vector<int64_t> in = shape(input);
    const std::vector<int64_t> out{in[0] * height, in[1] * width, in[2]};
    if (product(out) > kMostNumbers) return false;
    add("UpSampling2D",
        R"("size": )" + list({height, width}) + R"(, "interpolation": ")" + interpolation +
            R"(", "data_format": "channels_last")",
        {input}, out);
    return true;
  }

  void add_pooling(int input) {
    const std::vector<int64_t> in = shape(input);
    const bool same = choices_.ConsumeBool();
    std::vector<int64_t> window, strides, out;
    for (int k = 0; k < 2; ++k) {
      window.push_back(from(1, same ? 4 : std::min<int64_t>(4, in[k])));
      strides.push_back(from(1, 3));
      out.push_back(same ? (in[k] + strides[k] - 1) / strides[k]
                         : (in[k] - window[k]) / strides[k] + 1);
    }
    out.push_back(in[2]);
    add(from(0, 1) ? "AveragePooling2D" : "MaxPooling2D",
        R"("pool_size": )" + list(window) + R"(, "strides": )" + list(strides) +
            R"(, "padding": ")" + (same ? "same" : "valid") + R"(", "data_format": "channels_last")",
        {input}, out);
  }

  // x * scale + shift, or one of them; scale and shift of a class or of the latents.
  void add_by_class(int input) {
    const int64_t channels = shape(input).back();
    std::vector<int64_t> one(shape(input).size(), 1);
    one.back() = channels;
    for (const char* const kind : {"Multiply", "Add"}) {
      if (from(0, 4) == 0) continue;
      const bool by_label = conditional_ && from(0, 3);
      int vector = by_label ? add_embedding(channels) : add_dense(0, channels);
      if (from(0, 5)) vector = add_reshape(vector, one);
      std::vector<int> inputs{input, vector};
      if (from(0, 3) == 0) std::swap(inputs[0], inputs[1]);
      input = add(kind, "", inputs, shape(input));
    }
  }

  void add_sum(int input) {
    std::vector<int> inputs{input};
    for (int i = 0; i < static_cast<int>(nodes_.size()) && inputs.size() < 3; ++i) {
      if (shape(i) == shape(input) && from(0, 1)) inputs.push_back(i);
    }
    if (inputs.size() == 1) inputs.push_back(input);
    add(from(0, 3) ? "Add" : "Multiply", "", inputs, shape(input));
  }

  void add_concatenation(int input) {
    std::vector<int> inputs{input};
    std::vector<int64_t> out = shape(input);
    const bool last = out.size() == 1 || choices_.ConsumeBool();
    const size_t axis = last ? out.size() - 1 : 0;
    for (int i = 0; i < static_cast<int>(nodes_.size()) && inputs.size() < 3; ++i) {
      std::vector<int64_t> other = shape(i);
      if (other.size() != out.size() || !from(0, 1)) continue;
      const int64_t length = other[axis];
      other[axis] = out[axis];
      if (other != out) continue;
      inputs.push_back(i);
      out[axis] += length;
    }
    if (inputs.size() == 1) {
      inputs.push_back(input);
      out[axis] *= 2;
    }
    if (product(out) > kMostNumbers) return;
    add("Concatenate", last ? R"("axis": -1)" : R"("axis": 1)", inputs, out);
  }

  void add_attention(int input) {
    const std::vector<int64_t> in = shape(input);
    const int64_t pixels = product(in) / in.back();
    if (pixels > 150) return;
    const int64_t depth = from(1, 9);
    const int query = add_reshape(add_dense(input, depth), {pixels, depth});
    const int value = add_reshape(input, {pixels, in.back()});
    const int key = from(0, 1) ? query : add_reshape(add_dense(input, depth), {pixels, depth});
    add_reshape(add("Attention", R"("use_scale": false, "score_mode": "dot", "dropout": 0.0)",
                    {query, value, key}, {pixels, in.back()}),
                in);
  }

  void add_layer() {
    int input;
    do {
      input = static_cast<int>(nodes_.size() - 1 - from(0, from(0, 2) ? 0 : nodes_.size() - 1));
    } while (shape(input).empty());
    const std::vector<int64_t>& in = shape(input);
    const bool is_image = in.size() == 3;
    const int64_t kind = from(0, 17);
    if (kind < 4 && is_image) return add_convolution(input, false);
    switch (kind) {
      case 4: return is_image ? add_convolution(input, true) : void();
      case 5:
      case 6: return is_image ? add_upsampling(input) : void();
      case 7: return is_image ? add_pooling(input) : void();
      case 8:
        add_weight("gamma", {in.back()}, 1);
        add_weight("beta", {in.back()}, 1);
        add("BatchNormalization", R"("axis": -1, "epsilon": 0.0)", {input}, in);
        return;
      case 9: return add_by_class(input);
      case 10: return add_sum(input);
      case 11: return add_concatenation(input);
      case 12: return add_attention(input);
      case 13: add("Activation", activation(), {input}, in); return;
      case 14:
        if (from(0, 1)) {
          add("ReLU", R"("max_value": null, "negative_slope": 0.0, "threshold": 0.0)", {input}, in);
        } else {
          add("LeakyReLU", R"("negative_slope": 0.25)", {input}, in);
        }
        return;
      case 15: add_dense(input, from(1, 40)); return;
      case 16:
        if (in.size() == 2 && in[0] > 2) {
          add("Cropping1D", R"("cropping": [1, 1])", {input}, {in[0] - 2, in[1]});
        } else if (is_image) {
          add_reshape(input, {in[0] * in[1], in[2]});
        } else {
          add_flatten(input);
        }
        return;
      case 17: return is_image ? add_upsampled_convolution(input) : void();
      default: return;
    }
  }

  // All that is not used yet goes into one image.
  std::vector<int64_t> finish() {
    const int last = static_cast<int>(nodes_.size()) - 1;
    std::vector<int64_t> image = shape(last);
    std::vector<int> loose;
    for (int i = 0; i < last; ++i) {
      if (!nodes_[i].is_used) loose.push_back(i);
    }
    int output = last;
    while (image.size() < 3) image.insert(image.begin(), 1);
    if (image != shape(last)) output = add_reshape(output, image);
    if (image.size() != 3) std::abort();
    for (const int i : loose) {  // Few numbers of each, spread over the image.
      const int narrow = add_dense(add_flatten(i), image.back());
      output = add("Add", "", {output, add_reshape(narrow, {1, 1, image.back()})}, image);
    }
    if (from(0, 1)) output = add("Activation", R"("activation": "tanh")", {output}, image);
    return image;
  }

  FuzzedDataProvider& choices_;
  bool conditional_ = false;
  std::vector<Made> nodes_;
  std::string layers_, described_, tensors_, body_;
};

std::vector<float> images_of(const std::string& file, int threads, int64_t batch) {
  stugan_generator* generator;
  char message[STUGAN_MESSAGE_SIZE];
  if (stugan_open_memory(file.data(), file.size(), threads, &generator, message) != STUGAN_OK) {
    fail(std::string("A model was refused: ") + message, file);
  }
  stugan_description about;
  stugan_describe(generator, &about);
  const int64_t size = int64_t{1} * about.height * about.width * about.channels;
  std::vector<float> latents(kImages * about.latent_dim), images(kImages * size);
  std::vector<int32_t> labels(kImages);
  if (stugan_draw(generator, kImages, 1, nullptr, latents.data(), labels.data(), message)) {
    fail(message, file);
  }
  for (int64_t i = 0; i < kImages; i += batch) {
    if (stugan_generate(generator, std::min(batch, kImages - i), &latents[i * about.latent_dim],
                        about.conditional ? &labels[i] : nullptr, &images[i * size], message)) {
      fail(message, file);
    }
  }
  stugan_close(generator);
  return images;
}

// Whether images are equal: bit for bit if `distance` is 0, else up to rounding. Numbers that
// overflow may do so in other ways.
bool are_equal(const std::vector<float>& a, const std::vector<float>& b, float distance) {
  float largest = 1;
  for (const float x : a) largest = std::isfinite(x) ? std::max(largest, std::abs(x)) : INFINITY;
  if (distance > 0 && !(largest < 1e6f)) return true;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool is_near = a[i] == b[i] || std::abs(a[i] - b[i]) <= distance * largest;
    if (!is_near && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  }
  return true;
}

}  // namespace
}  // namespace stugan

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace stugan;
  FuzzedDataProvider choices(data, size);
  const std::string file = Maker(&choices).make();
  const auto images = images_of(file, 1, kImages);
  if (!are_equal(images, images_of(file, 3, kImages), 0)) {
    fail("Other images with 3 threads", file);
  }
  if (!are_equal(images, images_of(file, 2, 1), 0)) {
    fail("Other images one by one", file);
  }
  setenv("STUGAN_INSTRUCTION_SET", "baseline", 1);
  const auto others = images_of(file, 1, 2);
  unsetenv("STUGAN_INSTRUCTION_SET");
  if (!are_equal(images, others, 1e-3f)) fail("Other images by the baseline", file);
  return 0;
}
