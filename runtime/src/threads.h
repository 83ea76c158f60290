// A pool of threads that share a loop. Where there are no threads (STUGAN_SINGLE_THREADED) it is the
// caller alone.

#ifndef STUGAN_RUNTIME_THREADS_H_
#define STUGAN_RUNTIME_THREADS_H_

#include <cstdint>
#include <functional>

#ifndef STUGAN_SINGLE_THREADED
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>
#endif

namespace stugan {

#ifdef STUGAN_SINGLE_THREADED

class Mutex {};

class Lock {
 public:
  explicit Lock(Mutex&) {}
};

class Pool {
 public:
  bool start(int num_threads) { return num_threads == 1; }
  int size() const { return 1; }
  void parallel(int64_t num_units, const std::function<void(int64_t, int)>& work) {
    for (int64_t unit = 0; unit < num_units; ++unit) work(unit, 0);
  }
};

#else

using Mutex = std::mutex;
using Lock = std::lock_guard<std::mutex>;

class Pool {
 public:
  Pool() = default;
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Starts num_threads - 1 threads; the caller of `parallel` is the other one. Returns whether they
  // could be had.
  bool start(int num_threads);

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls work(unit, thread) for all units from 0 to num_units - 1, several at once; `thread` is
  // below size(). `work` must not throw. By one caller at a time.
  void parallel(int64_t num_units, const std::function<void(int64_t, int)>& work);

 private:
  void wait_for_work(int thread);
  void take_units(int thread);

  // A thread that finds no work looks for it this often before it sleeps: the layers of one image
  // follow each other faster than threads wake up.
  static constexpr int kSpins = 5000;

  const std::function<void(int64_t, int)>* work_ = nullptr;
  int64_t num_units_ = 0;
  std::atomic<int64_t> next_unit_{0};
  std::atomic<uint64_t> round_{0};  // Counts the calls of `parallel`.
  std::atomic<bool> is_open_{false};  // Whether threads may join the round.
  std::atomic<int> num_busy_{0};      // Threads that have, or are about to see that they may not.
  std::atomic<bool> ends_{false};
  std::mutex mutex_;
  std::condition_variable has_work_;
  std::vector<std::thread> threads_;
};

#endif  // STUGAN_SINGLE_THREADED

}  // namespace stugan

#endif  // STUGAN_RUNTIME_THREADS_H_
