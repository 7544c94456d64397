// Calls and constants of Linux that Swift's importer does not see, or sees in a shape that is
// hard to use. No policy here.
#ifndef APUS_CLINUX_H
#define APUS_CLINUX_H

#include <stddef.h>
#include <stdint.h>


/// Pins the calling thread to `core`. 0, or -errno.
int apus_pin_thread(int core);
/// Number of cores this process may run on.
int apus_available_cores(void);
/// The number (not the index) of the `index`th core this process may run on, or -1.
int apus_core_at(int index);
/// CLOCK_MONOTONIC in nanoseconds.
uint64_t apus_monotonic_ns(void);
/// CLOCK_REALTIME in milliseconds.
int64_t apus_realtime_ms(void);
/// User and system CPU time of this process in nanoseconds.
uint64_t apus_process_cpu_ns(void);
/// Anonymous zeroed memory aligned to `alignment` (a power of two), or NULL.
void *apus_map_memory(size_t bytes, size_t alignment);
void apus_unmap_memory(void *memory, size_t bytes);
/// Has memory that `apus_map_memory` gave consist of small pages from now on.
void apus_use_small_pages(void *memory, size_t bytes);
/// Gives the pages of private anonymous memory back; it stays mapped, and reads as zeros.
void apus_discard_memory(void *memory, size_t bytes);
/// Gives what malloc holds free back to the system, in all of its arenas.
void apus_trim_heap(void);
/// close(2).
void apus_close(int descriptor);

/// Anonymous shared memory of `bytes` that can be neither shrunk nor grown any more: its
/// descriptor, or -errno.
int apus_shared_memory(const char *name, size_t bytes);
/// Maps `bytes` of shared memory, aligned to `alignment` (a power of two), or NULL.
void *apus_map_shared(int descriptor, size_t bytes, size_t alignment);
/// The size of shared memory that is sealed against shrinking, so that no access to a map of it
/// can fault; -errno, or -EPERM if it is not sealed.
int64_t apus_sealed_size(int descriptor);
/// The effective user at the other end of a Unix-domain socket, or -errno.
int64_t apus_peer_user(int descriptor);
/// The process and the effective user at the other end of a Unix-domain socket, as they were when
/// it connected. 0, or -errno.
int apus_peer_process(int descriptor, int32_t *process, uint32_t *user);
/// Asks the other end of a TCP connection for a sign of life after `idle` seconds without one, then
/// every `interval` seconds; the connection is lost after `count` in vain.
void apus_keep_alive(int descriptor, int idle, int interval, int count);
/// The effective user of this process.
int64_t apus_user(void);

/// Bytes of control data for one descriptor.
enum { APUS_CONTROL_BYTES = 64 };
/// Writes control data that passes `descriptor` into `control`; returns its length.
size_t apus_put_descriptor(void *control, int descriptor);
/// The descriptor in `control` as recvmsg(2) left it, or -1. It is the caller's to close.
int apus_take_descriptor(void *control, size_t length);
/// Fills `address` (of at least 110 bytes) with the abstract Unix-domain address `name`; returns
/// its length, 0 if the name is too long.
unsigned apus_local_address(void *address, const char *name);

/// fallocate(2).
int apus_fallocate(int descriptor, int mode, int64_t offset, int64_t length);
/// accept4(2) without the address, close-on-exec.
int apus_accept(int descriptor);
/// Names the calling thread, cut to 15 bytes.
void apus_name_thread(const char *name);

enum {
    APUS_SOCK_CLOEXEC = 02000000,
    APUS_SOCK_STREAM = 02000001,
    APUS_AF_UNIX = 1,
    APUS_MSG_CMSG_CLOEXEC = 0x40000000,
    APUS_O_DIRECT = 040000,
    APUS_O_TMPFILE = 020200000,
    APUS_FALLOC_FL_KEEP_SIZE = 1,
    APUS_FALLOC_FL_PUNCH_HOLE = 2,
    APUS_FALLOC_FL_ZERO_RANGE = 16,
};

#endif
