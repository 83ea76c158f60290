// Inner loops of the runtime, on portable vector extensions of GCC and Clang.
//
// Compiled once for each instruction set, with -DLOOPS, -DLANES and -DROWS. Like tiles.cc it
// includes nothing that has inline functions.

#include "loops.h"

namespace stugan {
namespace {

constexpr int L = LANES;

typedef float Vector __attribute__((vector_size(4 * L), aligned(4 * L), may_alias));
typedef float Unaligned __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * L)));
typedef float Floats __attribute__((vector_size(4 * L)));

inline Vector splat(float x) { return x - Vector{}; }
inline Vector load(const float* from) { return *(const Unaligned*)from; }
inline void store(Vector x, float* to) { *(Unaligned*)to = x; }

template <int R>
void multiply_rows(const float* const* rows, int64_t num_taps, int64_t channels,
                   const float* matrix, const float* bias, const float* const* addends,
                   int num_columns, float* const* targets) {
  Vector left[R] = {}, right[R] = {};
  for (int64_t tap = 0; tap < num_taps; ++tap) {
    const float* x[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) x[r] = rows[tap * R + r];
    for (int64_t channel = 0; channel < channels; ++channel, matrix += 2 * L) {
      const Vector a = *(const Vector*)matrix, b = *(const Vector*)(matrix + L);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const float factor = x[r][channel];
        left[r] += factor * a;
        right[r] += factor * b;
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    alignas(4 * L) float row[2 * L];
    *(Vector*)row = left[r];
    *(Vector*)(row + L) = right[r];
    float* const target = targets[r];
    if (num_columns == 2 * L) {
      for (int i = 0; i < 2 * L; i += L) {
        Vector sum = *(const Vector*)(row + i);
        if (bias) sum += load(bias + i);
        if (addends) sum += load(addends[r] + i);
        store(sum, target + i);
      }
      continue;
    }
    for (int i = 0; i < num_columns; ++i) {
      float sum = row[i];
      if (bias) sum += bias[i];
      if (addends) sum += addends[r][i];
      target[i] = sum;
    }
  }
}

void multiply(const float* const* rows, int num_rows, int64_t num_taps, int64_t channels,
              const float* matrix, const float* bias, const float* const* addends,
              int num_columns, float* const* targets) {
#define STUGAN_CASE(R)                                                                      \
  case R:                                                                                   \
    if constexpr (R <= ROWS) {                                                              \
      multiply_rows<R>(rows, num_taps, channels, matrix, bias, addends, num_columns, targets); \
    }                                                                                       \
    break;
  switch (num_rows) {
    STUGAN_CASE(1)
    STUGAN_CASE(2)
    STUGAN_CASE(3)
    STUGAN_CASE(4)
    STUGAN_CASE(5)
    STUGAN_CASE(6)
    STUGAN_CASE(7)
    STUGAN_CASE(8)
    STUGAN_CASE(9)
    STUGAN_CASE(10)
    STUGAN_CASE(11)
    STUGAN_CASE(12)
  }
#undef STUGAN_CASE
}

void gather(const float* x, const int32_t* offsets, const float* values, const int32_t* begin,
            int64_t num_outputs, float* y) {
  for (int64_t output = 0; output < num_outputs; ++output) {
    Vector sum = {};
    for (int32_t j = begin[output]; j < begin[output + 1]; ++j) {
      sum += values[j] * *(const Vector*)(x + offsets[j]);
    }
    *(Vector*)(y + output * L) = sum;
  }
}

// Calls function(vector, index of its first element) -> vector for the elements x[0..size), whose
// results go to y. The last elements go through the same code, filled up.
template <typename Function>
inline void map(const float* x, int64_t size, float* y, Function function) {
  int64_t i = 0;
  for (; i + L <= size; i += L) store(function(load(x + i), i), y + i);
  if (i == size) return;
  alignas(4 * L) float rest[L] = {};
  for (int64_t k = i; k < size; ++k) rest[k - i] = x[k];
  *(Vector*)rest = function(*(const Vector*)rest, i);
  for (int64_t k = i; k < size; ++k) y[k] = rest[k - i];
}

// Up to L elements of an array that has `size`; zeros after its end.
inline Vector part(const float* x, int64_t i, int64_t size) {
  if (i + L <= size) return load(x + i);
  alignas(4 * L) float rest[L] = {};
  for (int64_t k = i; k < size; ++k) rest[k - i] = x[k];
  return *(const Vector*)rest;
}

// NaN stays NaN in these.
inline Vector rectified(Vector x) { return x < Vector{} ? Vector{} : x; }
inline Vector at_most(Vector x, float bound) { return x > splat(bound) ? splat(bound) : x; }
inline Vector at_least(Vector x, float bound) { return x < splat(bound) ? splat(bound) : x; }

void affine(const float* x, int64_t num_rows, int64_t channels, const float* scale,
            const float* shift, bool relu, float* y) {
  for (int64_t row = 0; row < num_rows; ++row, x += channels, y += channels) {
    map(x, channels, y, [&](Vector value, int64_t i) {
      if (scale) value *= part(scale, i, channels);
      if (shift) value += part(shift, i, channels);
      return relu ? rectified(value) : value;
    });
  }
}

void add(const float* x, const float* other, int64_t size, float* y) {
  map(x, size, y, [&](Vector value, int64_t i) { return value + part(other, i, size); });
}

void times(const float* x, const float* other, int64_t size, float* y) {
  map(x, size, y, [&](Vector value, int64_t i) { return value * part(other, i, size); });
}

void rectify(float* x, int64_t size) {
  map(x, size, x, [](Vector value, int64_t) { return rectified(value); });
}

// A rational approximation (that of Eigen), within some units of the last place.
inline Vector tanh_of(Vector x) {
  const Vector z = at_least(at_most(x, 7.90531110763549805f), -7.90531110763549805f);
  const Vector square = z * z;
  Vector p = splat(-2.76076847742355e-16f);
  p = p * square + 2.00018790482477e-13f;
  p = p * square - 8.60467152213735e-11f;
  p = p * square + 5.12229709037114e-08f;
  p = p * square + 1.48572235717979e-05f;
  p = p * square + 6.37261928875436e-04f;
  p = p * square + 4.89352455891786e-03f;
  Vector q = splat(1.19825839466702e-06f);
  q = q * square + 1.18534705686654e-04f;
  q = q * square + 2.26843463243900e-03f;
  q = q * square + 4.89352518554385e-03f;
  return at_least(at_most(z * p / q, 1), -1);
}

// Cephes' expf: x = n log 2 + r, a polynomial in r, times 2^n.
inline Vector exp_of(Vector x) {
  const Vector z = at_least(at_most(x, 88.3762626647949f), -87.3365447504f);
  const Vector scaled = z * 1.44269504088896341f;
  const Vector half = scaled < Vector{} ? splat(-0.5f) : splat(0.5f);
  const Integers n = __builtin_convertvector((Floats)(scaled + half), Integers);
  const Vector whole = __builtin_convertvector(n, Floats);
  const Vector r = z - whole * 0.693359375f + whole * 2.12194440e-4f;
  Vector p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Vector power = (Vector)((n + 127) << 23);
  return x == x ? p * power : x;
}

void tanh(float* x, int64_t size) {
  map(x, size, x, [](Vector value, int64_t) { return tanh_of(value); });
}

void sigmoid(float* x, int64_t size) {
  map(x, size, x, [](Vector value, int64_t) { return 1.0f / (1.0f + exp_of(-value)); });
}

void softmax(float* x, int64_t num_rows, int64_t size) {
  for (int64_t row = 0; row < num_rows; ++row, x += size) {
    Vector most = splat(x[0]), sums = {};
    int64_t i = 0;
    for (; i + L <= size; i += L) {
      const Vector value = load(x + i);
      most = value > most ? value : most;
    }
    float largest = most[0];
    for (int lane = 1; lane < L; ++lane) largest = most[lane] > largest ? most[lane] : largest;
    for (; i < size; ++i) largest = x[i] > largest ? x[i] : largest;
    map(x, size, x, [&](Vector value, int64_t) { return exp_of(value - largest); });
    for (i = 0; i < size; i += L) sums += part(x, i, size);
    float sum = 0;
    for (int lane = 0; lane < L; ++lane) sum += sums[lane];
    const float factor = 1 / sum;
    map(x, size, x, [&](Vector value, int64_t) { return value * factor; });
  }
}

}  // namespace

const Loops LOOPS = {L,      ROWS,      2 * L, multiply, gather,  affine,
                     add,    times,     rectify, tanh,   sigmoid, softmax};

static_assert(ROWS <= kMaxRows, "multiply() has cases for these");

}  // namespace stugan
