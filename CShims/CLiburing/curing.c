#include "curing.h"

struct io_uring_sqe *apus_uring_get_sqe(struct io_uring *ring) { return io_uring_get_sqe(ring); }

void apus_uring_fill(struct io_uring_sqe *sqe, uint8_t opcode, uint8_t sqe_flags, int32_t fd,
                     uint64_t address, uint32_t length, uint64_t offset, uint32_t op_flags,
                     uint16_t buffer_index, uint64_t user_data) {
    *sqe = (struct io_uring_sqe){0};
    sqe->opcode = opcode;
    sqe->flags = sqe_flags;
    sqe->fd = fd;
    sqe->addr = address;
    sqe->len = length;
    sqe->off = offset;
    sqe->rw_flags = op_flags;
    sqe->buf_index = buffer_index;
    sqe->user_data = user_data;
}

void apus_uring_advance(struct io_uring *ring, uint32_t count) { io_uring_cq_advance(ring, count); }

int apus_uring_has_work(const struct io_uring *ring) {
    return io_uring_cq_ready(ring) > 0 ||
           (__atomic_load_n(ring->sq.kflags, __ATOMIC_RELAXED) &
            (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

void apus_uring_tell(struct io_uring *ring, int wanted) {
    io_uring_cq_eventfd_toggle(ring, wanted);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
