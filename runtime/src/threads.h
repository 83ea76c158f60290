// A pool of threads that share a loop.

#ifndef STUGAN_RUNTIME_THREADS_H_
#define STUGAN_RUNTIME_THREADS_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace stugan {

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
  std::atomic<int> num_busy_{0};
  std::atomic<bool> ends_{false};
  std::mutex mutex_;
  std::condition_variable has_work_;
  std::vector<std::thread> threads_;
};

}  // namespace stugan

#endif  // STUGAN_RUNTIME_THREADS_H_
