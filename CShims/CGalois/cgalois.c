#include "cgalois.h"

#include <string.h>

uint64_t apus_galois_matrix(uint8_t coefficient) {
    // Output bit i is the parity of the input and byte 7 - i of the matrix; column b of the map
    // is coefficient × 2^b.
    uint64_t matrix = 0;
    unsigned product = coefficient;
    for (int b = 0; b < 8; b++) {
        for (int i = 0; i < 8; i++) {
            matrix |= (uint64_t)(product >> i & 1) << (8 * (7 - i) + b);
        }
        product <<= 1;
        if (product > 0xFF) product ^= 0x11D;
    }
    return matrix;
}

#if defined(__x86_64__)
#include <immintrin.h>

// Rows that one pass makes, and vectors of each that it makes at a time. Sums, inputs and a matrix
// have to fit into the registers; the depths given to WITH_ROWS are those measured best.
#define MOST_ROWS 6
#define MOST_NARROW_ROWS 4
#define MOST_DEPTH 4

typedef void (*kernel)(
    size_t, const uint64_t *, const uint8_t *const *, uint8_t *const *, size_t, size_t);

// 64-byte vectors: 32 registers.
#define NAME(x) wide_##x
#define TARGET "avx512f,avx512bw,avx512vl,gfni"
#define VECTOR __m512i
#define VECTOR_BYTES 64
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_si512(p, v)
#define LOAD_PART(p, n) _mm512_maskz_loadu_epi8(~0ull >> (64 - (n)), p)
#define STORE_PART(p, v, n) _mm512_mask_storeu_epi8(p, ~0ull >> (64 - (n)), v)
#define BROADCAST(m) _mm512_set1_epi64((long long)(m))
#define MULTIPLY(v, m) _mm512_gf2p8affine_epi64_epi8(v, m, 0)
#include "galois_kernel.h"
WITH_ROWS(1, 4)
WITH_ROWS(2, 4)
WITH_ROWS(3, 4)
WITH_ROWS(4, 3)
WITH_ROWS(5, 2)
WITH_ROWS(6, 2)
#undef WITH_ROWS
#undef NAME
#undef TARGET
#undef VECTOR
#undef VECTOR_BYTES
#undef LOAD
#undef STORE
#undef LOAD_PART
#undef STORE_PART
#undef BROADCAST
#undef MULTIPLY

__attribute__((target("avx2"), always_inline)) static inline __m256i load_part(
    const uint8_t *from, size_t count) {
    uint8_t bytes[32] = {0};
    memcpy(bytes, from, count);
    return _mm256_loadu_si256((const __m256i *)bytes);
}

__attribute__((target("avx2"), always_inline)) static inline void store_part(
    uint8_t *to, __m256i vector, size_t count) {
    uint8_t bytes[32];
    _mm256_storeu_si256((__m256i *)bytes, vector);
    memcpy(to, bytes, count);
}

// 32-byte vectors: 16 registers.
#define NAME(x) narrow_##x
#define TARGET "avx2,gfni"
#define VECTOR __m256i
#define VECTOR_BYTES 32
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define LOAD_PART(p, n) load_part(p, n)
#define STORE_PART(p, v, n) store_part(p, v, n)
#define BROADCAST(m) _mm256_set1_epi64x((long long)(m))
#define MULTIPLY(v, m) _mm256_gf2p8affine_epi64_epi8(v, m, 0)
#include "galois_kernel.h"
WITH_ROWS(1, 4)
WITH_ROWS(2, 4)
WITH_ROWS(3, 3)
WITH_ROWS(4, 2)

static const kernel narrow[] = {narrow_rows1, narrow_rows2, narrow_rows3, narrow_rows4};
static const kernel wide[] = {
    wide_rows1, wide_rows2, wide_rows3, wide_rows4, wide_rows5, wide_rows6};

int apus_galois_level(void) {
    if (!__builtin_cpu_supports("gfni") || !__builtin_cpu_supports("avx2")) {
        return APUS_GALOIS_NONE;
    }
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512vl")
        ? APUS_GALOIS_AVX512
        : APUS_GALOIS_AVX2;
}

void apus_galois_apply(
    int level, size_t rows, size_t columns, const uint64_t *matrices,
    const uint8_t *const *inputs, uint8_t *const *outputs, size_t start, size_t end) {
    if (level < APUS_GALOIS_AVX2 || level > APUS_GALOIS_AVX512) __builtin_trap();
    const kernel *kernels = level == APUS_GALOIS_AVX512 ? wide : narrow;
    size_t most = level == APUS_GALOIS_AVX512 ? MOST_ROWS : MOST_NARROW_ROWS;
    while (rows > 0) {
        // Even parts rather than six and a rest: seven rows are four and three.
        size_t passes = (rows + most - 1) / most;
        size_t now = (rows + passes - 1) / passes;
        kernels[now - 1](columns, matrices, inputs, outputs, start, end);
        matrices += now * columns;
        outputs += now;
        rows -= now;
    }
}

#else

int apus_galois_level(void) { return APUS_GALOIS_NONE; }

void apus_galois_apply(
    int level, size_t rows, size_t columns, const uint64_t *matrices,
    const uint8_t *const *inputs, uint8_t *const *outputs, size_t start, size_t end) {
    (void)level, (void)rows, (void)columns, (void)matrices, (void)inputs, (void)outputs;
    (void)start, (void)end;
    __builtin_trap();
}

#endif
