#include "cchecksum.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

// CRC32C by carry-less multiplication of 64-byte vectors; where the bytes are in cache, by the
// instruction for CRC32C on words as well. On Zen 4 the first does 16 bytes a cycle and the second
// 8, in different units of the processor, so a block is split between them two to one and the
// registers of the parts are put together at its end. From further away the runs of words, which
// begin anywhere in a page, hinder the fetching ahead. GB/s, 4 KiB units, vectors / both:
// second-level cache 54 / 59, third-level 52 / 30, memory 31 / 11.
//
// Polynomials are bit-reflected. A vector is folded over a distance of D bits by multiplying the
// halves of its 128-bit quarters by x^(D+63) and x^(D-1) modulo the generator: the product of two
// reflected words is one bit short of the reflected product, hence the 63 and the -1.
static const uint64_t fold_by_128[2] = {0x3743f7bd00000000, 0x3171d43000000000};
static const uint64_t fold_by_256[2] = {0x33ccbbbc00000000, 0xa2158b3400000000};
static const uint64_t fold_by_384[2] = {0xa46ef4aa00000000, 0x6051243f00000000};
static const uint64_t fold_by_512[2] = {0x1c19243b00000000, 0x75bba45b00000000};
static const uint64_t fold_by_2048[2] = {0xe9a5d8be00000000, 0x1426a81500000000};

// A block: ROUNDS times 256 bytes by vectors, then 256 more, then STREAMS runs of ROUNDS times 32
// bytes by words. Together the store's checksum unit.
enum {
    BLOCK = 4096,
    ROUNDS = 10,
    STREAMS = 4,
    VECTOR_PART = ROUNDS * 256 + 256,
    STREAM = ROUNDS * 32,
};
_Static_assert(VECTOR_PART + STREAMS * STREAM == BLOCK, "the parts make a block");

// x^(8 × STREAM × (i + 1) - 33): multiplies a register by the bytes of i + 1 streams behind it. The
// reduction by the CRC instruction gives x^32, the product of reflected words one more.
static const uint64_t shift[STREAMS] = {0xbac2fd7b, 0x6b749fb2, 0x3771e98f, 0xdd66cbbb};

#define TARGET \
    __attribute__((target( \
        "avx512f,avx512bw,avx512dq,avx512vl,vpclmulqdq,pclmul,sse4.2")))
#define TARGET_INLINE \
    __attribute__((target( \
        "avx512f,avx512bw,avx512dq,avx512vl,vpclmulqdq,pclmul,sse4.2"), always_inline)) \
    static inline

int apus_crc32c_can_fold(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("pclmul")
        && __builtin_cpu_supports("sse4.2");
}

TARGET_INLINE __m512i wide_keys(const uint64_t *keys) {
    return _mm512_broadcast_i64x2(_mm_loadu_si128((const __m128i *)keys));
}

// `block` moved on by the distance of `keys`, and `next` added.
TARGET_INLINE __m512i fold(__m512i block, __m512i keys, __m512i next) {
    return _mm512_ternarylogic_epi64(
        _mm512_clmulepi64_epi128(block, keys, 0x00), _mm512_clmulepi64_epi128(block, keys, 0x11),
        next, 0x96);
}

TARGET_INLINE __m128i fold_quarter(__m128i block, const uint64_t *keys) {
    __m128i k = _mm_loadu_si128((const __m128i *)keys);
    return _mm_xor_si128(
        _mm_clmulepi64_si128(block, k, 0x00), _mm_clmulepi64_si128(block, k, 0x11));
}

// The register after the bytes that four vectors in a row stand for.
TARGET_INLINE uint32_t reduce(const __m512i *lane) {
    __m512i near = wide_keys(fold_by_512);
    __m512i sum = fold(fold(fold(lane[0], near, lane[1]), near, lane[2]), near, lane[3]);
    __m128i a = fold_quarter(_mm512_extracti64x2_epi64(sum, 0), fold_by_384);
    __m128i b = fold_quarter(_mm512_extracti64x2_epi64(sum, 1), fold_by_256);
    __m128i c = fold_quarter(_mm512_extracti64x2_epi64(sum, 2), fold_by_128);
    __m128i last = _mm_xor_si128(
        _mm_xor_si128(a, b), _mm_xor_si128(c, _mm512_extracti64x2_epi64(sum, 3)));
    uint64_t crc = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(last));
    return (uint32_t)_mm_crc32_u64(crc, (uint64_t)_mm_extract_epi64(last, 1));
}

// The product of a register and a constant, for the CRC instruction to reduce.
TARGET_INLINE __m128i multiply(uint64_t crc, uint64_t constant) {
    return _mm_clmulepi64_si128(
        _mm_cvtsi64_si128((long long)crc), _mm_cvtsi64_si128((long long)constant), 0);
}

TARGET_INLINE uint64_t word(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

// What becomes of the bytes that are checksummed.
enum fate { READ, COPY, STREAM_COPY };

// Loads 64 bytes from `offset` behind `from`, and copies them to the same place behind `to`.
TARGET_INLINE __m512i take(enum fate fate, const uint8_t *from, uint8_t *to, size_t offset) {
    __m512i bytes = _mm512_loadu_si512(from + offset);
    if (fate == COPY) _mm512_storeu_si512(to + offset, bytes);
    if (fate == STREAM_COPY) _mm512_stream_si512((__m512i *)(to + offset), bytes);
    return bytes;
}

// The first vector with the register before it taken in.
TARGET_INLINE __m512i enter(uint32_t crc, __m512i first) {
    return _mm512_xor_si512(first, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
}

// The register after BLOCK bytes, by both units.
TARGET_INLINE uint32_t block(uint32_t crc, const uint8_t *from) {
    __m512i lane[4];
    for (int i = 0; i < 4; i++) lane[i] = take(READ, from, 0, 64 * i);
    lane[0] = enter(crc, lane[0]);
    const __m512i far = wide_keys(fold_by_2048);
    uint64_t stream[STREAMS] = {0};
    for (size_t round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < 4; i++) {
            lane[i] = fold(lane[i], far, take(READ, from, 0, 256 * round + 256 + 64 * i));
            for (int s = 0; s < STREAMS; s++) {
                size_t at = VECTOR_PART + STREAM * s + 32 * round + 8 * i;
                stream[s] = _mm_crc32_u64(stream[s], word(from + at));
            }
        }
    }
    __m128i sum = multiply(reduce(lane), shift[STREAMS - 1]);
    for (int s = 0; s + 1 < STREAMS; s++) {
        sum = _mm_xor_si128(sum, multiply(stream[s], shift[STREAMS - 2 - s]));
    }
    uint64_t shifted = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(sum));
    return (uint32_t)(shifted ^ stream[STREAMS - 1]);
}

// The register after `count` bytes, a multiple of 256 and not 0, by vectors alone.
TARGET_INLINE uint32_t run(
    enum fate fate, uint32_t crc, const uint8_t *from, uint8_t *to, size_t count) {
    __m512i lane[4];
    for (int i = 0; i < 4; i++) lane[i] = take(fate, from, to, 64 * i);
    lane[0] = enter(crc, lane[0]);
    const __m512i far = wide_keys(fold_by_2048);
    for (size_t at = 256; at < count; at += 256) {
        for (int i = 0; i < 4; i++) {
            lane[i] = fold(lane[i], far, take(fate, from, to, at + 64 * i));
        }
    }
    return reduce(lane);
}

// The register after `count` bytes, a few, by words.
TARGET_INLINE uint32_t words(uint32_t crc, const uint8_t *from, size_t count) {
    uint64_t wide = crc;
    for (; count >= 8; count -= 8, from += 8) wide = _mm_crc32_u64(wide, word(from));
    crc = (uint32_t)wide;
    for (; count > 0; count--, from++) crc = _mm_crc32_u8(crc, *from);
    return crc;
}

TARGET_INLINE uint32_t runs_and_words(
    enum fate fate, uint32_t crc, const uint8_t *from, uint8_t *to, size_t count) {
    size_t even = count & ~(size_t)255;
    if (even > 0) crc = run(fate, crc, from, to, even);
    if (fate != READ) memcpy(to + even, from + even, count - even);
    return words(crc, from + even, count - even);
}

TARGET uint32_t apus_crc32c(uint32_t state, const void *data, size_t count) {
    return runs_and_words(READ, state, data, 0, count);
}

TARGET uint32_t apus_crc32c_cached(uint32_t state, const void *data, size_t count) {
    const uint8_t *from = data;
    for (; count >= BLOCK; count -= BLOCK, from += BLOCK) state = block(state, from);
    return runs_and_words(READ, state, from, 0, count);
}

TARGET uint32_t apus_crc32c_copy(uint32_t state, const void *from, void *to, size_t count) {
    return runs_and_words(COPY, state, from, to, count);
}

TARGET uint32_t apus_crc32c_stream_copy(
    uint32_t state, const void *from, void *to, size_t count) {
    // Streaming stores need whole lines.
    size_t head = -(uintptr_t)to & 63;
    if (head > count) head = count;
    memcpy(to, from, head);
    state = words(state, from, head);
    state = runs_and_words(
        STREAM_COPY, state, (const uint8_t *)from + head, (uint8_t *)to + head, count - head);
    // They are ordered with nothing else; whoever is told of the copy has to see it.
    _mm_sfence();
    return state;
}

#else

int apus_crc32c_can_fold(void) { return 0; }

uint32_t apus_crc32c(uint32_t state, const void *data, size_t count) {
    (void)state, (void)data, (void)count;
    __builtin_trap();
}

uint32_t apus_crc32c_cached(uint32_t state, const void *data, size_t count) {
    return apus_crc32c(state, data, count);
}

uint32_t apus_crc32c_copy(uint32_t state, const void *from, void *to, size_t count) {
    (void)to;
    return apus_crc32c(state, from, count);
}

uint32_t apus_crc32c_stream_copy(
    uint32_t state, const void *from, void *to, size_t count) {
    (void)to;
    return apus_crc32c(state, from, count);
}

#endif
