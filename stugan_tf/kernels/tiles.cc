// The inner loops, on portable vector extensions of GCC and Clang.
//
// Compiled once for each instruction set, with -DINSTRUCTION_SET, -DLANES, -DTILE_HEIGHT and
// -DTILE_WIDTH; with -DSTUGAN_INFERENCE without what only training needs. Includes nothing that has
// inline functions: the linker keeps one copy of those, which might be one that this machine cannot
// run.

#include "sparse_convolution.h"

namespace stugan {
namespace {

constexpr int L = LANES;

typedef float Vector __attribute__((vector_size(4 * L), aligned(4 * L), may_alias));
typedef float Unaligned __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef int32_t Indices __attribute__((vector_size(4 * L)));

static_assert(L == 4 || L == 8 || L == 16, "transpose() knows these");

// The numbers from 0 to n - 1 as arguments of a template: Numbers<0, 1, ..., n - 1>.
template <int... i>
struct Numbers {};
template <int n, int... i>
struct Count : Count<n - 1, n - 1, i...> {};
template <int... i>
struct Count<0, i...> {
  typedef Numbers<i...> type;
};

// Lane i of the result is lane Order::lane(i) of a and b, b's being counted from L on. The compilers
// take constants only.
template <typename Order, int... i>
inline Vector shuffle(Vector a, Vector b, Numbers<i...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Order::lane(i)...);
#else
  return __builtin_shuffle(a, b, Indices{Order::lane(i)...});
#endif
}

template <typename Order>
inline Vector shuffle(Vector a, Vector b) {
  return shuffle<Order>(a, b, typename Count<L>::type());
}

// a0 b0 a2 b2 ... for n = 1, a0 a1 b0 b1 a4 a5 ... for n = 2.
template <int n>
struct Low {
  static constexpr int lane(int i) { return i & n ? L + i - n : i; }
};

// a1 b1 a3 b3 ... for n = 1.
template <int n>
struct High {
  static constexpr int lane(int i) { return i & n ? L + i : i + n; }
};

// Swaps the off-diagonal halves of every 2n x 2n block of the matrix whose rows i and i + n are a
// and b: one butterfly of a transposition.
template <int n>
inline void butterfly(Vector& a, Vector& b) {
  const Vector mixed = shuffle<Low<n>>(a, b);
  b = shuffle<High<n>>(a, b);
  a = mixed;
}

template <int n>
inline void butterflies(Vector* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    if (!(i & n)) butterfly<n>(rows[i], rows[i + n]);
  }
}

inline void transpose(Vector* rows) {
  if constexpr (L >= 16) butterflies<8>(rows);
  if constexpr (L >= 8) butterflies<4>(rows);
  butterflies<2>(rows);
  butterflies<1>(rows);
}

// NaN stays NaN.
inline Vector rectified(Vector x) { return x < Vector{} ? Vector{} : x; }

enum Before { kNothing, kAlike, kByImage };  // What is done to values that are packed.

template <Before how>
void pack(const float* const* sources, int64_t num_pixels, int64_t channels,
          const Prologue& before, float* packed) {
  const int64_t stride = num_pixels * L;
  for (int64_t pixel = 0; pixel < num_pixels; ++pixel) {
    const float* const* source = sources + pixel * L;
    float* target = packed + pixel * L;
    Vector inside;
    for (int lane = 0; lane < L; ++lane) inside[lane] = source[lane] ? 1 : 0;
    int64_t channel = 0;
    for (; channel + L <= channels; channel += L) {
      Vector rows[L];
#pragma GCC unroll 16
      for (int lane = 0; lane < L; ++lane) {
        rows[lane] = source[lane] ? Vector(*(const Unaligned*)(source[lane] + channel)) : Vector{};
        if (how == kByImage && source[lane]) {
          const int64_t i = pixel * L + lane;
          rows[lane] = rows[lane] * *(const Unaligned*)(before.scales[i] + channel) +
                       *(const Unaligned*)(before.shifts[i] + channel);
        }
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        Vector row = rows[i];
        if (how == kByImage && before.relu) row = rectified(row);
        if (how == kAlike) {
          if (before.scale) row = row * before.scale[channel + i] + before.shift[channel + i];
          if (before.relu) row = rectified(row);
          if (before.scale) row *= inside;  // The padding comes after all this.
        }
        *(Vector*)(target + (channel + i) * stride) = row;
      }
    }
    for (; channel < channels; ++channel) {
      for (int lane = 0; lane < L; ++lane) {
        float value = source[lane] ? source[lane][channel] : 0;
        if (how != kNothing && source[lane]) {
          const int64_t i = pixel * L + lane;
          if (how == kByImage) {
            value = value * before.scales[i][channel] + before.shifts[i][channel];
          } else if (before.scale) {
            value = value * before.scale[channel] + before.shift[channel];
          }
          if (before.relu) value = value < 0 ? 0 : value;
        }
        target[channel * stride + lane] = value;
      }
    }
  }
}

void pack_any(const float* const* sources, int64_t num_pixels, int64_t channels,
              const Prologue& before, float* packed) {
  if (before.scales) {
    pack<kByImage>(sources, num_pixels, channels, before, packed);
  } else if (before.scale || before.relu) {
    pack<kAlike>(sources, num_pixels, channels, before, packed);
  } else {
    pack<kNothing>(sources, num_pixels, channels, before, packed);
  }
}

void unpack(const float* packed, int64_t num_pixels, int64_t channels, const float* bias,
            const float* const* addends, bool relu, float* const* targets) {
  const int64_t stride = num_pixels * L;
  for (int64_t pixel = 0; pixel < num_pixels; ++pixel) {
    float* const* target = targets + pixel * L;
    const float* const* addend = addends + (addends ? pixel * L : 0);
    const float* source = packed + pixel * L;
    int64_t channel = 0;
    for (; channel + L <= channels; channel += L) {
      const Vector shift = bias ? Vector(*(const Unaligned*)(bias + channel)) : Vector{};
      Vector rows[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) rows[i] = *(const Vector*)(source + (channel + i) * stride);
      transpose(rows);
#pragma GCC unroll 16
      for (int lane = 0; lane < L; ++lane) {
        if (!target[lane]) continue;
        Vector row = rows[lane] + shift;
        if (addends) row += *(const Unaligned*)(addend[lane] + channel);
        if (relu) row = rectified(row);
        *(Unaligned*)(target[lane] + channel) = row;
      }
    }
    for (; channel < channels; ++channel) {
      for (int lane = 0; lane < L; ++lane) {
        if (!target[lane]) continue;
        float value = source[channel * stride + lane] + (bias ? bias[channel] : 0);
        if (addends) value += addend[lane][channel];
        target[lane][channel] = relu && value < 0 ? 0 : value;
      }
    }
  }
}

// out[H][W] = products of the non-zeros begin, ..., end - 1 with their shifted tiles, + out itself
// unless `first`.
template <int H, int W>
inline void add_products(const float* x, int64_t row_stride, const int32_t* offsets,
                         const float* values, int32_t begin, int32_t end, bool first,
                         Vector* out) {
  Vector sums[H * W];
#pragma GCC unroll 16
  for (int i = 0; i < H * W; ++i) sums[i] = first ? Vector{} : out[i];
  for (int32_t j = begin; j < end; ++j) {
    const float* const shifted = x + offsets[j];
    const float value = values[j];
#pragma GCC unroll 16
    for (int i = 0; i < H * W; ++i) {
      sums[i] += value * *(const Vector*)(shifted + i / W * row_stride + i % W * L);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < H * W; ++i) out[i] = sums[i];
}

template <int H, int W>
void convolve(const float* x, int64_t row_stride, const int32_t* offsets, const float* values,
              const int32_t* begin, int64_t num_outputs, bool first, float* y) {
  for (int64_t output = 0; output < num_outputs; ++output) {
    add_products<H, W>(x, row_stride, offsets, values, begin[output], begin[output + 1], first,
                       (Vector*)y + output * H * W);
  }
}

template <int H, int W>
void convolve_small(const float* x, int64_t row_stride, const int32_t* offsets,
                    const float* values, const int32_t* begin, int64_t num_outputs, bool first,
                    float* sums) {
  Vector* out = (Vector*)sums;
  for (int64_t output = 0; output < num_outputs; ++output, begin += 4) {
    add_products<H, W>(x, row_stride, offsets, values, begin[0], begin[1], first, out);
    out += H * W;
    add_products<H, W + 1>(x, row_stride, offsets, values, begin[1], begin[2], first, out);
    out += H * (W + 1);
    add_products<H + 1, W>(x, row_stride, offsets, values, begin[2], begin[3], first, out);
    out += (H + 1) * W;
    add_products<H + 1, W + 1>(x, row_stride, offsets, values, begin[3], begin[4], first, out);
    out += (H + 1) * (W + 1);
  }
}

template <int H, int W>
void upsample(const float* sums, int64_t num_outputs, float* y) {
  const Vector* even = (const Vector*)sums;
  Vector* out = (Vector*)y;
  for (int64_t output = 0; output < num_outputs; ++output) {
    const Vector* const odd_columns = even + H * W;
    const Vector* const odd_rows = odd_columns + H * (W + 1);
    const Vector* const odd = odd_rows + (H + 1) * W;
    for (int row = 0; row < 2 * H; ++row, out += 2 * W) {
      const int above = row / 2, below = (row + 1) / 2;
      Vector left[W], right[W + 1];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) left[i] = even[above * W + i] + odd_rows[below * W + i];
#pragma GCC unroll 16
      for (int i = 0; i <= W; ++i) {
        right[i] = odd_columns[above * (W + 1) + i] + odd[below * (W + 1) + i];
      }
#pragma GCC unroll 16
      for (int i = 0; i < 2 * W; ++i) out[i] = left[i / 2] + right[(i + 1) / 2];
    }
    even = odd + (H + 1) * (W + 1);
  }
}

#ifndef STUGAN_INFERENCE

void sum_neighbours(const float* packed, int64_t channels, int64_t rows, int64_t columns,
                    float* sums) {
  const int64_t num_even = columns / 2;
  const Vector* in = (const Vector*)packed;
  Vector* out = (Vector*)sums;
  for (int64_t channel = 0; channel < channels; ++channel, in += columns) {
    for (int64_t row = 0; row + 1 < rows; ++row, in += columns, out += columns - 1) {
      Vector left = in[0] + in[columns];
      for (int64_t column = 0; column + 1 < columns; ++column) {
        const Vector right = in[column + 1] + in[columns + column + 1];
        out[column % 2 * num_even + column / 2] = left + right;
        left = right;
      }
    }
  }
}

// The sums over the lanes of each of four vectors.
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

inline Four sum_lanes(Vector a, Vector b, Vector c, Vector d) {
  const Vector ab = shuffle<Low<1>>(a, b) + shuffle<High<1>>(a, b);
  const Vector cd = shuffle<Low<1>>(c, d) + shuffle<High<1>>(c, d);
  const Vector abcd = shuffle<Low<2>>(ab, cd) + shuffle<High<2>>(ab, cd);  // a b c d a b c d ...
  Four sums = Four{};
#pragma GCC unroll 4
  for (int i = 0; i < L / 4; ++i) sums += ((const Four*)&abcd)[i];
  return sums;
}

template <int H, int W>
void correlate(const float* x, int64_t row_stride, const int32_t* offsets, const int32_t* begin,
               int64_t num_outputs, const float* y, float* sums) {
  for (int64_t output = 0; output < num_outputs; ++output) {
    Vector gradient[H * W];
#pragma GCC unroll 16
    for (int i = 0; i < H * W; ++i) gradient[i] = ((const Vector*)y)[output * H * W + i];
    int32_t j = begin[output];
    for (; j + 4 <= begin[output + 1]; j += 4) {
      Vector products[4] = {};
#pragma GCC unroll 16
      for (int i = 0; i < H * W; ++i) {
        const float* const pixel = x + i / W * row_stride + i % W * L;
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          products[k] += gradient[i] * *(const Vector*)(pixel + offsets[j + k]);
        }
      }
      *(Four*)(sums + j) += sum_lanes(products[0], products[1], products[2], products[3]);
    }
    for (; j < begin[output + 1]; ++j) {
      Vector products[4] = {};  // Four, because one would wait for itself.
      const float* const shifted = x + offsets[j];
#pragma GCC unroll 16
      for (int i = 0; i < H * W; ++i) {
        products[i % 4] += gradient[i] * *(const Vector*)(shifted + i / W * row_stride + i % W * L);
      }
      const Four four = sum_lanes(products[0], products[1], products[2], products[3]);
      sums[j] += (four[0] + four[1]) + (four[2] + four[3]);
    }
  }
}

void moments(const float* x, int64_t rows, int64_t channels, double* sums) {
  double* const squares = sums + channels;
  for (int64_t row = 0; row < rows; ++row, x += channels) {
    for (int64_t i = 0; i < channels; ++i) {
      const double value = x[i];
      sums[i] += value;
      squares[i] += value * value;
    }
  }
}

// L numbers in registers; as a type, without the attributes that templates would lose.
typedef float Lanes __attribute__((vector_size(4 * L)));

inline void load(const float* from, Lanes* to) { *to = *(const Unaligned*)from; }
inline void load(const float* from, float* to) { *to = *from; }
inline void store(Lanes value, float* to) { *(Unaligned*)to = value; }
inline void store(float value, float* to) { *to = value; }

template <typename Float>
inline Float loaded(const float* from) {
  Float value;
  load(from, &value);
  return value;
}

// What a normalization lets through of its output's gradient, for L channels or one.
template <typename Float>
struct Channel {
  Float mean, inverse_deviation, gamma, beta;

  Channel(const Normalization& of, int64_t i)
      : mean(loaded<Float>(of.mean + i)),
        inverse_deviation(loaded<Float>(of.inverse_deviation + i)),
        gamma(loaded<Float>(of.gamma + i)),
        beta(loaded<Float>(of.beta + i)) {}

  Float normalized(Float x) const { return (x - mean) * inverse_deviation; }

  Float through(Float normalized, Float gradient, bool relu) const {
    const Float zero = Float();
    return relu ? (gamma * normalized + beta > zero ? gradient : zero) : gradient;
  }
};

template <typename Float>
inline void add_row(const float* x, const float* gradient, int64_t channels,
                    const Normalization& of, int64_t i, float* sums) {
  const Channel<Float> channel(of, i);
  const Float normalized = channel.normalized(loaded<Float>(x + i));
  const Float through = channel.through(normalized, loaded<Float>(gradient + i), of.relu);
  store(loaded<Float>(sums + i) + through, sums + i);
  store(loaded<Float>(sums + channels + i) + through * normalized, sums + channels + i);
}

void normalization_sums(const float* x, const float* gradient, int64_t rows, int64_t channels,
                        const Normalization& of, float* sums) {
  for (int64_t row = 0; row < rows; ++row, x += channels, gradient += channels) {
    int64_t i = 0;
    for (; i + L <= channels; i += L) add_row<Lanes>(x, gradient, channels, of, i, sums);
    for (; i < channels; ++i) add_row<float>(x, gradient, channels, of, i, sums);
  }
}

template <typename Float>
inline void write_row(const float* x, const float* gradient, int64_t channels,
                      const Normalization& of, const float* means, int64_t i, float* result) {
  const Channel<Float> channel(of, i);
  const Float normalized = channel.normalized(loaded<Float>(x + i));
  const Float through = channel.through(normalized, loaded<Float>(gradient + i), of.relu);
  const Float centered = through - loaded<Float>(means + i) -
                         normalized * loaded<Float>(means + channels + i);
  store(channel.gamma * channel.inverse_deviation * centered, result + i);
}

void normalization_gradient(const float* x, const float* gradient, int64_t rows, int64_t channels,
                            const Normalization& of, const float* means, float* result) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    int64_t i = 0;
    for (; i + L <= channels; i += L) {
      write_row<Lanes>(x + at, gradient + at, channels, of, means, i, result + at);
    }
    for (; i < channels; ++i) {
      write_row<float>(x + at, gradient + at, channels, of, means, i, result + at);
    }
  }
}

#endif  // STUGAN_INFERENCE

}  // namespace

const InstructionSet INSTRUCTION_SET = {
    L,
    {{TILE_HEIGHT, TILE_WIDTH}, {2, 2}},
    pack_any,
    unpack,
    {convolve<TILE_HEIGHT, TILE_WIDTH>, convolve<2, 2>},
    {convolve_small<TILE_HEIGHT, TILE_WIDTH>, convolve_small<2, 2>},
    {upsample<TILE_HEIGHT, TILE_WIDTH>, upsample<2, 2>},
#ifndef STUGAN_INFERENCE
    sum_neighbours,
    {correlate<TILE_HEIGHT, TILE_WIDTH>, correlate<2, 2>},
    moments,
    normalization_sums,
    normalization_gradient,
#endif
};

}  // namespace stugan
