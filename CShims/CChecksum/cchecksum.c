#include "cchecksum.h"

#if defined(__x86_64__)
#include <immintrin.h>

int apus_crc64nvme_can_fold(void) {
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

// x^(D+63) and x^(D-1) mod P in reflected order, for a distance of D bits. The product of two
// reflected words is one bit short of the reflected product, hence the 63 and the -1.
static const uint64_t fold_by_128[2] = {0xeadc41fd2ba3d420, 0x21e9761e252621ac};
static const uint64_t fold_by_1024[2] = {0xa1ca681e733f9c40, 0x5f852fb61e8d92dc};

__attribute__((target("pclmul,sse4.1"), always_inline)) static inline __m128i fold(
    __m128i block, __m128i keys) {
    return _mm_xor_si128(
        _mm_clmulepi64_si128(block, keys, 0x00), _mm_clmulepi64_si128(block, keys, 0x11));
}

__attribute__((target("pclmul,sse4.1"))) void apus_crc64nvme_fold(
    uint64_t state, const void *data, size_t count, void *folded) {
    const __m128i *next = data;
    const __m128i *end = next + count / 16;
    __m128i lane[8];
    for (int i = 0; i < 8; i++) lane[i] = _mm_loadu_si128(next + i);
    lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi64_si128((long long)state));
    next += 8;

    const __m128i far = _mm_loadu_si128((const __m128i *)fold_by_1024);
    for (; end - next >= 8; next += 8) {
        for (int i = 0; i < 8; i++) {
            lane[i] = _mm_xor_si128(fold(lane[i], far), _mm_loadu_si128(next + i));
        }
    }

    const __m128i near = _mm_loadu_si128((const __m128i *)fold_by_128);
    __m128i sum = lane[0];
    for (int i = 1; i < 8; i++) sum = _mm_xor_si128(fold(sum, near), lane[i]);
    for (; next < end; next++) sum = _mm_xor_si128(fold(sum, near), _mm_loadu_si128(next));
    _mm_storeu_si128(folded, sum);
}

#else

int apus_crc64nvme_can_fold(void) { return 0; }

void apus_crc64nvme_fold(uint64_t state, const void *data, size_t count, void *folded) {
    (void)state, (void)data, (void)count, (void)folded;
    __builtin_trap();
}

#endif
