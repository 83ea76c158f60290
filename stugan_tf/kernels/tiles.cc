// The inner loops, on portable vector extensions of GCC and Clang.
//
// Compiled once for each instruction set, with -DINSTRUCTION_SET, -DLANES, -DTILE_HEIGHT and
// -DTILE_WIDTH. Includes nothing that has inline functions: the linker keeps one copy of those,
// which might be one that this machine cannot run.

#include "sparse_convolution.h"

namespace stugan {
namespace {

constexpr int L = LANES;

typedef float Vector __attribute__((vector_size(4 * L), aligned(4 * L), may_alias));
typedef float Unaligned __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef int32_t Indices __attribute__((vector_size(4 * L)));

static_assert(L == 4 || L == 8 || L == 16, "transpose() knows these");

inline Vector shuffle(Vector a, Vector b, Indices indices) {
  return __builtin_shuffle(a, b, indices);
}

// Swaps the off-diagonal halves of every 2n x 2n block of the matrix whose rows i and i + n are a
// and b: one butterfly of a transposition.
template <int n>
inline void butterfly(Vector& a, Vector& b) {
  Indices low, high;
  for (int i = 0; i < L; ++i) {
    low[i] = i & n ? L + i - n : i;
    high[i] = i & n ? L + i : i + n;
  }
  const Vector mixed = shuffle(a, b, low);
  b = shuffle(a, b, high);
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

// `is_plain`: nothing is done to the values.
template <bool is_plain>
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
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        Vector row = rows[i];
        if (!is_plain) {
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
        if (!is_plain && source[lane]) {
          if (before.scale) value = value * before.scale[channel] + before.shift[channel];
          if (before.relu) value = value < 0 ? 0 : value;
        }
        target[channel * stride + lane] = value;
      }
    }
  }
}

void pack_any(const float* const* sources, int64_t num_pixels, int64_t channels,
              const Prologue& before, float* packed) {
  if (before.scale || before.relu) {
    pack<false>(sources, num_pixels, channels, before, packed);
  } else {
    pack<true>(sources, num_pixels, channels, before, packed);
  }
}

template <int H, int W>
void pool(int64_t channels, float* packed) {
  for (int64_t channel = 0; channel < channels; ++channel) {
    const Vector* const in = (const Vector*)packed + channel * H * W;
    Vector* const out = (Vector*)packed + channel * H * W / 4;
    for (int y = 0; y < H; y += 2) {
      for (int x = 0; x < W; x += 2) {
        const Vector* const corner = in + y * W + x;
        out[y / 2 * (W / 2) + x / 2] = (corner[0] + corner[1]) + (corner[W] + corner[W + 1]);
      }
    }
  }
}

void unpack(const float* packed, int64_t num_pixels, int64_t channels, const float* bias,
            const float* const* addends, float* const* targets) {
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
        *(Unaligned*)(target[lane] + channel) = row;
      }
    }
    for (; channel < channels; ++channel) {
      for (int lane = 0; lane < L; ++lane) {
        if (!target[lane]) continue;
        const float value = source[channel * stride + lane] + (bias ? bias[channel] : 0);
        target[lane][channel] = addends ? value + addend[lane][channel] : value;
      }
    }
  }
}

template <int H, int W>
void convolve(const float* x, int64_t row_stride, const int32_t* offsets, const float* values,
              const int32_t* begin, int64_t num_outputs, bool first, float* y) {
  for (int64_t output = 0; output < num_outputs; ++output) {
    Vector* const out = (Vector*)y + output * H * W;
    Vector sums[H * W];
#pragma GCC unroll 16
    for (int i = 0; i < H * W; ++i) sums[i] = first ? Vector{} : out[i];
    for (int32_t j = begin[output]; j < begin[output + 1]; ++j) {
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
}

// The sums over the lanes of each of four vectors.
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

inline Four sum_lanes(Vector a, Vector b, Vector c, Vector d) {
  Indices even, odd, low, high;
  for (int i = 0; i < L; ++i) {
    even[i] = i & 1 ? L + i - 1 : i;  // a0 b0 a2 b2 ...
    odd[i] = i & 1 ? L + i : i + 1;   // a1 b1 a3 b3 ...
    low[i] = i & 2 ? L + i - 2 : i;
    high[i] = i & 2 ? L + i : i + 2;
  }
  const Vector ab = shuffle(a, b, even) + shuffle(a, b, odd);
  const Vector cd = shuffle(c, d, even) + shuffle(c, d, odd);
  const Vector abcd = shuffle(ab, cd, low) + shuffle(ab, cd, high);  // a b c d a b c d ...
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

// What a normalization lets through of its output's gradient, and the normalized input.
#define THROUGH(i)                                                              \
  const float normalized = (x[i] - of.mean[i]) * of.inverse_deviation[i];       \
  const bool passes = !of.relu || of.gamma[i] * normalized + of.beta[i] > 0;    \
  const float through = passes ? gradient[i] : 0;

void normalization_sums(const float* x, const float* gradient, int64_t rows, int64_t channels,
                        const Normalization& of, double* sums) {
  double* const gamma_sums = sums + channels;
  for (int64_t row = 0; row < rows; ++row, x += channels, gradient += channels) {
    for (int64_t i = 0; i < channels; ++i) {
      THROUGH(i)
      sums[i] += through;
      gamma_sums[i] += through * normalized;
    }
  }
}

void normalization_gradient(const float* x, const float* gradient, int64_t rows, int64_t channels,
                            const Normalization& of, const float* means, float* result) {
  for (int64_t row = 0; row < rows; ++row, x += channels, gradient += channels) {
    for (int64_t i = 0; i < channels; ++i) {
      THROUGH(i)
      result[row * channels + i] = of.gamma[i] * of.inverse_deviation[i] *
                                   (through - means[i] - normalized * means[channels + i]);
    }
  }
}

}  // namespace

#define TEXT(name) #name
#define NAME(name) TEXT(name)

const InstructionSet INSTRUCTION_SET = {
    NAME(INSTRUCTION_SET),
    L,
    {{TILE_HEIGHT, TILE_WIDTH}, {2, 2}},
    pack_any,
    {pool<TILE_HEIGHT, TILE_WIDTH>, pool<2, 2>},
    unpack,
    {convolve<TILE_HEIGHT, TILE_WIDTH>, convolve<2, 2>},
    {correlate<TILE_HEIGHT, TILE_WIDTH>, correlate<2, 2>},
    moments,
    normalization_sums,
    normalization_gradient,
};

}  // namespace stugan
