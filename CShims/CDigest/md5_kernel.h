// MD5 of several messages side by side, a message per 32-bit lane of a vector. A template: included
// once per width, after these are defined:
//   NAME      the function
//   TARGET    its instruction sets
//   QUADS     128-bit parts of a vector: 1 or 2
//   CHAINS    vectors advanced together, 1 or 2. One chain of steps waits for its own results; a
//             second one fills the gaps
// The function takes 4 × QUADS × CHAINS messages.

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define LANES (4 * QUADS)
#define VECTOR JOIN(NAME, _vector)
#if QUADS == 2
#define PACK(name, a, b) _mm256_##name((__m256i)(a), (__m256i)(b))
#else
#define PACK(name, a, b) _mm_##name((__m128i)(a), (__m128i)(b))
#endif

typedef uint32_t VECTOR __attribute__((vector_size(16 * QUADS)));

// Words 4 × `part` … 4 × `part` + 3 of the block of every lane: out[w] has word w of lane l at l.
// The 128-bit parts come from memory straight to their place, so that only the words within one
// need shuffling. (Whole lines and a full transposition measured 3 to 8 % slower, 64-byte vectors
// 5 %.)
__attribute__((target(TARGET), always_inline)) static inline void JOIN(NAME, _words)(
    const uint8_t *const *data, size_t offset, VECTOR *out) {
    VECTOR row[4];
    for (int r = 0; r < 4; r++) {
        for (int q = 0; q < QUADS; q++) {
            memcpy((char *)&row[r] + 16 * q, data[4 * q + r] + offset, 16);
        }
    }
    typedef uint64_t pair __attribute__((vector_size(16 * QUADS)));
    pair low01 = (pair)PACK(unpacklo_epi32, row[0], row[1]);
    pair high01 = (pair)PACK(unpackhi_epi32, row[0], row[1]);
    pair low23 = (pair)PACK(unpacklo_epi32, row[2], row[3]);
    pair high23 = (pair)PACK(unpackhi_epi32, row[2], row[3]);
    out[0] = (VECTOR)PACK(unpacklo_epi64, low01, low23);
    out[1] = (VECTOR)PACK(unpackhi_epi64, low01, low23);
    out[2] = (VECTOR)PACK(unpacklo_epi64, high01, high23);
    out[3] = (VECTOR)PACK(unpackhi_epi64, high01, high23);
}

#define ONE(n, f, a, b, c, d, k, s, t) \
    { \
        VECTOR sum = a##n + (w##n[k] + t); \
        __asm__("" : "+v"(sum)); /* keeps b, the last to be known, for the end of the sum */ \
        sum += f(b##n, c##n, d##n); \
        a##n = b##n + ((sum << s) | (sum >> (32 - s))); \
    }
#if CHAINS == 2
#define STEP(...) ONE(0, __VA_ARGS__) ONE(1, __VA_ARGS__)
#else
#define STEP(...) ONE(0, __VA_ARGS__)
#endif

__attribute__((target(TARGET))) static void NAME(
    uint32_t *states, const uint8_t *const *data, size_t blocks) {
    VECTOR state[2][4];
    for (int n = 0; n < CHAINS; n++) {
        for (int word = 0; word < 4; word++) {
            for (int lane = 0; lane < LANES; lane++) {
                state[n][word][lane] = states[4 * (n * LANES + lane) + word];
            }
        }
    }
    VECTOR a0 = state[0][0], b0 = state[0][1], c0 = state[0][2], d0 = state[0][3];
#if CHAINS == 2
    VECTOR a1 = state[1][0], b1 = state[1][1], c1 = state[1][2], d1 = state[1][3];
#endif
    for (size_t block = 0; block < blocks; block++) {
        VECTOR w0[16];
        for (int part = 0; part < 4; part++) {
            JOIN(NAME, _words)(data, 64 * block + 16 * part, w0 + 4 * part);
        }
        VECTOR A0 = a0, B0 = b0, C0 = c0, D0 = d0;
#if CHAINS == 2
        VECTOR w1[16];
        for (int part = 0; part < 4; part++) {
            JOIN(NAME, _words)(data + LANES, 64 * block + 16 * part, w1 + 4 * part);
        }
        VECTOR A1 = a1, B1 = b1, C1 = c1, D1 = d1;
#endif
        MD5_ALL_STEPS
        a0 += A0, b0 += B0, c0 += C0, d0 += D0;
#if CHAINS == 2
        a1 += A1, b1 += B1, c1 += C1, d1 += D1;
#endif
    }
    state[0][0] = a0, state[0][1] = b0, state[0][2] = c0, state[0][3] = d0;
#if CHAINS == 2
    state[1][0] = a1, state[1][1] = b1, state[1][2] = c1, state[1][3] = d1;
#endif
    for (int n = 0; n < CHAINS; n++) {
        for (int word = 0; word < 4; word++) {
            for (int lane = 0; lane < LANES; lane++) {
                states[4 * (n * LANES + lane) + word] = state[n][word][lane];
            }
        }
    }
}

#undef STEP
#undef ONE
#undef PACK
#undef VECTOR
#undef LANES
#undef JOIN
#undef JOIN2
#undef CHAINS
#undef QUADS
#undef TARGET
#undef NAME
