// liburing, and the few macros of it that Swift cannot import.
#ifndef APUS_CURING_H
#define APUS_CURING_H

// First, so that liburing's feature macros do not change what these declare: the same types must
// look the same in every module.
#include <sys/types.h>
#include <sys/select.h>

#include <liburing.h>
#include <sys/eventfd.h>

enum {
    APUS_IOSQE_FIXED_FILE = IOSQE_FIXED_FILE,
};

/// Setup flags of a ring owned by one thread.
enum {
    APUS_SETUP_OWNED = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                       IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
    APUS_SETUP_CQSIZE = IORING_SETUP_CQSIZE,
    APUS_SETUP_TASKRUN_FLAG = IORING_SETUP_TASKRUN_FLAG,
};

/// The next free submission entry, or NULL when the queue is full.
struct io_uring_sqe *apus_uring_get_sqe(struct io_uring *ring);
/// Fills an entry by hand: every field that an operation can use.
void apus_uring_fill(struct io_uring_sqe *sqe, uint8_t opcode, uint8_t sqe_flags, int32_t fd,
                     uint64_t address, uint32_t length, uint64_t offset, uint32_t op_flags,
                     uint16_t buffer_index, uint64_t user_data);
/// Marks `count` completions as seen.
void apus_uring_advance(struct io_uring *ring, uint32_t count);
/// Whether completions lie in the ring or, with `APUS_SETUP_TASKRUN_FLAG`, wait in the kernel.
int apus_uring_has_work(const struct io_uring *ring);
/// Whether completions are told to the ring's eventfd from now on. A full barrier.
void apus_uring_tell(struct io_uring *ring, int wanted);

#endif
