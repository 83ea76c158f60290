// Inner loops in half precision, on `_Float16` and the vector extensions of GCC and Clang.
//
// Compiled once for each instruction set, with -DHALVES and -DLANES, and for the emulation with
// -DSTUGAN_ROLLED: its loops stay loops. Like tiles.cc it includes nothing that has inline
// functions, except for intrinsics, which are never called as functions.

#include "halves.h"

#ifdef __AVX512FP16__
#include <immintrin.h>
#endif

namespace stugan {
namespace {

#ifdef STUGAN_ROLLED
#define UNROLLED
#else
#define UNROLLED _Pragma("GCC unroll 32")
#endif

constexpr int L = LANES;

typedef _Float16 Number __attribute__((may_alias));
typedef _Float16 Vector __attribute__((vector_size(2 * L), aligned(2 * L), may_alias));
typedef _Float16 Unaligned __attribute__((vector_size(2 * L), aligned(2), may_alias));
typedef uint32_t Pairs __attribute__((vector_size(2 * L)));  // Of neighbouring lanes.
typedef uint32_t Pair __attribute__((may_alias));
constexpr int P = L / 2;

static_assert(L == 8 || L == 32, "transpose() knows these");
static_assert(sizeof(TwoHalves) == sizeof(Pair), "weights are broadcast as pairs");

// As in tiles.cc: the numbers from 0 to n - 1 as arguments of a template.
template <int... i>
struct Numbers {};
template <int n, int... i>
struct Count : Count<n - 1, n - 1, i...> {};
template <int... i>
struct Count<0, i...> {
  typedef Numbers<i...> type;
};

template <typename Order, int... i>
inline Pairs shuffle(Pairs a, Pairs b, Numbers<i...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Order::pair(i)...);
#else
  return __builtin_shuffle(a, b, Pairs{Order::pair(i)...});
#endif
}

template <int n>
struct Low {
  static constexpr int pair(int i) { return i & n ? P + i - n : i; }
};

template <int n>
struct High {
  static constexpr int pair(int i) { return i & n ? P + i : i + n; }
};

// Swaps the off-diagonal halves of every 2n x 2n block of the matrix whose rows i and i + n are a
// and b. Single lanes are swapped by shifts, which are faster than shuffles.
template <int n>
inline void butterfly(Pairs& a, Pairs& b) {
  Pairs mixed;
  if constexpr (n == 1) {
    mixed = (a & 0xFFFFu) | (b << 16);
    b = (a >> 16) | (b & 0xFFFF0000u);
  } else {
    mixed = shuffle<Low<n / 2>>(a, b, typename Count<P>::type());
    b = shuffle<High<n / 2>>(a, b, typename Count<P>::type());
  }
  a = mixed;
}

template <int n>
inline void butterflies(Pairs* rows) {
UNROLLED
  for (int i = 0; i < L; ++i) {
    if (!(i & n)) butterfly<n>(rows[i], rows[i + n]);
  }
}

inline void transpose(Vector* vectors) {
  Pairs rows[L];
UNROLLED
  for (int i = 0; i < L; ++i) rows[i] = (Pairs)vectors[i];
  if constexpr (L >= 32) butterflies<16>(rows);
  if constexpr (L >= 16) butterflies<8>(rows);
  butterflies<4>(rows);
  butterflies<2>(rows);
  butterflies<1>(rows);
UNROLLED
  for (int i = 0; i < L; ++i) vectors[i] = (Vector)rows[i];
}

inline Vector load(const Half* from) { return *(const Unaligned*)from; }
inline _Float16 number(const Half* from) { return *(const Number*)from; }

// NaN stays NaN.
inline Vector rectified(Vector x) { return x < Vector{} ? Vector{} : x; }

// By way of a vector: of a choice between two numbers GCC 12 makes code that its assembler refuses.
inline _Float16 rectified_number(_Float16 x) { return rectified(Vector{} + x)[0]; }

enum Before { kNothing, kAlike, kByImage };  // What is done to values that are packed.

// Where the vector begins that has the channel `next`: the last one reaches back.
inline int64_t begin_of(int64_t next, int64_t channels) {
  return next + L <= channels ? next : channels - L;
}

// The same for fewer channels than a vector has lanes.
template <Before how>
void pack_few(const Half* const* sources, int64_t num_pixels, int64_t channels,
              const PrologueOf<Half>& before, Half* packed) {
  for (int64_t i = 0; i < num_pixels * L; ++i) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      Number value = sources[i] ? number(sources[i] + channel) : 0;
      if (how != kNothing && sources[i]) {
        if (how == kByImage) {
          value = value * number(before.scales[i] + channel) + number(before.shifts[i] + channel);
        } else if (before.scale) {
          value = value * number(before.scale + channel) + number(before.shift + channel);
        }
        if (before.relu) value = rectified_number(value);
      }
      *(Number*)(packed + channel * num_pixels * L + i) = value;
    }
  }
}

template <Before how>
void pack(const Half* const* sources, int64_t num_pixels, int64_t channels,
          const PrologueOf<Half>& before, Half* packed) {
  if (channels < L) return pack_few<how>(sources, num_pixels, channels, before, packed);
  const int64_t stride = num_pixels * L;
  for (int64_t pixel = 0; pixel < num_pixels; ++pixel) {
    const Half* const* source = sources + pixel * L;
    Half* target = packed + pixel * L;
    Vector inside;
    for (int lane = 0; lane < L; ++lane) ((Number*)&inside)[lane] = source[lane] ? 1 : 0;
    for (int64_t next = 0; next < channels; next += L) {
      const int64_t channel = begin_of(next, channels);
      Vector rows[L];
UNROLLED
      for (int lane = 0; lane < L; ++lane) {
        rows[lane] = source[lane] ? load(source[lane] + channel) : Vector{};
        if (how == kByImage && source[lane]) {
          const int64_t i = pixel * L + lane;
          rows[lane] = rows[lane] * load(before.scales[i] + channel) +
                       load(before.shifts[i] + channel);
        }
      }
      transpose(rows);
UNROLLED
      for (int i = 0; i < L; ++i) {
        Vector row = rows[i];
        if (how == kByImage && before.relu) row = rectified(row);
        if (how == kAlike) {
          if (before.scale) {
            row = row * number(before.scale + channel + i) + number(before.shift + channel + i);
          }
          if (before.relu) row = rectified(row);
          if (before.scale) row *= inside;  // The padding comes after all this.
        }
        *(Vector*)(target + (channel + i) * stride) = row;
      }
    }
  }
}

void pack_any(const Half* const* sources, int64_t num_pixels, int64_t channels,
              const PrologueOf<Half>& before, Half* packed) {
  if (before.scales) {
    pack<kByImage>(sources, num_pixels, channels, before, packed);
  } else if (before.scale || before.relu) {
    pack<kAlike>(sources, num_pixels, channels, before, packed);
  } else {
    pack<kNothing>(sources, num_pixels, channels, before, packed);
  }
}

void unpack_few(const Half* packed, int64_t num_pixels, int64_t channels, const Half* bias,
                const Half* const* addends, bool relu, Half* const* targets) {
  for (int64_t i = 0; i < num_pixels * L; ++i) {
    if (!targets[i]) continue;
    for (int64_t channel = 0; channel < channels; ++channel) {
      Number value = number(packed + channel * num_pixels * L + i);
      value += bias ? number(bias + channel) : 0;
      if (addends) value += number(addends[i] + channel);
      if (relu) value = rectified_number(value);
      *(Number*)(targets[i] + channel) = value;
    }
  }
}

void unpack(const Half* packed, int64_t num_pixels, int64_t channels, const Half* bias,
            const Half* const* addends, bool relu, Half* const* targets) {
  if (channels < L) return unpack_few(packed, num_pixels, channels, bias, addends, relu, targets);
  const int64_t stride = num_pixels * L;
  for (int64_t pixel = 0; pixel < num_pixels; ++pixel) {
    Half* const* target = targets + pixel * L;
    const Half* const* addend = addends + (addends ? pixel * L : 0);
    const Half* source = packed + pixel * L;
    for (int64_t next = 0; next < channels; next += L) {
      const int64_t channel = begin_of(next, channels);
      const Vector shift = bias ? load(bias + channel) : Vector{};
      Vector rows[L];
UNROLLED
      for (int i = 0; i < L; ++i) rows[i] = *(const Vector*)(source + (channel + i) * stride);
      transpose(rows);
UNROLLED
      for (int lane = 0; lane < L; ++lane) {
        if (!target[lane]) continue;
        Vector row = rows[lane] + shift;
        if (addends) row += load(addend[lane] + channel);
        if (relu) row = rectified(row);
        *(Unaligned*)(target[lane] + channel) = row;
      }
    }
  }
}

template <int H, int W>
void convolve(const Half* x, int64_t row_stride, const int32_t* offsets, const TwoHalves* values,
              const int32_t* begin, int64_t num_outputs, bool first, Half* y) {
  for (int64_t output = 0; output < num_outputs; ++output) {
    Vector* const out = (Vector*)y + output * H * W;
    Vector sums[H * W];
#pragma GCC unroll 16
    for (int i = 0; i < H * W; ++i) sums[i] = first ? Vector{} : out[i];
    for (int32_t j = begin[output]; j < begin[output + 1]; ++j) {
      const Half* const shifted = x + offsets[j];
      const Vector value = (Vector)(Pairs{} + *(const Pair*)(values + j));
#pragma GCC unroll 16
      for (int i = 0; i < H * W; ++i) {
        sums[i] += value * *(const Vector*)(shifted + i / W * row_stride + i % W * L);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < H * W; ++i) out[i] = sums[i];
  }
}

void widen(const Half* x, int64_t size, float* y) {
  int64_t i = 0;
#ifdef __AVX512FP16__  // GCC 12 converts one number at a time.
  for (; i + 16 <= size; i += 16) {
    const __m256i halves = _mm256_loadu_si256((const __m256i*)(x + i));
    _mm512_storeu_ps(y + i, _mm512_maskz_cvtph_ps(0xFFFF, halves));
  }
#endif
  for (; i < size; ++i) y[i] = ((const Number*)x)[i];
}

void narrow(const float* x, int64_t size, Half* y) {
  int64_t i = 0;
#ifdef __AVX512FP16__
  for (; i + 16 <= size; i += 16) {
    const __m512 floats = _mm512_loadu_ps(x + i);
    const __m256i halves = _mm512_maskz_cvtps_ph(0xFFFF, floats, _MM_FROUND_CUR_DIRECTION);
    _mm256_storeu_si256((__m256i*)(y + i), halves);
  }
#endif
  for (; i < size; ++i) ((Number*)y)[i] = (_Float16)x[i];
}

}  // namespace

extern const Halves HALVES;  // halves.h names only those that the library has.
const Halves HALVES = {
    L,
    {{2, 4}, {2, 2}},
    pack_any,
    unpack,
    {convolve<2, 4>, convolve<2, 2>},
    widen,
    narrow,
};

}  // namespace stugan
