// Implements core/io_ring.h.
#include "core/io_ring.h"

#include <cerrno>
#include <system_error>

#include "core/faults.h"

namespace zi {

IoRing::IoRing(unsigned entries, const IoFaultPlan& faults) {
  const int injected = faults.ring_init_errno != 0 ? faults.ring_init_errno : FaultAt(FaultPoint::kRing);
  const int result = injected != 0 ? -injected : io_uring_queue_init(entries, &ring_, 0);
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

int IoRing::Submit() {
  if (const int error = FaultAt(FaultPoint::kSubmit)) return -error;
  return io_uring_submit(&ring_);
}

int IoRing::AwaitOne() {
  if (const int error = FaultAt(FaultPoint::kAwait)) return -error;
  io_uring_cqe* first = nullptr;
  return io_uring_wait_cqe(&ring_, &first);
}

}  // namespace zi
