// The order in which the inner loops visit the non-zeros of a kernel.

#ifndef STUGAN_TF_KERNELS_LAYOUT_H_
#define STUGAN_TF_KERNELS_LAYOUT_H_

#include <cstdint>
#include <tuple>

namespace stugan {

// How a kernel [height, width, inputs, outputs] is walked. Transposed, it is that of the gradient
// of the input: inputs and outputs swapped, and turned by 180 degrees.
struct Layout {
  int64_t height, width, inputs, outputs;
  bool transposed;
  int64_t block;        // Input channels whose tiles are held in the cache together.
  int64_t tile_width;   // Pixels of an input tile.
  int64_t tile_pixels;
  int64_t lanes;
  // Input pixels from an output to the next. The columns of a row are sorted by column % stride.
  int64_t stride = 1;

  int64_t size() const { return height * width * inputs * outputs; }
  int64_t sources() const { return transposed ? outputs : inputs; }
  int64_t targets() const { return transposed ? inputs : outputs; }
  int64_t num_blocks() const { return (sources() + block - 1) / block; }

  // The list of non-zeros, [block][target], that one belongs to.
  int64_t list(int64_t source, int64_t target) const { return source / block * targets() + target; }

  // Where the shifted tile of a non-zero begins in the packed block, in floats.
  int32_t offset(int64_t source, int64_t row, int64_t column) const {
    const int64_t sorted = column % stride * ((tile_width + stride - 1) / stride) + column / stride;
    const int64_t pixel = source % block * tile_pixels + row * tile_width + sorted;
    return static_cast<int32_t>(pixel * lanes);
  }

  auto key() const {
    return std::make_tuple(height, width, inputs, outputs, transposed, block, tile_width,
                           tile_pixels, lanes, stride);
  }

  bool operator==(const Layout& other) const { return key() == other.key(); }
};

}  // namespace stugan

#endif  // STUGAN_TF_KERNELS_LAYOUT_H_
