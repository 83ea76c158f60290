#include "planning.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace stugan {
namespace {

constexpr int64_t kCached = 3 << 20;     // Floats of a run; what one step needs of them is less.
constexpr int64_t kMostImages = 16;      // Of a run.
constexpr int64_t kAlignment = 16;       // Floats.

bool is_nearest(const Node& node) {
  return node.kind == Kind::kUpsampling && !node.bilinear &&
         node.strides.height == node.strides.width;
}

bool is_pointwise(const Node& node) {
  return node.kind == Kind::kConvolution && node.window.is(1) && node.strides.is(1);
}

// Puts 1x1 convolutions before the upsampling that they follow: the same numbers from fewer pixels.
Graph with_upsampling_last(const Graph& graph) {
  Graph result;
  std::vector<int> moved(graph.nodes.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    Node node = graph.nodes[i];
    const bool swaps = is_pointwise(node) && is_nearest(graph.nodes[node.inputs[0]]);
    const int input = swaps ? node.inputs[0] : -1;
    for (int& each : node.inputs) each = moved[each];
    if (swaps) {
      Node upsampling = graph.nodes[input];
      upsampling.shape = node.shape;
      const int source = moved[graph.nodes[input].inputs[0]];
      node.inputs = {source};
      node.shape = result.nodes[source].shape;
      node.shape.back() = upsampling.shape.back();
      upsampling.inputs = {static_cast<int>(result.nodes.size())};
      result.nodes.push_back(std::move(node));
      node = std::move(upsampling);
    }
    moved[i] = static_cast<int>(result.nodes.size());
    result.nodes.push_back(std::move(node));
  }
  result.latents = moved[graph.latents];
  result.labels = graph.labels < 0 ? -1 : moved[graph.labels];
  result.output = moved[graph.output];
  return result;
}

// How many nodes use each node, of those that lead to the output; the output has one more.
std::vector<int> num_users(const Graph& graph) {
  std::vector<int> users(graph.nodes.size());
  ++users[graph.output];
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    if (users[i] == 0) continue;
    for (const int input : graph.nodes[i].inputs) ++users[input];
  }
  return users;
}

// The arena: tensors share memory if none of the steps needs both.
class Arena {
 public:
  // Reserves floats for the steps from `first` to `last`; returns where.
  int64_t reserve(int64_t size, int64_t first, int64_t last) {
    size = (size + kAlignment - 1) / kAlignment * kAlignment;
    std::vector<const Taken*> meets;
    for (const Taken& taken : taken_) {
      if (taken.first <= last && first <= taken.last) meets.push_back(&taken);
    }
    std::sort(meets.begin(), meets.end(),
              [](const Taken* a, const Taken* b) { return a->begin < b->begin; });
    int64_t begin = 0;
    for (const Taken* const taken : meets) {
      if (begin + size <= taken->begin) break;
      begin = std::max(begin, taken->end);
    }
    taken_.push_back({begin, begin + size, first, last});
    size_ = std::max(size_, begin + size);
    return begin;
  }

  int64_t size() const { return size_; }

 private:
  struct Taken {
    int64_t begin, end, first, last;
  };
  std::vector<Taken> taken_;
  int64_t size_ = 0;
};

class Planner {
 public:
  Planner(const Graph& graph, const MachineCode& code, int num_threads)
      : graph_(graph),
        code_(code),
        num_threads_(num_threads),
        users_(num_users(graph)),
        needed_(graph.nodes.size()),
        places_(2 * graph.nodes.size()),
        last_use_(2 * graph.nodes.size(), -1) {}

  Status make(Plan* plan) {
    choose_steps();
    convert_tensors();
    place_tensors();
    for (size_t i = 0; i < planned_.size(); ++i) place_temporary(static_cast<int64_t>(i));
    plan->arena_size = arena_.size();
    plan->max_images =
        std::clamp<int64_t>(kCached / std::max<int64_t>(1, arena_.size()), 1, kMostImages);
    for (const Planned& planned : planned_) {
      std::unique_ptr<Step> step;
      STUGAN_RETURN_IF_ERROR(planned.make(*this, planned, plan->max_images, &step));
      plan->steps.push_back(std::move(step));
    }
    return {};
  }

 private:
  // A step before places are known. `nodes` are the tensors that it reads, by their nodes: those
  // that are of half precision have numbers after all others.
  struct Planned {
    int output = -1;
    std::vector<int> nodes;
    std::function<Status(const Planner&, const Planned&, int64_t max_images,
                         std::unique_ptr<Step>*)>
        make;
    int64_t temporary_size = 0;
    Place temporary;
    bool continues = false;  // Whether it reads and writes its output, as the step before did.
    bool takes_halves = false;  // Whether the first tensor that it reads may be of half precision.
  };

  int num_nodes() const { return static_cast<int>(graph_.nodes.size()); }
  int as_half(int i) const { return i + num_nodes(); }
  bool is_half(int tensor) const { return tensor >= num_nodes(); }
  int in_other_precision(int tensor) const {
    return is_half(tensor) ? tensor - num_nodes() : as_half(tensor);
  }

  const Node& node(int i) const { return graph_.nodes[i]; }

  // The node whose memory a node's tensor is: reshaping moves nothing.
  int root(int i) const {
    while (node(i).kind == Kind::kReshape || node(i).kind == Kind::kFlatten) {
      i = node(i).inputs[0];
    }
    return i;
  }

  const Place& place(int i) const { return is_half(i) ? places_[i] : places_[root(i)]; }

  // From the output to the inputs: what a step does in passing gets no step of its own.
  void choose_steps() {
    const int output = root(graph_.output);
    if (node(output).kind == Kind::kInput) {  // Only reshaped.
      copies_input_ = true;
      add(graph_.output, {output}, [](const Planner& p, const Planned& planned, int64_t,
                                      std::unique_ptr<Step>* step) {
        Copy copy;
        copy.input = p.place(planned.nodes[0]);
        copy.output = p.images();
        copy.length = copy.input.size;
        *step = make_copy(copy);
        return Status{};
      });
      return;
    }
    needed_[output] = true;
    for (int i = static_cast<int>(graph_.nodes.size()) - 1; i >= 0; --i) {
      if (needed_[i] && node(i).kind != Kind::kInput) choose_step(i);
    }
    std::reverse(planned_.begin(), planned_.end());
  }

  template <typename Make>
  void add(int output, std::vector<int> nodes, Make make) {
    Planned planned;
    planned.output = output;
    planned.make = make;
    for (int& each : nodes) {
      each = root(each);
      needed_[each] = true;
    }
    planned.nodes = std::move(nodes);
    planned_.push_back(std::move(planned));
  }

  void choose_step(int i) {
    if (choose_linear(i) || choose_affine(i)) return;
    const Node& n = node(i);
    switch (n.kind) {
      case Kind::kEmbedding:
        return add(i, {}, [i](const Planner& p, const Planned&, int64_t,
                              std::unique_ptr<Step>* step) {
          *step = make_embedding(*p.node(i).kernel, p.place(i));
          return Status{};
        });
      case Kind::kCropping: return add_copy(i, n.inputs[0], n.first * n.channels(), 0, true);
      case Kind::kUpsampling:
      case Kind::kAveragePooling:
      case Kind::kMaxPooling:
        return add(i, {n.inputs[0]}, [i](const Planner& p, const Planned&, int64_t,
                                         std::unique_ptr<Step>* step) {
          const int input = p.node(i).inputs[0];
          const auto make = p.node(i).kind == Kind::kUpsampling ? make_upsampling : make_pooling;
          *step = make(p.node(i), p.node(input), p.place(input), p.place(i));
          return Status{};
        });
      case Kind::kConcatenate: return add_concatenation(i);
      case Kind::kAttention: return add_attention(i);
      default: return add_binary(i);
    }
  }

  // A layer with a kernel, perhaps with an addition and an activation after it.
  bool choose_linear(int i) {
    Linear layer;
    int at = i;
    if (node(at).kind == Kind::kActivation) {
      layer.activation = node(at).activation;
      at = node(at).inputs[0];
      if (users_[at] != 1) return false;
    }
    int addend = -1;
    if (node(at).kind == Kind::kAdd && node(at).inputs.size() == 2) {
      int found = -1;
      for (const int side : {0, 1}) {
        const int input = node(at).inputs[side], other = node(at).inputs[1 - side];
        if (node(input).is_linear_layer() && users_[input] == 1 &&
            node(input).activation.is_linear() && node(input).shape == node(at).shape &&
            node(other).shape == node(at).shape) {
          found = input;
          addend = other;
        }
      }
      if (found < 0) return false;
      at = found;
    }
    const Node& n = node(at);
    if (!n.is_linear_layer() || (at != i && !n.activation.is_linear())) return false;
    if (at == i) layer.activation = n.activation;
    if (addend >= 0 && node(addend).kind == Kind::kUpsampling && is_nearest(node(addend))) {
      layer.addend_upsampling = node(addend).strides.height;
      addend = node(addend).inputs[0];
    }
    layer.kernel = n.kernel;
    layer.bias = n.bias;
    int scale = -1, shift = -1;
    const int input = choose_input(n, &layer, &scale, &shift);
    std::vector<int> nodes{input};
    if (scale >= 0) nodes.insert(nodes.end(), {scale, shift});
    if (addend >= 0) nodes.push_back(addend);
    const bool by_image = scale >= 0, has_addend = addend >= 0;
    add(i, nodes, [layer, by_image, has_addend](const Planner& p, const Planned& planned, int64_t max_images,
                          std::unique_ptr<Step>* step) {
      Linear placed = layer;
      placed.input = p.place(planned.nodes[0]);
      if (by_image) placed.image_scale = p.place(planned.nodes[1]);
      if (by_image) placed.image_shift = p.place(planned.nodes[2]);
      if (has_addend) placed.addend = p.place(planned.nodes.back());
      placed.output = p.place(planned.output);
      return make_linear(placed, p.code_, max_images, p.num_threads_, planned.temporary, step);
    });
    planned_.back().temporary_size = temporary_size(layer, code_);
    if (i != root(graph_.output) && layer.can_be_half(code_)) {  // Images are never rounded.
      planned_.back().output = as_half(i);
      for (int& each : planned_.back().nodes) each = as_half(each);
    }
    return true;
  }

  // Fills in the window of a layer and what is done to its input. Returns the node that it reads.
  //   image_scale, image_shift: receive the nodes of those of each image, if there are any.
  int choose_input(const Node& n, Linear* layer, int* image_scale, int* image_shift) const {
    Window& w = layer->window;
    layer->inputs = node(n.inputs[0]).channels();
    layer->outputs = n.channels();
    if (n.kind == Kind::kDense) {
      w.height = w.input_height = n.size() / layer->outputs;
    } else {
      const auto& shape = node(n.inputs[0]).shape;
      w.input_height = shape[0];
      w.input_width = shape[1];
      w.height = n.shape[0];
      w.width = n.shape[1];
      w.size = n.window;
      w.strides = n.strides;
      w.padding = n.padding;
      w.transposed = n.kind == Kind::kTransposedConvolution;
    }
    int at = n.inputs[0];
    const bool is_sparse = layer->is_sparse();
    for (;; at = node(at).inputs[0]) {
      const Node& before = node(at);
      if (is_nearest(before) && n.kind != Kind::kDense) {
        w.upsampling *= before.strides.height;
      } else if (is_sparse && before.kind == Kind::kActivation &&
                 before.activation.is_plain_relu() && !layer->relu && !layer->scale) {
        layer->relu = true;
      } else if (is_sparse && before.kind == Kind::kScale && !layer->scale) {
        layer->scale = before.kernel;
        layer->shift = before.bias;
      } else if (int tensor; is_sparse && !layer->scale &&
                             is_affine_by_image(at, &tensor, image_scale, image_shift)) {
        return tensor;
      } else {
        return at;
      }
    }
  }

  // Whether a node is tensor * scale + shift, with a scale and shift of each image.
  bool is_affine_by_image(int i, int* tensor, int* scale, int* shift) const {
    int scaled, of_sum, of_product;
    if (!is_by_channel(i, Kind::kAdd, &scaled, &of_sum) ||
        !is_by_channel(scaled, Kind::kMultiply, tensor, &of_product)) {
      return false;
    }
    *scale = of_product;
    *shift = of_sum;
    return true;
  }

  // Whether a node is the sum (product) of a tensor and one number for each of its channels.
  bool is_by_channel(int i, Kind kind, int* tensor, int* vector) const {
    const Node& n = node(i);
    if (n.kind != kind || n.inputs.size() != 2) return false;
    for (const int side : {0, 1}) {
      *tensor = n.inputs[side];
      *vector = n.inputs[1 - side];
      if (node(*tensor).shape == n.shape && is_vector_for(*vector, *tensor)) return true;
    }
    return false;
  }

  // Whether a node's tensor has one number for each channel of another's.
  bool is_vector_for(int vector, int tensor) const {
    return node(vector).size() == node(tensor).channels() &&
           node(vector).channels() == node(tensor).channels() && vector != tensor;
  }

  // x * scale + shift, channel by channel, and an activation: any of these, in this order.
  bool choose_affine(int i) {
    Affine affine;
    int at = i, shift = -1, scale = -1;
    bool found = false;
    const auto can_go_on = [&] { return at == i || users_[at] == 1; };
    if (node(at).kind == Kind::kActivation) {
      affine.activation = node(at).activation;
      at = node(at).inputs[0];
      found = true;
    }
    if (can_go_on() && node(at).kind == Kind::kScale) {
      affine.scale = node(at).kernel;
      affine.shift = node(at).bias;
      at = node(at).inputs[0];
      found = true;
    } else {
      const auto take = [&](Kind kind, int* vector) {
        int tensor, other;
        if (!can_go_on() || !is_by_channel(at, kind, &tensor, &other)) return;
        *vector = other;
        at = tensor;
        found = true;
      };
      take(Kind::kAdd, &shift);
      take(Kind::kMultiply, &scale);
    }
    if (!found) return false;
    affine.channels = node(i).channels();
    affine.rows = node(i).size() / affine.channels;
    std::vector<int> nodes{at};
    for (const int vector : {scale, shift}) {
      if (vector >= 0) nodes.push_back(vector);
    }
    const bool has_scale = scale >= 0, has_shift = shift >= 0;
    add(i, nodes, [affine, has_scale, has_shift](const Planner& p, const Planned& planned,
                                                 int64_t, std::unique_ptr<Step>* step) {
      Affine placed = affine;
      placed.input = p.place(planned.nodes[0]);
      placed.output = p.place(planned.output);
      if (has_scale) placed.image_scale = p.place(planned.nodes[1]);
      if (has_shift) placed.image_shift = p.place(planned.nodes[has_scale ? 2 : 1]);
      *step = make_affine(placed, p.code_);
      return Status{};
    });
    planned_.back().takes_halves = true;
    return true;
  }

  // Copies a tensor out of a longer one, or into one.
  void add_copy(int i, int input, int64_t first, int64_t target, bool is_part) {
    add(i, {input}, [=](const Planner& p, const Planned& planned, int64_t,
                        std::unique_ptr<Step>* step) {
      Copy copy;
      copy.input = p.place(planned.nodes[0]);
      copy.output = p.place(i);
      copy.length = is_part ? copy.output.size : copy.input.size;
      copy.first = first;
      copy.target = target;
      *step = make_copy(copy);
      return Status{};
    });
  }

  // One copy for each input.
  void add_concatenation(int i) {
    const Node& n = node(i);
    int64_t after = 1;  // Floats between neighbours along the axis.
    for (size_t k = n.axis + 1; k < n.shape.size(); ++k) after *= n.shape[k];
    int64_t target = n.shape[n.axis] * after;
    for (size_t k = n.inputs.size(); k-- > 0;) {  // Steps are made from the last to the first.
      const int64_t length = node(n.inputs[k]).shape[n.axis] * after;
      target -= length;
      const int64_t stride = n.shape[n.axis] * after;
      add(i, {n.inputs[k]}, [=](const Planner& p, const Planned& planned, int64_t,
                                std::unique_ptr<Step>* step) {
        Copy copy;
        copy.input = p.place(planned.nodes[0]);
        copy.output = p.place(i);
        copy.count = copy.input.size / length;
        copy.length = copy.input_stride = length;
        copy.target = target;
        copy.output_stride = stride;
        *step = make_copy(copy);
        return Status{};
      });
      planned_.back().continues = k > 0;
    }
  }

  void add_attention(int i) {
    const Node &query = node(node(i).inputs[0]), &value = node(node(i).inputs[1]);
    Attention attention;
    attention.num_queries = query.shape[0];
    attention.depth = query.shape[1];
    attention.num_keys = value.shape[0];
    attention.num_values = value.shape[1];
    add(i, node(i).inputs, [attention](const Planner& p, const Planned& planned, int64_t,
                                       std::unique_ptr<Step>* step) {
      Attention placed = attention;
      placed.query = p.place(planned.nodes[0]);
      placed.value = p.place(planned.nodes[1]);
      placed.key = p.place(planned.nodes[2]);
      placed.output = p.place(planned.output);
      placed.temporary = planned.temporary;
      *step = make_attention(placed, p.code_);
      return Status{};
    });
    planned_.back().temporary_size = attention.temporary_size(code_);
  }

  // Sums and products of tensors: two first, then one more to the result each time.
  void add_binary(int i) {
    const std::vector<int> inputs = node(i).inputs;
    for (size_t k = inputs.size() - 1; k > 0; --k) {
      std::vector<int> nodes{inputs[k]};
      if (k == 1) nodes.insert(nodes.begin(), inputs[0]);
      const int a = k == 1 ? inputs[0] : i, b = inputs[k];
      add(i, nodes, [=](const Planner& p, const Planned&, int64_t, std::unique_ptr<Step>* step) {
        const Node& n = p.node(i);
        *step = make_binary(n.kind == Kind::kMultiply, n.shape, p.place(a), p.node(a).shape,
                            p.place(b), p.node(b).shape, p.place(i), p.code_);
        return Status{};
      });
      planned_.back().continues = k > 1;
    }
  }

  // Adds steps that convert the tensors that are not made in the precision in which they are read.
  void convert_tensors() {
    std::vector<bool> is_made(places_.size());
    for (int i = 0; i < num_nodes(); ++i) is_made[i] = node(i).kind == Kind::kInput;
    std::vector<Planned> all;
    for (Planned& planned : planned_) {
      if (planned.takes_halves && !is_made[planned.nodes[0]]) {
        planned.nodes[0] = as_half(planned.nodes[0]);
      }
      for (const int tensor : planned.nodes) {
        if (is_made[tensor]) continue;
        Planned conversion;
        conversion.nodes = {in_other_precision(tensor)};
        conversion.output = tensor;
        conversion.make = [](const Planner& p, const Planned& planned, int64_t,
                             std::unique_ptr<Step>* step) {
          *step = make_conversion(p.place(planned.nodes[0]), p.place(planned.output), p.code_);
          return Status{};
        };
        all.push_back(std::move(conversion));
        is_made[tensor] = true;
      }
      is_made[planned.output] = true;
      all.push_back(std::move(planned));
    }
    planned_ = std::move(all);
  }

  Place images() const {
    Place place;
    place.where = Place::kImages;
    place.size = node(graph_.output).size();
    return place;
  }

  void place_tensors() {
    for (size_t i = 0; i < planned_.size(); ++i) {
      for (const int each : planned_[i].nodes) last_use_[each] = static_cast<int64_t>(i);
    }
    for (size_t i = 0; i < planned_.size(); ++i) {
      if (planned_[i].continues) {
        auto& last = last_use_[planned_[i].output];
        last = std::max(last, static_cast<int64_t>(i));
      }
    }
    Place& latents = places_[graph_.latents];
    latents.where = Place::kLatents;
    latents.size = node(graph_.latents).size();
    if (copies_input_) return;
    places_[root(graph_.output)] = images();
    for (size_t i = 0; i < planned_.size(); ++i) {
      const int output = planned_[i].output;
      Place& place = places_[output];
      if (place.is_there()) continue;
      place.where = Place::kArena;
      place.is_half = is_half(output);
      place.size = node(place.is_half ? output - num_nodes() : output).size();
      const int64_t floats = place.is_half ? (place.size + 1) / 2 : place.size;
      place.offset = arena_.reserve(floats, static_cast<int64_t>(i), last_use_[output]);
    }
  }

  void place_temporary(int64_t i) {
    Planned& planned = planned_[i];
    if (planned.temporary_size == 0) return;
    planned.temporary.where = Place::kArena;
    planned.temporary.size = planned.temporary_size;
    planned.temporary.offset = arena_.reserve(planned.temporary_size, i, i);
  }

  const Graph& graph_;
  const MachineCode& code_;
  int num_threads_;
  std::vector<int> users_;
  std::vector<bool> needed_;
  std::vector<Place> places_;
  std::vector<int64_t> last_use_;
  std::vector<Planned> planned_;
  Arena arena_;
  bool copies_input_ = false;
};

}  // namespace

Status make_plan(Graph graph, const MachineCode& code, int num_threads, Plan* plan) {
  graph = with_upsampling_last(graph);
  return Planner(graph, code, num_threads).make(plan);
}

}  // namespace stugan
