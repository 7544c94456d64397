#define _GNU_SOURCE
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <time.h>

int apus_pin_thread(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0 ? 0 : -errno;
}

int apus_available_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
    return CPU_COUNT(&set);
}

int apus_core_at(int index) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return -1;
    for (int core = 0; core < CPU_SETSIZE; core++) {
        if (CPU_ISSET(core, &set) && index-- == 0) return core;
    }
    return -1;
}

uint64_t apus_monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int64_t apus_realtime_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint64_t apus_process_cpu_ns(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    uint64_t user = (uint64_t)usage.ru_utime.tv_sec * 1000000000u + usage.ru_utime.tv_usec * 1000u;
    uint64_t kernel = (uint64_t)usage.ru_stime.tv_sec * 1000000000u + usage.ru_stime.tv_usec * 1000u;
    return user + kernel;
}

void *apus_map_memory(size_t bytes, size_t alignment) {
    size_t total = bytes + alignment;
    char *memory = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    size_t head = (alignment - ((uintptr_t)memory & (alignment - 1))) & (alignment - 1);
    if (head != 0) munmap(memory, head);
    // Where it can be huge pages: a disk's request holds a limited number of pieces (254 with
    // virtio), and a MiB of small pages is 256.
    madvise(memory + head, bytes, MADV_HUGEPAGE);
    size_t tail = total - head - bytes;
    if (tail != 0) munmap(memory + head + bytes, tail);
    return memory + head;
}

void apus_unmap_memory(void *memory, size_t bytes) { munmap(memory, bytes); }

int apus_fallocate(int descriptor, int mode, int64_t offset, int64_t length) {
    return fallocate(descriptor, mode, offset, length);
}

int apus_accept(int descriptor) { return accept4(descriptor, NULL, NULL, SOCK_CLOEXEC); }

void apus_name_thread(const char *name) {
    char cut[16];
    strncpy(cut, name, sizeof(cut) - 1);
    cut[sizeof(cut) - 1] = 0;
    pthread_setname_np(pthread_self(), cut);
}
