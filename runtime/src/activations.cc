#include "activations.h"

#include <cmath>

namespace stugan {
namespace {

constexpr float kSeluScale = 1.05070098735548f, kSeluAlpha = 1.67326324235438f;

template <typename Function>
void map(float* x, int64_t size, Function function) {
  for (int64_t i = 0; i < size; ++i) x[i] = function(x[i]);
}

void rectify(const Activation& a, float* x, int64_t size) {
  map(x, size, [&](float value) {
    if (value > a.threshold) {
      return a.has_maximum && value > a.maximum ? a.maximum : value;
    }
    if (value <= a.threshold) return a.slope == 0 ? 0.0f : a.slope * (value - a.threshold);
    return value;  // NaN
  });
}

}  // namespace

void activate(const Loops& code, const Activation& activation, float* x, int64_t num_rows,
              int64_t channels) {
  const int64_t size = num_rows * channels;
  switch (activation.function) {
    case Function::kLinear: return;
    case Function::kRelu:
      return activation.is_plain_relu() ? code.rectify(x, size) : rectify(activation, x, size);
    case Function::kTanh: return code.tanh(x, size);
    case Function::kSigmoid: return code.sigmoid(x, size);
    case Function::kSoftmax: return code.softmax(x, num_rows, channels);
    case Function::kElu:
      return map(x, size, [](float value) { return value > 0 ? value : std::expm1(value); });
    case Function::kSelu:
      return map(x, size, [](float value) {
        return kSeluScale * (value > 0 ? value : kSeluAlpha * std::expm1(value));
      });
    case Function::kGelu:
      return map(x, size,
                 [](float value) { return 0.5f * value * std::erfc(value * -0.70710678f); });
    case Function::kSilu:
      return map(x, size, [](float value) { return value / (1 + std::exp(-value)); });
    case Function::kSoftplus:
      return map(x, size, [](float value) {
        return value > 20 ? value : std::log1p(std::exp(value));
      });
  }
}

}  // namespace stugan
