#define _GNU_SOURCE
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

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

int apus_shared_memory(const char *name, size_t bytes) {
    int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0) return -errno;
    if (ftruncate(descriptor, (off_t)bytes) != 0 ||
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int code = errno;
        close(descriptor);
        return -code;
    }
    return descriptor;
}

void *apus_map_shared(int descriptor, size_t bytes, size_t alignment) {
    // Address space first, so that the map can begin at an aligned place of it.
    char *memory = apus_map_memory(bytes, alignment);
    if (memory == NULL) return NULL;
    void *mapped = mmap(memory, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor, 0);
    if (mapped == MAP_FAILED) {
        munmap(memory, bytes);
        return NULL;
    }
    // Only where the administrator lets shared memory have huge pages (shmem_enabled=advise).
    madvise(mapped, bytes, MADV_HUGEPAGE);
    return mapped;
}

int64_t apus_sealed_size(int descriptor) {
    int seals = fcntl(descriptor, F_GET_SEALS);
    if (seals < 0) return -errno;
    if ((seals & F_SEAL_SHRINK) == 0) return -EPERM;
    struct stat status;
    if (fstat(descriptor, &status) != 0) return -errno;
    return status.st_size;
}

int64_t apus_peer_user(int descriptor) {
    struct ucred peer;
    socklen_t size = sizeof(peer);
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return -errno;
    return peer.uid;
}

int apus_peer_process(int descriptor, int32_t *process, uint32_t *user) {
    struct ucred peer;
    socklen_t size = sizeof(peer);
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return -errno;
    *process = peer.pid;
    *user = peer.uid;
    return 0;
}

void apus_keep_alive(int descriptor, int idle, int interval, int count) {
    int one = 1;
    if (setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) != 0) return;
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

int64_t apus_user(void) { return geteuid(); }

size_t apus_put_descriptor(void *control, int descriptor) {
    struct cmsghdr *head = control;
    memset(control, 0, APUS_CONTROL_BYTES);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &descriptor, sizeof(int));
    return CMSG_SPACE(sizeof(int));
}

int apus_take_descriptor(void *control, size_t length) {
    struct msghdr message = {.msg_control = control, .msg_controllen = length};
    int found = -1;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL;
         head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t index = 0; index < count; index++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(head) + index * sizeof(int), sizeof(int));
            if (found < 0) {
                found = descriptor;
            } else {
                close(descriptor);
            }
        }
    }
    return found;
}

unsigned apus_local_address(void *address, const char *name) {
    struct sockaddr_un *target = address;
    size_t length = strlen(name);
    if (length + 1 > sizeof(target->sun_path)) return 0;
    memset(target, 0, sizeof(*target));
    target->sun_family = AF_UNIX;
    // A leading zero byte: a name of the network namespace, not of a file.
    memcpy(target->sun_path + 1, name, length);
    return (unsigned)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

void apus_close(int descriptor) { close(descriptor); }

void apus_unmap_memory(void *memory, size_t bytes) { munmap(memory, bytes); }

void apus_use_small_pages(void *memory, size_t bytes) { madvise(memory, bytes, MADV_NOHUGEPAGE); }

void apus_discard_memory(void *memory, size_t bytes) { madvise(memory, bytes, MADV_DONTNEED); }

void apus_trim_heap(void) { malloc_trim(0); }

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
