#include "cdigest.h"

#include <string.h>

#include "md5_rounds.h"

#define STEP(f, a, b, c, d, k, s, t) \
    { \
        uint32_t sum = a + (w[k] + t); \
        __asm__("" : "+r"(sum)); /* keeps b, the last to be known, for the end of the sum */ \
        sum += f(b, c, d); \
        a = b + ((sum << s) | (sum >> (32 - s))); \
    }

static void one_message(uint32_t *state, const uint8_t *data, size_t blocks) {
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    for (; blocks > 0; blocks--, data += 64) {
        uint32_t w[16];
        memcpy(w, data, 64);
        uint32_t A = a, B = b, C = c, D = d;
        MD5_ALL_STEPS
        a += A, b += B, c += C, d += D;
    }
    state[0] = a, state[1] = b, state[2] = c, state[3] = d;
}
#undef STEP

void apus_md5_lanes_scalar(
    uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks) {
    for (size_t lane = 0; lane < count; lane++) {
        one_message(states + 4 * lane, data[lane], blocks);
    }
}

#if defined(__x86_64__)
#include <immintrin.h>

// Measured on a core of Zen 4, GB/s in total, messages in its second-level cache: scalar 0.73;
// AVX-512VL with 4 lanes 2.6, 8 lanes 5.2, two chains of 8 8.3 (one of 16: 7.8); AVX2 with 8 lanes
// 4.7, two chains of 8 6.5. 32 lanes gave 11 where lines did not share a cache set, 7.1 where they
// did, as page-aligned buffers do: not worth a wider interface.
#define NAME md5_4
#define TARGET "avx512f,avx512vl"
#define QUADS 1
#define CHAINS 1
#include "md5_kernel.h"

#define NAME md5_8
#define TARGET "avx512f,avx512vl"
#define QUADS 2
#define CHAINS 1
#include "md5_kernel.h"

#define NAME md5_16
#define TARGET "avx512f,avx512vl"
#define QUADS 2
#define CHAINS 2
#include "md5_kernel.h"

#define NAME md5_8_avx2
#define TARGET "avx2"
#define QUADS 2
#define CHAINS 1
#include "md5_kernel.h"

#define NAME md5_16_avx2
#define TARGET "avx2"
#define QUADS 2
#define CHAINS 2
#include "md5_kernel.h"

typedef void (*kernel)(uint32_t *, const uint8_t *const *, size_t);

enum level { SCALAR, AVX2, AVX512 };

static enum level level(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return AVX512;
    return __builtin_cpu_supports("avx2") ? AVX2 : SCALAR;
}

// The narrowest kernel with room for `count` messages, and its width.
static kernel choose(enum level level, size_t count, size_t *width) {
    if (level == AVX512 && count <= 4) return *width = 4, md5_4;
    if (count <= 8) return *width = 8, level == AVX512 ? md5_8 : md5_8_avx2;
    return *width = 16, level == AVX512 ? md5_16 : md5_16_avx2;
}

static void vector_lanes(
    enum level level, uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks) {
    size_t width;
    kernel run = choose(level, count, &width);
    if (width == count) {
        run(states, data, blocks);
        return;
    }
    // Lanes without a message repeat the first one's bytes; what they compute is dropped.
    uint32_t padded[4 * APUS_MD5_MOST_LANES] = {0};
    const uint8_t *bytes[APUS_MD5_MOST_LANES];
    memcpy(padded, states, 16 * count);
    for (size_t lane = 0; lane < width; lane++) bytes[lane] = data[lane < count ? lane : 0];
    run(padded, bytes, blocks);
    memcpy(states, padded, 16 * count);
}

size_t apus_md5_best_lanes(void) { return level() == SCALAR ? 1 : 16; }

void apus_md5_lanes(
    uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks) {
    enum level now = level();
    // A scalar step has the shorter chain of results: 0.73 GB/s against 0.65 for one lane of many.
    if (now == SCALAR || count == 1) {
        apus_md5_lanes_scalar(states, data, count, blocks);
    } else if (count > 1 && blocks > 0) {
        vector_lanes(now, states, data, count, blocks);
    }
}

void apus_md5_lanes_avx2(
    uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks) {
    if (level() >= AVX2) {
        vector_lanes(AVX2, states, data, count, blocks);
    } else {
        apus_md5_lanes_scalar(states, data, count, blocks);
    }
}

#else

size_t apus_md5_best_lanes(void) { return 1; }

void apus_md5_lanes(
    uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks) {
    apus_md5_lanes_scalar(states, data, count, blocks);
}

void apus_md5_lanes_avx2(
    uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks) {
    apus_md5_lanes_scalar(states, data, count, blocks);
}

#endif
