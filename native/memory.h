// Page-aligned zeroed memory, in huge pages where the system has them.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace octavo {

class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes ? bytes : 1), data_(allocate(bytes_)) {}
  ~Memory() { release(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
#if defined(OCTAVO_SANITIZE)  // from the heap: AddressSanitizer guards the ends of heap memory, not of mapped pages
  static uint8_t* allocate(size_t bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, 4096, bytes)) throw std::bad_alloc();
    return static_cast<uint8_t*>(std::memset(p, 0, bytes));
  }
  static void release(uint8_t* data, size_t) { std::free(data); }
#else
  static uint8_t* allocate(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (bytes >= size_t(4) << 20) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return static_cast<uint8_t*>(p);
  }
  static void release(uint8_t* data, size_t bytes) { munmap(data, bytes); }
#endif

  size_t bytes_;
  uint8_t* data_;
};

}  // namespace octavo
