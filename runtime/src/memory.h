// Aligned arrays whose allocation can fail without an exception.

#ifndef STUGAN_RUNTIME_MEMORY_H_
#define STUGAN_RUNTIME_MEMORY_H_

#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "status.h"

namespace stugan {

inline Status out_of_memory() {
  return {STUGAN_OUT_OF_MEMORY, "There is not enough memory for this generator."};
}

// An array of numbers or pointers, aligned for whole vectors.
template <typename T>
class Array {
 public:
  Array() = default;
  ~Array() { release(); }
  Array(Array&& other) noexcept { swap(other); }
  Array& operator=(Array&& other) noexcept {
    swap(other);
    return *this;
  }

  // Makes it at least this long; what was in it is lost if it grows.
  Status reserve(int64_t size) {
    if (size <= size_) return {};
    release();
    if (size > std::numeric_limits<int64_t>::max() / 16 / static_cast<int64_t>(sizeof(T)) ||
        static_cast<uint64_t>(size) * sizeof(T) > std::numeric_limits<size_t>::max() / 2) {
      return out_of_memory();
    }
    data_ = static_cast<T*>(
        ::operator new(static_cast<size_t>(size) * sizeof(T), kAlignment, std::nothrow));
    if (!data_) return out_of_memory();
    size_ = size;
    return {};
  }

  void clear() { std::memset(static_cast<void*>(data_), 0, size_ * sizeof(T)); }
  T* data() const { return data_; }
  int64_t size() const { return size_; }
  int64_t bytes() const { return size_ * static_cast<int64_t>(sizeof(T)); }

 private:
  static constexpr std::align_val_t kAlignment{64};

  void release() {
    ::operator delete(data_, kAlignment);
    data_ = nullptr;
    size_ = 0;
  }
  void swap(Array& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace stugan

#endif  // STUGAN_RUNTIME_MEMORY_H_
