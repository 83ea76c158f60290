#include "steps.h"

#include <cmath>
#include <limits>

#include "activations.h"

namespace stugan {
namespace {

std::vector<float> numbers(const Weight* weight) {
  return weight ? weight->dense() : std::vector<float>();
}

class AffineStep : public Step {
 public:
  AffineStep(const Affine& affine, const MachineCode& code)
      : affine_(affine), code_(code), scale_(numbers(affine.scale)), shift_(numbers(affine.shift)) {
    affine_.scale = affine_.shift = nullptr;  // Of the file.
  }

  int64_t weight_bytes() const override {
    return static_cast<int64_t>((scale_.size() + shift_.size()) * sizeof(float));
  }

  std::string name() const override { return "scale and shift"; }

  void run(const Run& run) const override {
    const int64_t channels = affine_.channels, size = affine_.rows * channels;
    const float* const input = affine_.input.is_half ? nullptr : run.at(affine_.input);
    const Half* const halves = affine_.input.is_half ? run.numbers<Half>(affine_.input) : nullptr;
    const float* const scales = run.at(affine_.image_scale);
    const float* const shifts = run.at(affine_.image_shift);
    float* const output = run.at(affine_.output);
    const bool relu = affine_.activation.is_plain_relu();
    run.parallel_ranges(affine_.rows, channels, [&](int64_t image, int64_t first, int64_t last) {
      const int64_t at = image * size + first * channels;
      const float* const scale = scales ? scales + image * channels : data(scale_);
      const float* const shift = shifts ? shifts + image * channels : data(shift_);
      if (halves) code_.halves->widen(halves + at, (last - first) * channels, output + at);
      const float* const from = halves ? output + at : input + at;
      code_.loops->affine(from, last - first, channels, scale, shift, relu, output + at);
      if (!relu) {
        activate(*code_.loops, affine_.activation, output + at, last - first, channels);
      }
    });
  }

 private:
  static const float* data(const std::vector<float>& numbers) {
    return numbers.empty() ? nullptr : numbers.data();
  }

  Affine affine_;
  MachineCode code_;
  std::vector<float> scale_, shift_;
};

class ConversionStep : public Step {
 public:
  ConversionStep(Place input, Place output, const MachineCode& code)
      : input_(input), output_(output), code_(code) {}

  std::string name() const override {
    return output_.is_half ? "to float16" : "to float32";
  }

  void run(const Run& run) const override {
    const int64_t size = output_.size;
    run.parallel_ranges(size, 1, [&](int64_t image, int64_t first, int64_t last) {
      const int64_t at = image * size + first;
      if (output_.is_half) {
        code_.halves->narrow(run.at(input_) + at, last - first, run.numbers<Half>(output_) + at);
      } else {
        code_.halves->widen(run.numbers<Half>(input_) + at, last - first, run.at(output_) + at);
      }
    });
  }

 private:
  Place input_, output_;
  MachineCode code_;
};

class BinaryStep : public Step {
 public:
  BinaryStep(bool is_product, std::vector<int64_t> shape, Place a, std::vector<int64_t> a_shape,
             Place b, std::vector<int64_t> b_shape, Place output, const MachineCode& code)
      : is_product_(is_product),
        shape_(std::move(shape)),
        a_(a),
        b_(b),
        output_(output),
        code_(code) {
    a_strides_ = strides(std::move(a_shape));
    b_strides_ = strides(std::move(b_shape));
  }

  std::string name() const override { return is_product_ ? "product" : "sum"; }

  void run(const Run& run) const override {
    const float* const a = run.at(a_);
    const float* const b = run.at(b_);
    float* const output = run.at(output_);
    const int64_t length = shape_.back(), rows = output_.size / length;
    const bool is_plain = a_strides_.back() == 1 && b_strides_.back() == 1;
    const auto& row_of = is_product_ ? code_.loops->times : code_.loops->add;
    run.parallel_ranges(rows, length, [&](int64_t image, int64_t row, int64_t last) {
      for (; row < last; ++row) {
        const float* x = a + image * a_.size;
        const float* y = b + image * b_.size;
        int64_t rest = row;
        for (size_t k = shape_.size() - 1; k-- > 0;) {
          x += rest % shape_[k] * a_strides_[k];
          y += rest % shape_[k] * b_strides_[k];
          rest /= shape_[k];
        }
        float* const target = output + image * output_.size + row * length;
        if (is_plain) {
          row_of(x, y, length, target);
          continue;
        }
        for (int64_t i = 0; i < length; ++i, x += a_strides_.back(), y += b_strides_.back()) {
          target[i] = is_product_ ? *x * *y : *x + *y;
        }
      }
    });
  }

 private:
  // How far apart neighbours along each axis are; 0 where the tensor is repeated.
  std::vector<int64_t> strides(std::vector<int64_t> shape) const {
    while (shape.size() < shape_.size()) shape.insert(shape.begin(), 1);
    std::vector<int64_t> result(shape.size());
    int64_t stride = 1;
    for (size_t k = shape.size(); k-- > 0;) {
      result[k] = shape[k] == 1 && shape_[k] != 1 ? 0 : stride;
      stride *= shape[k];
    }
    return result;
  }

  bool is_product_;
  std::vector<int64_t> shape_, a_strides_, b_strides_;
  Place a_, b_, output_;
  MachineCode code_;
};

class EmbeddingStep : public Step {
 public:
  EmbeddingStep(const Weight& table, Place output) : table_(table.dense()), output_(output) {}

  int64_t weight_bytes() const override {
    return static_cast<int64_t>(table_.size() * sizeof(float));
  }

  std::string name() const override { return "embedding"; }

  void run(const Run& run) const override {
    for (int64_t i = 0; i < run.num_images(); ++i) {  // Labels were checked as they came in.
      const float* const row = table_.data() + run.labels[i] * output_.size;
      std::copy(row, row + output_.size, run.at(output_) + i * output_.size);
    }
  }

 private:
  std::vector<float> table_;
  Place output_;
};

class CopyStep : public Step {
 public:
  explicit CopyStep(const Copy& copy) : copy_(copy) {}

  std::string name() const override { return "copy"; }

  void run(const Run& run) const override {
    const float* const input = run.at(copy_.input) + copy_.first;
    float* const output = run.at(copy_.output) + copy_.target;
    run.parallel_ranges(copy_.count, copy_.length, [&](int64_t image, int64_t i, int64_t last) {
      for (; i < last; ++i) {
        const float* const from = input + image * copy_.input.size + i * copy_.input_stride;
        std::copy(from, from + copy_.length,
                  output + image * copy_.output.size + i * copy_.output_stride);
      }
    });
  }

 private:
  Copy copy_;
};

// A step that makes rows of pixels out of an image.
class ImageStep : public Step {
 public:
  ImageStep(const Node& node, const Node& input, Place from, Place to)
      : window_(node.window),
        factor_(node.strides),
        padding_(node.padding),
        from_(from),
        to_(to),
        height_(node.shape[0]),
        width_(node.shape[1]),
        channels_(node.shape[2]),
        input_height_(input.shape[0]),
        input_width_(input.shape[1]) {}

  void run(const Run& run) const override {
    const float* const from = run.at(from_);
    float* const to = run.at(to_);
    run.parallel_ranges(height_, width_ * channels_, [&](int64_t image, int64_t y, int64_t last) {
      for (; y < last; ++y) {
        make_row(from + image * from_.size, y, to + image * to_.size + y * width_ * channels_);
      }
    });
  }

 protected:
  virtual void make_row(const float* image, int64_t y, float* row) const = 0;

  const float* pixel(const float* image, int64_t y, int64_t x) const {
    return image + (y * input_width_ + x) * channels_;
  }

  Pair window_, factor_, padding_;
  Place from_, to_;
  int64_t height_, width_, channels_, input_height_, input_width_;
};

class Nearest : public ImageStep {
 public:
  using ImageStep::ImageStep;

  std::string name() const override { return "upsampling"; }

 protected:
  void make_row(const float* image, int64_t y, float* row) const override {
    for (int64_t x = 0; x < width_; ++x, row += channels_) {
      const float* const source = pixel(image, y / factor_.height, x / factor_.width);
      std::copy(source, source + channels_, row);
    }
  }
};

class Bilinear : public ImageStep {
 public:
  using ImageStep::ImageStep;

  std::string name() const override { return "bilinear upsampling"; }

 protected:
  struct Between {
    int64_t low, high;
    float weight;  // Of the higher one.
  };

  static Between between(int64_t at, int64_t factor, int64_t length) {
    const float source = (static_cast<float>(at) + 0.5f) / static_cast<float>(factor) - 0.5f;
    const float floor = std::floor(source);
    const auto low = static_cast<int64_t>(floor);
    const auto high = static_cast<int64_t>(std::ceil(source));
    return {std::max<int64_t>(low, 0), std::min(high, length - 1), source - floor};
  }

  void make_row(const float* image, int64_t y, float* row) const override {
    const Between rows = between(y, factor_.height, input_height_);
    for (int64_t x = 0; x < width_; ++x, row += channels_) {
      const Between columns = between(x, factor_.width, input_width_);
      const float* const corners[] = {
          pixel(image, rows.low, columns.low), pixel(image, rows.low, columns.high),
          pixel(image, rows.high, columns.low), pixel(image, rows.high, columns.high)};
      for (int64_t i = 0; i < channels_; ++i) {
        const float above = corners[0][i] + (corners[1][i] - corners[0][i]) * columns.weight;
        const float below = corners[2][i] + (corners[3][i] - corners[2][i]) * columns.weight;
        row[i] = above + (below - above) * rows.weight;
      }
    }
  }
};

template <bool is_average>
class Pooling : public ImageStep {
 public:
  using ImageStep::ImageStep;

  std::string name() const override { return "pooling"; }

 protected:
  void make_row(const float* image, int64_t y, float* row) const override {
    const int64_t top = y * factor_.height - padding_.height;
    for (int64_t x = 0; x < width_; ++x, row += channels_) {
      const int64_t left = x * factor_.width - padding_.width;
      const int64_t first_y = std::max<int64_t>(0, top), first_x = std::max<int64_t>(0, left);
      const int64_t last_y = std::min(input_height_, top + window_.height);
      const int64_t last_x = std::min(input_width_, left + window_.width);
      std::fill(row, row + channels_, is_average ? 0 : -std::numeric_limits<float>::infinity());
      for (int64_t v = first_y; v < last_y; ++v) {
        for (int64_t u = first_x; u < last_x; ++u) {
          const float* const source = pixel(image, v, u);
          for (int64_t i = 0; i < channels_; ++i) {
            row[i] = is_average ? row[i] + source[i] : std::max(row[i], source[i]);
          }
        }
      }
      if (!is_average) continue;
      const auto count = static_cast<float>((last_y - first_y) * (last_x - first_x));
      for (int64_t i = 0; i < channels_; ++i) row[i] /= count;  // What is there of the window.
    }
  }
};

class AttentionStep : public Step {
 public:
  AttentionStep(const Attention& attention, const MachineCode& code)
      : attention_(attention), code_(code) {}

  Needs needs(int64_t) const override {
    return {attention_.num_keys * code_.loops->rows, code_.loops->rows};
  }

  int64_t num_products() const override {
    const Attention& a = attention_;
    return a.num_queries * a.num_keys * (a.depth + a.num_values);
  }

  std::string name() const override { return "attention"; }

  void run(const Run& run) const override {
    pack(run);
    const Attention& a = attention_;
    const Loops& code = *code_.loops;
    const float* const queries = run.at(a.query);
    const float* const packed = run.at(a.temporary);
    float* const outputs = run.at(a.output);
    const int64_t num_blocks = (a.num_queries + code.rows - 1) / code.rows;
    run.parallel(run.num_images() * num_blocks, [&](int64_t unit, Scratch& scratch) {
      const int64_t image = unit / num_blocks, first = unit % num_blocks * code.rows;
      const int count = static_cast<int>(std::min<int64_t>(code.rows, a.num_queries - first));
      const float* const keys = packed + image * a.temporary.size;
      const float* const values = keys + panels(a.num_keys) * a.depth;
      float* const scores = scratch.floats.data();
      const float* from[kMaxRows];
      float* to[kMaxRows];
      const auto multiply = [&](int64_t inner, int64_t columns, const float* matrix,
                                float* result) {
        for (int64_t column = 0; column < columns; column += code.panel) {
          for (int i = 0; i < count; ++i) to[i] = result + i * columns + column;
          code.multiply(from, count, 1, inner, matrix + column * inner, nullptr, nullptr,
                        static_cast<int>(std::min<int64_t>(code.panel, columns - column)), to);
        }
      };
      for (int i = 0; i < count; ++i) {
        from[i] = queries + image * a.query.size + (first + i) * a.depth;
      }
      multiply(a.depth, a.num_keys, keys, scores);
      code.softmax(scores, count, a.num_keys);
      for (int i = 0; i < count; ++i) from[i] = scores + i * a.num_keys;
      multiply(a.num_keys, a.num_values, values,
               outputs + image * a.output.size + first * a.num_values);
    });
  }

 private:
  int64_t panels(int64_t columns) const {
    const int64_t panel = code_.loops->panel;
    return (columns + panel - 1) / panel * panel;
  }

  // Lays out keys and values of each image in panels of columns, filled up with zeros.
  void pack(const Run& run) const {
    const Attention& a = attention_;
    const int64_t panel = code_.loops->panel;
    const int64_t key_panels = panels(a.num_keys) / panel;
    const int64_t num_panels = key_panels + panels(a.num_values) / panel;
    float* const packed = run.at(a.temporary);
    run.parallel_ranges(num_panels, panel * a.depth, [&](int64_t image, int64_t p, int64_t last) {
      const float* const keys = run.at(a.key) + image * a.key.size;
      const float* const values = run.at(a.value) + image * a.value.size;
      float* const start = packed + image * a.temporary.size;
      for (; p < last; ++p) {
        const bool is_key = p < key_panels;
        const int64_t first = (is_key ? p : p - key_panels) * panel;
        const int64_t rows = is_key ? a.depth : a.num_keys;
        const int64_t columns = is_key ? a.num_keys : a.num_values;
        float* target = start + (is_key ? 0 : panels(a.num_keys) * a.depth) + first * rows;
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t i = first; i < first + panel; ++i, ++target) {
            *target = i >= columns ? 0
                      : is_key     ? keys[i * a.depth + row]
                                   : values[row * a.num_values + i];
          }
        }
      }
    });
  }

  Attention attention_;
  MachineCode code_;
};

}  // namespace

std::unique_ptr<Step> make_affine(const Affine& affine, const MachineCode& code) {
  return std::make_unique<AffineStep>(affine, code);
}

std::unique_ptr<Step> make_conversion(Place input, Place output, const MachineCode& code) {
  return std::make_unique<ConversionStep>(input, output, code);
}

std::unique_ptr<Step> make_binary(bool is_product, const std::vector<int64_t>& shape, Place a,
                                  std::vector<int64_t> a_shape, Place b,
                                  std::vector<int64_t> b_shape, Place output,
                                  const MachineCode& code) {
  return std::make_unique<BinaryStep>(is_product, shape, a, std::move(a_shape), b,
                                      std::move(b_shape), output, code);
}

std::unique_ptr<Step> make_embedding(const Weight& table, Place output) {
  return std::make_unique<EmbeddingStep>(table, output);
}

std::unique_ptr<Step> make_copy(const Copy& copy) { return std::make_unique<CopyStep>(copy); }

std::unique_ptr<Step> make_upsampling(const Node& node, const Node& input, Place from, Place to) {
  if (node.bilinear) return std::make_unique<Bilinear>(node, input, from, to);
  return std::make_unique<Nearest>(node, input, from, to);
}

std::unique_ptr<Step> make_pooling(const Node& node, const Node& input, Place from, Place to) {
  if (node.kind == Kind::kAveragePooling) {
    return std::make_unique<Pooling<true>>(node, input, from, to);
  }
  return std::make_unique<Pooling<false>>(node, input, from, to);
}

int64_t Attention::temporary_size(const MachineCode& code) const {
  const int64_t panel = code.loops->panel;
  const auto whole = [&](int64_t columns) { return (columns + panel - 1) / panel * panel; };
  return whole(num_keys) * depth + whole(num_values) * num_keys;
}

std::unique_ptr<Step> make_attention(const Attention& attention, const MachineCode& code) {
  return std::make_unique<AttentionStep>(attention, code);
}

}  // namespace stugan
