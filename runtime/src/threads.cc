#include "threads.h"

namespace stugan {
namespace {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

bool Pool::start(int num_threads) {
#if defined(__cpp_exceptions)
  try {
#endif
    threads_.reserve(num_threads - 1);
    for (int thread = 1; thread < num_threads; ++thread) {
      threads_.emplace_back([this, thread] { wait_for_work(thread); });
    }
#if defined(__cpp_exceptions)
  } catch (...) {
    return false;
  }
#endif
  return true;
}

Pool::~Pool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ends_ = true;
  }
  has_work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Pool::parallel(int64_t num_units, const std::function<void(int64_t, int)>& work) {
  if (threads_.empty() || num_units <= 1) {
    for (int64_t unit = 0; unit < num_units; ++unit) work(unit, 0);
    return;
  }
  work_ = &work;
  num_units_ = num_units;
  next_unit_ = 0;
  is_open_ = true;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++round_;
  }
  has_work_.notify_all();
  take_units(0);
  // Threads that are still waking up are not waited for.
  is_open_ = false;
  for (int spins = 0; num_busy_ > 0; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::take_units(int thread) {
  for (int64_t unit; (unit = next_unit_++) < num_units_;) (*work_)(unit, thread);
}

void Pool::wait_for_work(int thread) {
  for (uint64_t seen = 0;;) {
    for (int spins = 0; round_ == seen && !ends_ && spins < kSpins; ++spins) pause();
    if (round_ == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      has_work_.wait(lock, [&] { return round_ != seen || ends_; });
    }
    if (round_ == seen) return;
    seen = round_;
    // In this order: either this thread sees that the round is over, or the caller that it is busy.
    ++num_busy_;
    if (is_open_) take_units(thread);
    --num_busy_;
  }
}

}  // namespace stugan
