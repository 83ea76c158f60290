/* Draws images from the sparse file of a generator (stugan_tf.export --format=sparse).
 *
 *   stugan_generator* generator;
 *   char message[STUGAN_MESSAGE_SIZE];
 *   if (stugan_open_file("generator.safetensors", 2, &generator, message)) { puts(message); ... }
 *   stugan_description about;
 *   stugan_describe(generator, &about);
 *   float* images = malloc(16 * about.height * about.width * about.channels * sizeof(float));
 *   stugan_generate_seed(generator, 16, 1, NULL, NULL, images, message);
 *   stugan_close(generator);
 *
 * Each function that can fail returns a code and, in words, a message: what was given, what is
 * allowed, what to do. No function exits, prints or throws. A generator may be used by one thread
 * at a time; other calls wait. Different generators are independent.
 */

#ifndef STUGAN_H_
#define STUGAN_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define STUGAN_API __declspec(dllexport)
#else
#define STUGAN_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define STUGAN_VERSION 2       /* Of this interface. */
#define STUGAN_MESSAGE_SIZE 512 /* Bytes of every `message`, which may also be null. */
#define STUGAN_MAX_IMAGES 1048576 /* Of one call. */
#define STUGAN_MAX_THREADS 256

typedef enum {
  STUGAN_OK = 0,
  STUGAN_CANNOT_READ = 1,    /* There is no such file, or it cannot be read. */
  STUGAN_DAMAGED = 2,        /* The file is not a sparse file, or it is damaged. */
  STUGAN_UNSUPPORTED = 3,    /* Another version, or a model that this library does not run. */
  STUGAN_WRONG_ARGUMENT = 4, /* An argument does not fit the generator. */
  STUGAN_OUT_OF_MEMORY = 5   /* Memory or threads could not be had. */
} stugan_status;

typedef struct stugan_generator stugan_generator;

typedef struct {
  int32_t latent_dim;          /* Length of a latent vector. */
  int32_t height, width, channels; /* Of an image. */
  int32_t num_classes;         /* Labels are integers from 0 to num_classes - 1. */
  int32_t conditional;         /* 1 if images depend on labels, else 0. */
  int32_t has_class_names;     /* 1 if stugan_class_name tells names. */
  int32_t num_threads;
  int64_t num_weights;         /* Of all layers, zeros included. */
  int64_t num_nonzero;
  int64_t weight_bytes;        /* Memory of weights, as they are computed with. */
  int64_t workspace_bytes;     /* The most memory of all else while images are made. */
  const char* instruction_set; /* "baseline", "x86-64-v3", "x86-64-v4", "neon" or
                                  "simd128"; "avx512-fp16" or "neon-fp16" if sparse
                                  convolutions are computed in half precision. */
} stugan_description;

/* The precision of sparse convolutions: of their weights and sums, and of the numbers between them.
 * Latents, images, dense layers and all others are always float32.
 */
typedef enum {
  STUGAN_FLOAT32 = 0,
  STUGAN_FLOAT16 = 1, /* An error where the processor has no arithmetic of half precision, or the
                         generator overflows. */
  STUGAN_AUTO = 2     /* Half precision where it works and the file says that it is safe. */
} stugan_precision;

/* How a generator is opened. Later versions add members at the end.
 *   stugan_options options = {sizeof(options), 2, STUGAN_AUTO};
 */
typedef struct {
  size_t size;         /* sizeof(stugan_options). */
  int32_t num_threads; /* As of stugan_open_file. */
  int32_t precision;   /* A stugan_precision. */
} stugan_options;

/* The version of the interface that the library has: STUGAN_VERSION when it was built. */
STUGAN_API int32_t stugan_version(void);

/* Opens a generator that is in memory, in float32. `data` is not needed afterwards.
 *   num_threads: how many threads make images, the caller's among them; from 1 to
 *     STUGAN_MAX_THREADS. Images do not depend on it.
 *   generator: receives the generator, null if it cannot be opened.
 *   message: receives a text in case of an error, at most STUGAN_MESSAGE_SIZE bytes; or null.
 */
STUGAN_API stugan_status stugan_open_memory(const void* data, size_t size, int32_t num_threads,
                                            stugan_generator** generator, char* message);

/* Opens a generator that is in a file, in float32. */
STUGAN_API stugan_status stugan_open_file(const char* path, int32_t num_threads,
                                          stugan_generator** generator, char* message);

/* The same with options. */
STUGAN_API stugan_status stugan_open_memory_with(const void* data, size_t size,
                                                 const stugan_options* options,
                                                 stugan_generator** generator, char* message);
STUGAN_API stugan_status stugan_open_file_with(const char* path, const stugan_options* options,
                                               stugan_generator** generator, char* message);

/* The precision that a generator uses: STUGAN_FLOAT32 or STUGAN_FLOAT16. */
STUGAN_API int32_t stugan_precision_of(const stugan_generator* generator);

/* Says what a generator is. */
STUGAN_API void stugan_describe(const stugan_generator* generator, stugan_description* about);

/* The name of a class, UTF-8; null if there is none. Valid until the generator is closed. */
STUGAN_API const char* stugan_class_name(const stugan_generator* generator, int32_t label);

/* Draws latents and labels. Image number i of a seed is the same however many are drawn, and the
 * one that stugan_tf draws.
 *   seed: at least 0.
 *   truncation: where latents are cut off, above 0, or null.
 *   latents: receives float [num_images][latent_dim], or null.
 *   labels: receives int32 [num_images], or null.
 */
STUGAN_API stugan_status stugan_draw(const stugan_generator* generator, int64_t num_images,
                                     int64_t seed, const double* truncation, float* latents,
                                     int32_t* labels, char* message);

/* Makes images of latents.
 *   latents: float [num_images][latent_dim], finite.
 *   labels: int32 [num_images]; null for a generator that is not conditional.
 *   images: receives float [num_images][height][width][channels] in [-1, 1].
 */
STUGAN_API stugan_status stugan_generate(stugan_generator* generator, int64_t num_images,
                                         const float* latents, const int32_t* labels,
                                         float* images, char* message);

/* Makes images of a seed, as stugan_draw and stugan_generate do.
 *   labels: int32 [num_images], or null for those that the seed draws.
 */
STUGAN_API stugan_status stugan_generate_seed(stugan_generator* generator, int64_t num_images,
                                              int64_t seed, const double* truncation,
                                              const int32_t* labels, float* images,
                                              char* message);

/* Maps [-1, 1] to 0..255, as stugan_tf does; `size` numbers. */
STUGAN_API void stugan_to_pixels(const float* images, size_t size, uint8_t* pixels);

/* Frees a generator; null is allowed. */
STUGAN_API void stugan_close(stugan_generator* generator);

#ifdef __cplusplus
}
#endif

#endif /* STUGAN_H_ */
