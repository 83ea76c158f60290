// Draws images of a seed from a sparse file, for tests on targets that Python does not run on.
//
//   draw FILE NUM_IMAGES SEED TRUNCATION LABEL OUTPUT [PRECISION]
//
// TRUNCATION 0 is none, LABEL -1 those of the seed, PRECISION a number of `stugan_precision`. OUTPUT
// receives float [num_images][height][width][channels].

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "stugan.h"

int main(int count, char** arguments) {
  if (count != 7 && count != 8) return 2;
  const int64_t num_images = std::atoll(arguments[2]), seed = std::atoll(arguments[3]);
  const double truncation = std::atof(arguments[4]);
  const std::vector<int32_t> labels(num_images, std::atoi(arguments[5]));
  stugan_generator* generator;
  char message[STUGAN_MESSAGE_SIZE];
  const int32_t precision = count == 8 ? std::atoi(arguments[7]) : STUGAN_FLOAT32;
  const stugan_options options = {sizeof(options), 2, precision};
  if (stugan_open_file_with(arguments[1], &options, &generator, message) != STUGAN_OK) {
    std::fprintf(stderr, "%s\n", message);
    return 1;
  }
  stugan_description about;
  stugan_describe(generator, &about);
  std::vector<float> images(num_images * about.height * about.width * about.channels);
  const stugan_status status = stugan_generate_seed(
      generator, num_images, seed, truncation > 0 ? &truncation : nullptr,
      labels[0] < 0 ? nullptr : labels.data(), images.data(), message);
  stugan_close(generator);
  if (status != STUGAN_OK) {
    std::fprintf(stderr, "%s\n", message);
    return 1;
  }
  std::printf("%s\n", about.instruction_set);
  std::FILE* const output = std::fopen(arguments[6], "wb");
  if (!output) return 1;
  const bool is_written = std::fwrite(images.data(), 4, images.size(), output) == images.size();
  return std::fclose(output) == 0 && is_written ? 0 : 1;
}
