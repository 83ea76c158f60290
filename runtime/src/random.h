// The numbers of a seed, the same as stugan_tf draws (stugan_tf/randomness.py,
// stugan_tf/serving/numbering.py).

#ifndef STUGAN_RUNTIME_RANDOM_H_
#define STUGAN_RUNTIME_RANDOM_H_

#include <cstdint>

namespace stugan {

// Draws latents and labels of images 0 to num_images - 1.
//   truncation: where latents are cut off, or null.
//   latents: receives [num_images][latent_dim], or null.
//   labels: receives [num_images], or null.
void draw_numbered(int64_t seed, int64_t num_images, int64_t latent_dim, int64_t num_classes,
                   const double* truncation, float* latents, int32_t* labels);

// The inverse of the error function on (-1, 1).
double inverse_erf(double x);

}  // namespace stugan

#endif  // STUGAN_RUNTIME_RANDOM_H_
