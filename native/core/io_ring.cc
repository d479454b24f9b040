// Implements core/io_ring.h.
#include "core/io_ring.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>

namespace zi {

IoRing::IoRing(unsigned entries, const IoFaultPlan& faults) {
  const int result = faults.ring_init_errno != 0 ? -faults.ring_init_errno : io_uring_queue_init(entries, &ring_, 0);
  if (result < 0) throw std::system_error(-result, std::generic_category(), "io_uring_queue_init");
  // Kernels before 5.6 have rings, but not the plain read that everything falls back to.
  io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
  const bool reads = probe && io_uring_opcode_supported(probe, IORING_OP_READ);
  if (probe) io_uring_free_probe(probe);
  if (!reads) {
    io_uring_queue_exit(&ring_);
    throw std::system_error(ENOSYS, std::generic_category(), "io_uring without IORING_OP_READ");
  }
}

IoRing::~IoRing() { io_uring_queue_exit(&ring_); }

void IoRing::SubmitAll() {
  while (io_uring_sq_ready(&ring_) > 0) {
    const int result = io_uring_submit(&ring_);
    if (result >= 0) continue;
    if (result != -EAGAIN && result != -EBUSY && result != -EINTR) {
      // Anything else says that the ring itself is misused; reads that are neither queued nor in flight have no owner.
      fprintf(stderr, "zero-inference: io_uring_submit failed: %s\n", strerror(-result));
      abort();
    }
    usleep(1000);
  }
}

}  // namespace zi
