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
