// The C interface: checks of arguments, and a fence that no exception crosses.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "file.h"
#include "network.h"
#include "random.h"
#include "status.h"
#include "stugan.h"
#include "threads.h"

struct stugan_generator {
  stugan::Interface interface;
  stugan::Network network;
  stugan::Mutex mutex;  // One call at a time uses the network.
};

namespace stugan {
namespace {

// Calls work() -> Status and hands over its code and text.
template <typename Work>
stugan_status fenced(char* message, const Work& work) {
  Status status;
#if defined(__cpp_exceptions)
  try {
    status = work();
  } catch (const std::bad_alloc&) {
    status.code = STUGAN_OUT_OF_MEMORY;
  } catch (const std::length_error&) {
    status.code = STUGAN_OUT_OF_MEMORY;
  } catch (...) {
    status.code = STUGAN_DAMAGED;
  }
#else
  status = work();
#endif
  if (message) {
    const char* text = status.text.c_str();
    if (status.code == STUGAN_OUT_OF_MEMORY && status.text.empty()) {
      text = "There is not enough memory for this generator.";
    } else if (status.code == STUGAN_DAMAGED && status.text.empty()) {
      text = "The file cannot be read. Copy or export it again.";
    }
    std::snprintf(message, STUGAN_MESSAGE_SIZE, "%s", text);
  }
  return status.code;
}

Status check_images(int64_t num_images) {
  if (num_images >= 1 && num_images <= STUGAN_MAX_IMAGES) return {};
  return wrong_argument("num_images must be from 1 to " + std::to_string(STUGAN_MAX_IMAGES) +
                        ", got " + std::to_string(num_images) + ".");
}

Status check_seed(int64_t seed, const double* truncation) {
  if (seed < 0) {
    return wrong_argument("seed must be at least 0, got " + std::to_string(seed) + ".");
  }
  if (truncation && !(*truncation > 0 && std::isfinite(*truncation))) {
    return wrong_argument("truncation must be a finite number above 0, got " +
                          std::to_string(*truncation) + ". Leave it out for none.");
  }
  return {};
}

Status check_labels(const Interface& about, int64_t num_images, const int32_t* labels) {
  if (!about.conditional) {
    if (!labels) return {};
    return wrong_argument("This generator was trained without labels. Leave them out.");
  }
  if (!labels) {
    return wrong_argument("This generator needs labels for given latents: one for each image.");
  }
  for (int64_t i = 0; i < num_images; ++i) {
    if (labels[i] < 0 || labels[i] >= about.num_classes) {
      return wrong_argument("labels must be from 0 to " + std::to_string(about.num_classes - 1) +
                            ", got " + std::to_string(labels[i]) + ".");
    }
  }
  return {};
}

Status generate(stugan_generator* generator, int64_t num_images, const float* latents,
                const int32_t* labels, float* images) {
  const int64_t size = num_images * generator->interface.latent_dim;
  for (int64_t i = 0; i < size; ++i) {
    if (!std::isfinite(latents[i])) return wrong_argument("latents must be finite.");
  }
  const Lock lock(generator->mutex);
  return generator->network.generate(num_images, latents, labels, images);
}

Status check(const stugan_options* options) {
  if (!options || options->size < sizeof(stugan_options)) {
    return wrong_argument("options must not be null, and their size sizeof(stugan_options).");
  }
  const int32_t num_threads = options->num_threads, precision = options->precision;
  if (num_threads < 1 || num_threads > STUGAN_MAX_THREADS) {
    return wrong_argument("num_threads must be from 1 to " + std::to_string(STUGAN_MAX_THREADS) +
                          ", got " + std::to_string(num_threads) + ".");
  }
  if (precision != STUGAN_FLOAT32 && precision != STUGAN_FLOAT16 && precision != STUGAN_AUTO) {
    return wrong_argument("precision must be STUGAN_FLOAT32, STUGAN_FLOAT16 or STUGAN_AUTO, got " +
                          std::to_string(precision) + ".");
  }
  return {};
}

Status open(const void* data, size_t size, const stugan_options* options,
            stugan_generator** result) {
  STUGAN_RETURN_IF_ERROR(check(options));
  SparseFile file;
  STUGAN_RETURN_IF_ERROR(file.open(static_cast<const uint8_t*>(data), size));
  auto generator = std::make_unique<stugan_generator>();
  generator->interface = file.interface();
  STUGAN_RETURN_IF_ERROR(generator->network.open(file, options->num_threads,
                                                options->precision));
  *result = generator.release();
  return {};
}

Status cannot_read(const char* path) {
  return {STUGAN_CANNOT_READ, std::string("The file ") + path + " cannot be read. Is it there?"};
}

struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

Status read_all(const char* path, Array<uint8_t>* data, int64_t* size) {
  const std::unique_ptr<std::FILE, Closer> file(std::fopen(path, "rb"));
  if (!file || std::fseek(file.get(), 0, SEEK_END) != 0) return cannot_read(path);
  const long end = std::ftell(file.get());
  if (end < 0 || std::fseek(file.get(), 0, SEEK_SET) != 0) return cannot_read(path);
  if (static_cast<uint64_t>(end) > SparseFile::kMaxFile) {
    return unsupported("The file has more bytes than are read: " +
                       std::to_string(SparseFile::kMaxFile) + ".");
  }
  *size = end;
  STUGAN_RETURN_IF_ERROR(data->reserve(*size + 1));
  const size_t count = std::fread(data->data(), 1, static_cast<size_t>(*size), file.get());
  return count == static_cast<size_t>(*size) ? Status{} : cannot_read(path);
}

}  // namespace
}  // namespace stugan

using stugan::Status;
using stugan::wrong_argument;

int32_t stugan_version(void) { return STUGAN_VERSION; }

stugan_status stugan_open_memory_with(const void* data, size_t size,
                                      const stugan_options* options,
                                      stugan_generator** generator, char* message) {
  return stugan::fenced(message, [&]() -> Status {
    if (!generator) return wrong_argument("generator must not be null.");
    *generator = nullptr;
    if (!data) return wrong_argument("data must not be null.");
    return stugan::open(data, size, options, generator);
  });
}

stugan_status stugan_open_memory(const void* data, size_t size, int32_t num_threads,
                                 stugan_generator** generator, char* message) {
  const stugan_options options = {sizeof(options), num_threads, STUGAN_FLOAT32};
  return stugan_open_memory_with(data, size, &options, generator, message);
}

stugan_status stugan_open_file_with(const char* path, const stugan_options* options,
                                    stugan_generator** generator, char* message) {
  return stugan::fenced(message, [&]() -> Status {
    if (!generator) return wrong_argument("generator must not be null.");
    *generator = nullptr;
    if (!path) return wrong_argument("path must not be null.");
    stugan::Array<uint8_t> data;
    int64_t size = 0;
    STUGAN_RETURN_IF_ERROR(stugan::read_all(path, &data, &size));
    return stugan::open(data.data(), static_cast<size_t>(size), options, generator);
  });
}

stugan_status stugan_open_file(const char* path, int32_t num_threads,
                               stugan_generator** generator, char* message) {
  const stugan_options options = {sizeof(options), num_threads, STUGAN_FLOAT32};
  return stugan_open_file_with(path, &options, generator, message);
}

int32_t stugan_precision_of(const stugan_generator* generator) {
  return generator->network.is_half() ? STUGAN_FLOAT16 : STUGAN_FLOAT32;
}

void stugan_describe(const stugan_generator* generator, stugan_description* about) {
  const stugan::Interface& i = generator->interface;
  const stugan::Network& network = generator->network;
  about->latent_dim = static_cast<int32_t>(i.latent_dim);
  about->height = static_cast<int32_t>(i.height);
  about->width = static_cast<int32_t>(i.width);
  about->channels = static_cast<int32_t>(i.channels);
  about->num_classes = static_cast<int32_t>(i.num_classes);
  about->conditional = i.conditional;
  about->has_class_names = !i.class_names.empty();
  about->num_threads = network.num_threads();
  about->num_weights = network.num_weights();
  about->num_nonzero = network.num_nonzero();
  about->weight_bytes = network.weight_bytes();
  about->workspace_bytes = network.workspace_bytes();
  about->instruction_set = network.instruction_set();
}

const char* stugan_class_name(const stugan_generator* generator, int32_t label) {
  const auto& names = generator->interface.class_names;
  if (label < 0 || static_cast<size_t>(label) >= names.size()) return nullptr;
  return names[label].c_str();
}

stugan_status stugan_draw(const stugan_generator* generator, int64_t num_images, int64_t seed,
                          const double* truncation, float* latents, int32_t* labels,
                          char* message) {
  return stugan::fenced(message, [&]() -> Status {
    if (!generator) return wrong_argument("generator must not be null.");
    STUGAN_RETURN_IF_ERROR(stugan::check_images(num_images));
    STUGAN_RETURN_IF_ERROR(stugan::check_seed(seed, truncation));
    const stugan::Interface& i = generator->interface;
    stugan::draw_numbered(seed, num_images, i.latent_dim, i.num_classes, truncation, latents,
                          labels);
    return {};
  });
}

stugan_status stugan_generate(stugan_generator* generator, int64_t num_images,
                              const float* latents, const int32_t* labels, float* images,
                              char* message) {
  return stugan::fenced(message, [&]() -> Status {
    if (!generator || !latents || !images) {
      return wrong_argument("generator, latents and images must not be null.");
    }
    STUGAN_RETURN_IF_ERROR(stugan::check_images(num_images));
    STUGAN_RETURN_IF_ERROR(stugan::check_labels(generator->interface, num_images, labels));
    return stugan::generate(generator, num_images, latents, labels, images);
  });
}

stugan_status stugan_generate_seed(stugan_generator* generator, int64_t num_images, int64_t seed,
                                   const double* truncation, const int32_t* labels, float* images,
                                   char* message) {
  return stugan::fenced(message, [&]() -> Status {
    if (!generator || !images) return wrong_argument("generator and images must not be null.");
    STUGAN_RETURN_IF_ERROR(stugan::check_images(num_images));
    STUGAN_RETURN_IF_ERROR(stugan::check_seed(seed, truncation));
    const stugan::Interface& i = generator->interface;
    if (labels) STUGAN_RETURN_IF_ERROR(stugan::check_labels(i, num_images, labels));
    stugan::Array<float> latents;
    stugan::Array<int32_t> drawn;
    STUGAN_RETURN_IF_ERROR(latents.reserve(num_images * i.latent_dim));
    STUGAN_RETURN_IF_ERROR(drawn.reserve(num_images));
    stugan::draw_numbered(seed, num_images, i.latent_dim, i.num_classes, truncation,
                          latents.data(), drawn.data());
    return stugan::generate(generator, num_images, latents.data(),
                            !i.conditional ? nullptr : labels ? labels : drawn.data(), images);
  });
}

void stugan_to_pixels(const float* images, size_t size, uint8_t* pixels) {
  for (size_t i = 0; i < size; ++i) {
    const float level = 127.5f * images[i] + 127.5f;
    pixels[i] = level > 0 ? static_cast<uint8_t>(level < 255 ? level : 255) : 0;  // NaN is 0.
  }
}

void stugan_close(stugan_generator* generator) { delete generator; }
