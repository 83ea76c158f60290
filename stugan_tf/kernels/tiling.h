// How the pixels of a batch of images are divided into groups of tiles.

#ifndef STUGAN_TF_KERNELS_TILING_H_
#define STUGAN_TF_KERNELS_TILING_H_

#include <algorithm>
#include <cstdint>

#include "sparse_convolution.h"

namespace stugan {

// The pixels of a batch of images, cut into tiles. A 1x1 kernel sees no neighbours, so that all
// pixels of the batch are one image of four columns there, of which any tile is filled.
struct Geometry {
  int64_t batch, height, width;  // Of the output, after pooling.
  int64_t input_height, input_width;
  int64_t kernel_height, kernel_width;
  int64_t pad_top, pad_left;
  int64_t upsampling;  // Of the images in memory to the input.
  int64_t pooling;     // Rows and columns of the convolution's result that are summed.
  int64_t num_pixels = batch * height * width;              // Those of the output that are there,
  int64_t input_pixels = batch * input_height * input_width;  // and those of the input.

  Geometry flattened() const {
    if (kernel_height * kernel_width != 1 || upsampling * pooling != 1) return *this;
    const int64_t rows = (num_pixels + 3) / 4;
    return {1, rows, 4, rows, 4, 1, 1, 0, 0, 1, 1, num_pixels, num_pixels};
  }
};

// How the tiles of one shape cover a geometry.
//
// A sum of 2x2 pixels of the result is the kernel times the same sum of shifted inputs. So pooling
// sums the input first, the 2x2 pixels at each place, and multiplies at every other place only: a
// quarter of the products.
struct Tiling {
  Geometry geometry;
  Tile tile;
  int index;
  int lanes;
  int64_t number_size = 4;  // Bytes of a number in a lane.

  int64_t rows() const { return (geometry.height + tile.height - 1) / tile.height; }
  int64_t columns() const { return (geometry.width + tile.width - 1) / tile.width; }
  int64_t num_tiles() const { return geometry.batch * rows() * columns(); }
  int64_t num_groups() const { return (num_tiles() + lanes - 1) / lanes; }
  int64_t pixels() const { return tile.height * tile.width; }
  // Of an input tile, after these sums and before.
  int64_t input_width() const {
    return (tile.width - 1) * geometry.pooling + geometry.kernel_width;
  }
  int64_t input_height() const {
    return (tile.height - 1) * geometry.pooling + geometry.kernel_height;
  }
  int64_t input_pixels() const { return input_height() * input_width(); }
  int64_t source_width() const { return input_width() + geometry.pooling - 1; }
  int64_t source_height() const { return input_height() + geometry.pooling - 1; }
  int64_t source_pixels() const { return source_height() * source_width(); }

  // Input channels whose packed tiles stay in the first-level cache.
  int64_t block() const {
    constexpr int64_t kBytes = 40 << 10;  // Measured; a little over the cache of most is best.
    const int64_t most = std::max<int64_t>(1, kBytes / (input_pixels() * lanes * number_size));
    if (geometry.pooling == 1) return most;
    // Each block is packed by itself then: whole lines of the cache.
    constexpr int64_t kLine = 16;
    return std::max<int64_t>(1, (most + kLine / 2) / kLine) * kLine;
  }

  // Cycles, roughly: of packing, multiplying and unpacking, given what is busy in parallel.
  double cost(int64_t sources, int64_t targets, int64_t non_zeros, int64_t num_threads) const {
    const double blocks = static_cast<double>(sources + block() - 1) / block();
    const double group = 6.0 * (source_pixels() * sources + pixels() * targets) +
                         (geometry.pooling == 1 ? 0.0 : 2.0 * input_pixels() * sources) +
                         non_zeros * (pixels() + 3.0) + blocks * targets * (2 * pixels() + 15.0);
    const int64_t groups = num_groups();
    return group * (groups < num_threads ? 1.0 : static_cast<double>(groups) / num_threads);
  }

  // Fills [source_pixels][lanes] with where each pixel of a group's input tiles begins, or null.
  template <typename Number>
  void sources(int64_t group, const Number* images, int64_t channels,
               const Number** result) const {
    const Geometry& g = geometry;
    visit(
        group, source_height(), source_width(), tile.height * g.pooling, tile.width * g.pooling,
        [&](int64_t i, int64_t n, int64_t y, int64_t x) {
          y -= g.pad_top;
          x -= g.pad_left;
          const bool inside = n >= 0 && y >= 0 && x >= 0 && y < g.input_height &&
                              x < g.input_width &&
                              (n * g.input_height + y) * g.input_width + x < g.input_pixels;
          result[i] = inside ? images + pixel(n, y, x, g.upsampling, g.input_height,
                                              g.input_width) *
                                            channels
                             : nullptr;
        });
  }

  // Fills [pixels][lanes] with where each pixel of a group's output tiles begins, or null.
  //   upsampling: of the images in memory to the output.
  template <typename Number>
  void targets(int64_t group, int64_t upsampling, Number* images, int64_t channels,
               Number** result) const {
    const int64_t height = geometry.height, width = geometry.width;
    visit(group, tile.height, tile.width, tile.height, tile.width,
          [&](int64_t i, int64_t n, int64_t y, int64_t x) {
            const bool inside = n >= 0 && y < height && x < width &&
                                (n * height + y) * width + x < geometry.num_pixels;
            result[i] = inside ? images + pixel(n, y, x, upsampling, height, width) * channels
                               : nullptr;
          });
  }

 private:
  static int64_t pixel(int64_t n, int64_t y, int64_t x, int64_t factor, int64_t height,
                       int64_t width) {
    return (n * (height / factor) + y / factor) * (width / factor) + x / factor;
  }

  // Visits a rectangle of pixels for each tile of a group; `down` and `right` lead to the next one.
  template <typename Visitor>
  void visit(int64_t group, int64_t height, int64_t width, int64_t down, int64_t right,
             Visitor visitor) const {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t t = group * lanes + lane;
      const int64_t n = t < num_tiles() ? t / (rows() * columns()) : -1;
      const int64_t top = t / columns() % rows() * down;
      const int64_t left = t % columns() * right;
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          visitor((y * width + x) * lanes + lane, n, top + y, left + x);
        }
      }
    }
  }
};

}  // namespace stugan

#endif  // STUGAN_TF_KERNELS_TILING_H_
