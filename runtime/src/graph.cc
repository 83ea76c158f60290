#include "graph.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

namespace stugan {
namespace {

constexpr int64_t kMaxSize = 1 << 24;
constexpr size_t kMaxInputs = 64;

struct Named {
  const char* name;
  Kind kind;
};

constexpr Named kKinds[] = {
    {"InputLayer", Kind::kInput},
    {"Dense", Kind::kDense},
    {"Conv2D", Kind::kConvolution},
    {"Conv2DTranspose", Kind::kTransposedConvolution},
    {"Embedding", Kind::kEmbedding},
    {"BatchNormalization", Kind::kScale},
    {"Reshape", Kind::kReshape},
    {"Flatten", Kind::kFlatten},
    {"Cropping1D", Kind::kCropping},
    {"UpSampling2D", Kind::kUpsampling},
    {"AveragePooling2D", Kind::kAveragePooling},
    {"MaxPooling2D", Kind::kMaxPooling},
    {"Activation", Kind::kActivation},
    {"ReLU", Kind::kActivation},
    {"LeakyReLU", Kind::kActivation},
    {"Add", Kind::kAdd},
    {"Multiply", Kind::kMultiply},
    {"Concatenate", Kind::kConcatenate},
    {"Attention", Kind::kAttention},
};

struct NamedActivation {
  const char* name;
  Activation activation;
};

const NamedActivation kActivations[] = {
    {"linear", {Function::kLinear}},   {"relu", {Function::kRelu}},
    {"relu6", {Function::kRelu, 0, 0, 6, true}},
    {"leaky_relu", {Function::kRelu, 0.2f}},
    {"elu", {Function::kElu}},         {"selu", {Function::kSelu}},
    {"gelu", {Function::kGelu}},       {"silu", {Function::kSilu}},
    {"softplus", {Function::kSoftplus}}, {"tanh", {Function::kTanh}},
    {"sigmoid", {Function::kSigmoid}}, {"softmax", {Function::kSoftmax}},
};

bool is_name(const std::string& name) {
  if (name.empty() || name.size() > 200) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           c == '_' || c == '.' || c == '>' || c == '-';
  });
}

// Reads one layer's arguments, inputs, weights and shape; each part says whether all is right.
class Reader {
 public:
  Reader(const std::vector<Node>& nodes, Node* node, Value config, std::string kind)
      : nodes_(nodes), node_(*node), config_(config), kind_(std::move(kind)) {}

  // The reason why the layer cannot be; null if it can.
  const char* read(std::map<std::string, const Weight*> weights) {
    weights_ = std::move(weights);
    if (!read_arguments()) return "its arguments";
    if (!check_inputs()) return "its inputs";
    if (!compute_shape()) return "its shape";
    if (!weights_.empty()) return "weights that it does not take";
    int64_t size = 1;
    for (const int64_t length : node_.shape) {
      if (length < 1 || length > Graph::kMaxActivations) return "its size";
      size *= length;
      if (size > Graph::kMaxActivations) return "its size";
    }
    return nullptr;
  }

 private:
  const Node& input(size_t i = 0) const { return nodes_[node_.inputs[i]]; }

  bool pair(const char* name, int64_t least, int64_t most, Pair* pair) const {
    const auto each = config_[name].elements();
    return config_[name].is_array() && each.size() == 2 &&
           each[0].integer(least, most, &pair->height) &&
           each[1].integer(least, most, &pair->width);
  }

  bool size(const char* name, int64_t* result) const {
    return config_[name].integer(1, kMaxSize, result);
  }

  bool number(const char* name, float* result) const {
    double value;
    if (!config_[name].number(&value) || value < 0 || value >= 1e6) return false;
    *result = static_cast<float>(value);
    return true;
  }

  bool activation() {
    for (const auto& [name, activation] : kActivations) {
      if (config_["activation"].is(name)) {
        node_.activation = activation;
        return true;
      }
    }
    return false;
  }

  bool padding() {
    node_.same = config_["padding"].is("same");
    return node_.same || config_["padding"].is("valid");
  }

  bool channels_last() const { return config_["data_format"].is("channels_last"); }

  bool read_arguments() {
    int64_t zero;
    switch (node_.kind) {
      case Kind::kInput: return read_input();
      case Kind::kDense: return size("units", &units_) && activation() && read_bias();
      case Kind::kConvolution:
      case Kind::kTransposedConvolution: {
        Pair dilation;
        return size("filters", &units_) && pair("kernel_size", 1, 64, &node_.window) &&
               pair("strides", 1, 64, &node_.strides) && padding() && activation() &&
               read_bias() && channels_last() && pair("dilation_rate", 1, 1, &dilation) &&
               (node_.kind == Kind::kConvolution ? config_["groups"].integer(1, 1, &zero)
                                                 : config_["output_padding"].is_null());
      }
      case Kind::kEmbedding:
        return size("input_dim", &rows_) && size("output_dim", &units_) &&
               config_["mask_zero"].is_bool() && !config_["mask_zero"].is_true();
      case Kind::kScale: {
        float epsilon;
        return config_["axis"].integer(-1, -1, &zero) && number("epsilon", &epsilon) &&
               epsilon == 0;
      }
      case Kind::kReshape: {
        const auto sizes = config_["target_shape"].elements();
        if (!config_["target_shape"].is_array() || sizes.empty() || sizes.size() > 4) return false;
        for (const Value& each : sizes) {
          int64_t length;
          if (!each.integer(1, kMaxSize, &length)) return false;
          node_.shape.push_back(length);
        }
        return true;
      }
      case Kind::kFlatten: return channels_last();
      case Kind::kCropping: return pair("cropping", 0, 1 << 20, &cropping_);
      case Kind::kUpsampling:
        node_.bilinear = config_["interpolation"].is("bilinear");
        return (node_.bilinear || config_["interpolation"].is("nearest")) && channels_last() &&
               pair("size", 1, 64, &node_.strides);
      case Kind::kAveragePooling:
      case Kind::kMaxPooling:
        return pair("pool_size", 1, 64, &node_.window) && pair("strides", 1, 64, &node_.strides) &&
               padding() && channels_last();
      case Kind::kActivation: return read_activation();
      case Kind::kAdd:
      case Kind::kMultiply: return true;
      case Kind::kConcatenate:
        return config_["axis"].integer(-1, 1, &node_.axis) && node_.axis != 0;
      case Kind::kAttention: {
        float dropout;
        return config_["use_scale"].is_bool() && !config_["use_scale"].is_true() &&
               config_["score_mode"].is("dot") && number("dropout", &dropout) && dropout == 0;
      }
    }
    return false;
  }

  bool read_input() {
    const auto shape = config_["batch_shape"].elements();
    if (shape.empty() || shape.size() > 2 || !shape[0].is_null()) return false;
    if (shape.size() == 2) {
      int64_t length;
      if (!shape[1].integer(1, 1 << 20, &length)) return false;
      node_.shape.push_back(length);
    }
    node_.is_integer = config_["dtype"].is("int32");
    return node_.is_integer || config_["dtype"].is("float32");
  }

  bool read_activation() {
    if (kind_ == "Activation") return activation();
    Activation& a = node_.activation;
    a.function = Function::kRelu;
    if (!number("negative_slope", &a.slope)) return false;
    if (kind_ == "LeakyReLU") return true;
    a.has_maximum = !config_["max_value"].is_null();
    return number("threshold", &a.threshold) && (!a.has_maximum || number("max_value", &a.maximum));
  }

  bool read_bias() {
    use_bias_ = config_["use_bias"].is_true();
    return config_["use_bias"].is_bool();
  }

  bool check_inputs() {
    const size_t count = node_.inputs.size();
    switch (node_.kind) {
      case Kind::kInput: return count == 0;
      case Kind::kAttention: return count == 3;
      case Kind::kAdd:
      case Kind::kMultiply:
      case Kind::kConcatenate: return count >= 2 && count <= kMaxInputs;
      default: return count == 1;
    }
  }

  // Takes a weight of this shape.
  bool take(const char* name, const std::vector<int64_t>& shape, const Weight** weight) {
    const auto found = weights_.find(name);
    if (found == weights_.end() || found->second->shape != shape) return false;
    *weight = found->second;
    weights_.erase(found);
    return true;
  }

  bool take_kernel(const std::vector<int64_t>& shape) {
    return take("kernel", shape, &node_.kernel) &&
           (!use_bias_ || take("bias", {units_}, &node_.bias));
  }

  bool is_image() const { return input().shape.size() == 3; }

  // Output and padding of a window that moves over `length` pixels.
  bool slide(int64_t length, int64_t window, int64_t stride, int64_t* output,
             int64_t* before) const {
    if (node_.same) {
      *output = (length + stride - 1) / stride;
      *before = std::max<int64_t>(0, (*output - 1) * stride + window - length) / 2;
    } else {
      *output = length < window ? 0 : (length - window) / stride + 1;
      *before = 0;
    }
    return *output > 0;
  }

  bool slide_both(int64_t height, int64_t width, Pair* output) {
    return slide(height, node_.window.height, node_.strides.height, &output->height,
                 &node_.padding.height) &&
           slide(width, node_.window.width, node_.strides.width, &output->width,
                 &node_.padding.width);
  }

  bool compute_shape() {
    if (node_.kind != Kind::kInput) {
      for (const int i : node_.inputs) {
        if (nodes_[i].is_integer != (node_.kind == Kind::kEmbedding)) return false;
      }
    }
    std::vector<int64_t>& shape = node_.shape;
    Pair output;
    switch (node_.kind) {
      case Kind::kInput: return true;
      case Kind::kDense:
        shape = input().shape;
        if (shape.empty() || !take_kernel({shape.back(), units_})) return false;
        shape.back() = units_;
        return true;
      case Kind::kConvolution:
        if (!is_image() || !slide_both(input().shape[0], input().shape[1], &output)) return false;
        shape = {output.height, output.width, units_};
        return take_kernel({node_.window.height, node_.window.width, input().shape[2], units_});
      case Kind::kTransposedConvolution: {
        if (!is_image()) return false;
        const auto grown = [&](int64_t length, int64_t window, int64_t stride) {
          return length * stride + (node_.same ? 0 : std::max<int64_t>(window - stride, 0));
        };
        const int64_t height = grown(input().shape[0], node_.window.height, node_.strides.height);
        const int64_t width = grown(input().shape[1], node_.window.width, node_.strides.width);
        // It is the gradient of a convolution of the larger images into the smaller ones.
        if (!slide_both(height, width, &output) || output.height != input().shape[0] ||
            output.width != input().shape[1]) {
          return false;
        }
        shape = {height, width, units_};
        return take_kernel({node_.window.height, node_.window.width, units_, input().shape[2]});
      }
      case Kind::kEmbedding:
        if (!input().shape.empty()) return false;
        shape = {units_};
        return take("embeddings", {rows_, units_}, &node_.kernel);
      case Kind::kScale:
        shape = input().shape;
        return !shape.empty() && take("gamma", {shape.back()}, &node_.kernel) &&
               take("beta", {shape.back()}, &node_.bias);
      case Kind::kReshape: {
        int64_t size = 1;
        for (const int64_t length : shape) {
          size *= length;
          if (size > Graph::kMaxActivations) return false;
        }
        return size == input().size();
      }
      case Kind::kFlatten: shape = {input().size()}; return true;
      case Kind::kCropping:
        if (input().shape.size() != 2) return false;
        node_.first = cropping_.height;
        shape = {input().shape[0] - cropping_.height - cropping_.width, input().shape[1]};
        return shape[0] > 0;
      case Kind::kUpsampling:
        if (!is_image()) return false;
        shape = {input().shape[0] * node_.strides.height, input().shape[1] * node_.strides.width,
                 input().shape[2]};
        return true;
      case Kind::kAveragePooling:
      case Kind::kMaxPooling:
        if (!is_image() || !slide_both(input().shape[0], input().shape[1], &output)) return false;
        shape = {output.height, output.width, input().shape[2]};
        return true;
      case Kind::kActivation:
        shape = input().shape;
        return !shape.empty();
      case Kind::kAdd:
      case Kind::kMultiply: return broadcast();
      case Kind::kConcatenate: return concatenate();
      case Kind::kAttention: {
        const auto &query = input(0).shape, &value = input(1).shape, &key = input(2).shape;
        if (query.size() != 2 || value.size() != 2 || key.size() != 2 || query[1] != key[1] ||
            value[0] != key[0] || query[0] * key[0] > Graph::kMaxActivations) {
          return false;
        }
        shape = {query[0], value[1]};
        return true;
      }
    }
    return false;
  }

  // Sizes of 1 are repeated, and shapes begin with such sizes where they are shorter.
  bool broadcast() {
    for (const int i : node_.inputs) {
      std::vector<int64_t> other = nodes_[i].shape;
      if (other.empty()) return false;
      while (other.size() < node_.shape.size()) other.insert(other.begin(), 1);
      while (node_.shape.size() < other.size()) node_.shape.insert(node_.shape.begin(), 1);
      for (size_t k = 0; k < other.size(); ++k) {
        if (node_.shape[k] == 1) node_.shape[k] = other[k];
        if (other[k] != 1 && other[k] != node_.shape[k]) return false;
      }
    }
    return true;
  }

  bool concatenate() {
    node_.shape = input().shape;
    if (node_.shape.empty()) return false;
    node_.axis = node_.axis == 1 ? 0 : static_cast<int64_t>(node_.shape.size()) - 1;
    for (size_t i = 1; i < node_.inputs.size(); ++i) {
      const auto& other = input(i).shape;
      if (other.size() != node_.shape.size()) return false;
      for (size_t k = 0; k < other.size(); ++k) {
        if (static_cast<int64_t>(k) == node_.axis) {
          node_.shape[k] += other[k];
        } else if (other[k] != node_.shape[k]) {
          return false;
        }
      }
    }
    return true;
  }

  const std::vector<Node>& nodes_;
  Node& node_;
  Value config_;
  std::string kind_;
  std::map<std::string, const Weight*> weights_;
  int64_t units_ = 0, rows_ = 0;
  Pair cropping_;
  bool use_bias_ = false;
};

// The index of the layer that ['layer', 0, 0] names, or -1.
int layer_of(Value history, const std::map<std::string, int>& indices) {
  const auto parts = history.elements();
  std::string name;
  int64_t zero;
  if (!history.is_array() || parts.size() != 3 || !parts[0].string(&name) ||
      !parts[1].integer(0, 0, &zero) || !parts[2].integer(0, 0, &zero)) {
    return -1;
  }
  const auto found = indices.find(name);
  return found == indices.end() ? -1 : found->second;
}

// Keras writes a single tensor without a list.
std::vector<Value> listed(Value entries) {
  const auto each = entries.elements();
  if (!each.empty() && each[0].is_string()) return {entries};
  return each;
}

}  // namespace

Status Graph::read(const SparseFile& file) {
  const Status fault = damaged("the description of the model");
  const Value config = file.model()["config"];
  const auto layers = config["layers"].elements();
  if (!config["layers"].is_array() || layers.empty() ||
      static_cast<int64_t>(layers.size()) > kMaxNodes) {
    return damaged("the number of layers");
  }
  std::map<std::string, std::map<std::string, const Weight*>> weights;
  for (const auto& [path, weight] : file.weights()) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return fault;
    weights[path.substr(0, slash)][path.substr(slash + 1)] = &weight;
  }
  std::map<std::string, int> indices;
  int64_t activations = 0;
  for (const Value& layer : layers) {
    Node node;
    std::string kind;
    if (!layer["name"].string(&node.name) || !is_name(node.name) ||
        !layer["class_name"].string(&kind) || !layer["config"].is_object()) {
      return fault;
    }
    const std::string called = "Layer '" + node.name + "'";
    const auto* const known =
        std::find_if(std::begin(kKinds), std::end(kKinds),
                     [&](const Named& each) { return kind == each.name; });
    if (known == std::end(kKinds)) {
      return unsupported(called + " is of a class that this library does not have.");
    }
    node.kind = known->kind;
    const auto calls = layer["inbound_nodes"].elements();
    if (!layer["inbound_nodes"].is_array() || calls.size() != (node.kind != Kind::kInput)) {
      return fault;
    }
    if (!calls.empty()) {
      const auto arguments = calls[0]["args"].elements();
      if (arguments.size() != 1) return fault;
      auto tensors = arguments[0].is_object() ? arguments : arguments[0].elements();
      if (tensors.size() > kMaxInputs) return fault;
      for (const Value& tensor : tensors) {
        const int index = layer_of(tensor["config"]["keras_history"], indices);
        if (index < 0) return fault;
        node.inputs.push_back(index);
      }
    }
    auto own = weights.find(node.name);
    Reader reader(nodes, &node, layer["config"], kind);
    const char* const reason = reader.read(own == weights.end() ? decltype(own->second){}
                                                                : std::move(own->second));
    if (own != weights.end()) weights.erase(own);
    if (reason) {
      return damaged(called + " (" + kind + ") does not fit the model or is not supported: " +
                     reason);
    }
    activations += node.size();
    if (activations > kMaxAllActivations) return damaged("its layers make too many numbers");
    if (!indices.emplace(node.name, static_cast<int>(nodes.size())).second) return fault;
    nodes.push_back(std::move(node));
  }
  if (!weights.empty()) return damaged("weights of a layer that is not there");

  const auto inputs = listed(config["input_layers"]), outputs = listed(config["output_layers"]);
  const Interface& interface = file.interface();
  if (outputs.size() != 1 || inputs.size() != (interface.conditional ? 2 : 1)) return fault;
  output = layer_of(outputs[0], indices);
  latents = layer_of(inputs[0], indices);
  if (interface.conditional) labels = layer_of(inputs[1], indices);
  if (output < 0 || latents < 0 || (interface.conditional && labels < 0)) return fault;

  std::vector<bool> is_used(nodes.size());
  is_used[output] = true;
  for (const Node& node : nodes) {
    for (const int i : node.inputs) is_used[i] = true;
  }
  size_t there = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const bool is_input = nodes[i].kind == Kind::kInput;
    there += is_input;
    if (!is_input && !is_used[i]) return damaged("a layer that does not lead to the output");
    if (nodes[i].kind == Kind::kEmbedding && nodes[i].kernel->shape[0] != interface.num_classes) {
      return damaged("the number of its classes");
    }
  }
  const std::vector<int64_t> latent_shape{interface.latent_dim};
  const std::vector<int64_t> image_shape{interface.height, interface.width, interface.channels};
  if (there != inputs.size() || latents == labels || nodes[latents].kind != Kind::kInput ||
      nodes[latents].is_integer || nodes[latents].shape != latent_shape ||
      nodes[output].shape != image_shape ||
      (labels >= 0 && (nodes[labels].kind != Kind::kInput || !nodes[labels].is_integer ||
                       !nodes[labels].shape.empty()))) {
    return damaged("its model does not fit its description");
  }
  return {};
}

}  // namespace stugan
