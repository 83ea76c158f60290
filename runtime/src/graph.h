// The layers of a generator, as stugan_tf/serving/graph.py allows them, checked.

#ifndef STUGAN_RUNTIME_GRAPH_H_
#define STUGAN_RUNTIME_GRAPH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "file.h"
#include "status.h"

namespace stugan {

enum class Kind {
  kInput,
  kDense,
  kConvolution,
  kTransposedConvolution,
  kEmbedding,
  kScale,  // Keras' BatchNormalization, whose statistics are zeros and ones.
  kReshape,
  kFlatten,
  kCropping,
  kUpsampling,
  kAveragePooling,
  kMaxPooling,
  kActivation,  // Also Keras' ReLU and LeakyReLU.
  kAdd,
  kMultiply,
  kConcatenate,
  kAttention,
};

enum class Function {
  kLinear,
  kRelu,  // With slope, threshold and maximum.
  kElu,
  kSelu,
  kGelu,
  kSilu,
  kSoftplus,
  kTanh,
  kSigmoid,
  kSoftmax,
};

struct Activation {
  Function function = Function::kLinear;
  float slope = 0;
  float threshold = 0;
  float maximum = 0;  // Only if `has_maximum`.
  bool has_maximum = false;

  bool is_linear() const { return function == Function::kLinear; }
  bool is_plain_relu() const {
    return function == Function::kRelu && slope == 0 && threshold == 0 && !has_maximum;
  }
};

struct Pair {
  int64_t height = 1, width = 1;
  bool is(int64_t value) const { return height == value && width == value; }
};

struct Node {
  std::string name;
  Kind kind = Kind::kInput;
  std::vector<int> inputs;      // Indices of earlier nodes.
  std::vector<int64_t> shape;   // Of its output, without the batch.
  Activation activation;
  Pair window, strides;         // Of convolutions and pooling; `strides` also of upsampling.
  Pair padding{0, 0};           // Rows above, columns to the left.
  bool same = false;
  bool bilinear = false;
  int64_t first = 0;            // Cropped at the beginning.
  int64_t axis = 0;             // Without the batch.
  bool is_integer = false;      // An input of labels.
  // Of the weights it has, else null.
  const Weight* kernel = nullptr;  // Also embeddings, and gamma.
  const Weight* bias = nullptr;    // Also beta.

  int64_t size() const {
    int64_t product = 1;
    for (const int64_t length : shape) product *= length;
    return product;
  }
  int64_t channels() const { return shape.empty() ? 1 : shape.back(); }
  bool is_linear_layer() const {
    return kind == Kind::kDense || kind == Kind::kConvolution ||
           kind == Kind::kTransposedConvolution;
  }
};

struct Graph {
  static constexpr int64_t kMaxNodes = 4096;
  static constexpr int64_t kMaxActivations = int64_t{1} << 25;     // Of one layer for one image.
  static constexpr int64_t kMaxAllActivations = int64_t{1} << 29;  // Of all layers.

  std::vector<Node> nodes;  // Each after its inputs.
  int latents = 0;
  int labels = -1;  // -1 if the generator is not conditional.
  int output = 0;

  // Reads the graph of a file, whose weights it refers to.
  Status read(const SparseFile& file);
};

}  // namespace stugan

#endif  // STUGAN_RUNTIME_GRAPH_H_
