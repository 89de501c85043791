/// Every CUDA and cuBLAS call goes through one of these: the error names the call, the file and the line.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstddef>
#include <map>
#include <mutex>
#include <string>
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <planlm/core/error.hpp>

namespace planlm::cuda_detail {

inline std::string placed(const std::string& what, location at) {
  return what + " (" + at.file + ":" + std::to_string(at.line) + ")";
}
/// An error of an earlier kernel shows at whatever call comes next: then `call` is where it was seen, not where it arose.
inline void check(cudaError_t status, const char* call, location at = location::here()) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that does not end the process is not seen again
  throw error(placed(std::string("cuda: ") + call + ": " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status), at));
}
inline void check(cublasStatus_t status, const char* call, const std::string& shapes = {}, location at = location::here()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw error(placed(std::string("cuda: ") + call + shapes + ": " + cublasLtGetStatusName(status), at));
}

/// The device memory that this process holds through planlm, by who asked for it.
class memory_book {
 public:
  static memory_book& get() {
    static memory_book book;
    return book;
  }
  void add(void* p, std::size_t bytes, const char* owner) {
    const std::lock_guard lock(mutex_);
    entries_[p] = {bytes, owner};
    held_[owner] += bytes;
  }
  void remove(void* p) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(p);
    if (found == entries_.end()) return;
    held_[found->second.owner] -= found->second.bytes;
    entries_.erase(found);
  }
  /// "activations 12582912, parameters and states 4096": the owners that hold something.
  std::string text() {
    const std::lock_guard lock(mutex_);
    std::string s;
    for (const auto& [owner, bytes] : held_)
      if (bytes) s += (s.empty() ? "" : ", ") + owner + " " + std::to_string(bytes);
    return s.empty() ? "nothing" : s;
  }

 private:
  struct entry {
    std::size_t bytes;
    std::string owner;
  };
  std::mutex mutex_;
  std::map<void*, entry> entries_;
  std::map<std::string, std::size_t> held_;
};

/// Device memory. memory_error says how much was asked for and by whom, what is held and by whom, and what the device has.
inline void* allocate(std::size_t bytes, const char* owner = "workspace", location at = location::here()) {
  if (bytes == 0) return nullptr;
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t left = 0, whole = 0;
    check(cudaMemGetInfo(&left, &whole), "cudaMemGetInfo", at);
    throw memory_error(placed("cuda: " + std::to_string(bytes) + " bytes for " + owner + " could not be had: " + std::to_string(left) +
                                  " of the device's " + std::to_string(whole) + " are free; this process holds " + memory_book::get().text() +
                                  "; try a smaller batch, shorter sequences, or keep_inputs",
                              at));
  }
  check(status, "cudaMalloc", at);
  memory_book::get().add(p, bytes, owner);
  return p;
}
/// Waits for the device: work that still uses the memory ends first.
inline void release(void* p) {
  if (!p) return;
  memory_book::get().remove(p);
  cudaFree(p);
}

}  // namespace planlm::cuda_detail
