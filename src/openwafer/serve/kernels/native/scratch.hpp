// Memory of the calling thread that is needed during one call.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace openwafer::serve {

class Scratch {
 public:
  // At least so many bytes, at a multiple of 64; what was in them before is lost.
  void* take(size_t bytes) {
    if (bytes > size_) {
      memory_.reset();
      memory_.reset(static_cast<char*>(::operator new(bytes, std::align_val_t(64))));
      size_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t size_ = 0;
};

}  // namespace openwafer::serve
