// A template: included once per instruction set, after these are defined:
//   NAME(x)       the name of function x
//   TARGET        its instruction sets
//   VECTOR        the vector type, of VECTOR_BYTES bytes
//   LOAD, STORE   whole vectors at any address
//   LOAD_PART, STORE_PART  the first `count` bytes of one
//   BROADCAST     a bit matrix in every 64-bit element
//   MULTIPLY      bytes by a bit matrix

// `rows` and `depth` are constants where this is expanded, so that all sums stay in registers.
// `part` is 0, or the bytes of a last vector that is not whole.
__attribute__((target(TARGET), always_inline)) static inline void NAME(load)(
    VECTOR *vectors, size_t depth, const uint8_t *from, size_t part) {
    for (size_t i = 0; i < depth; i++, from += VECTOR_BYTES) {
        vectors[i] = part ? LOAD_PART(from, part) : LOAD(from);
    }
}

__attribute__((target(TARGET), always_inline)) static inline void NAME(step)(
    size_t rows, size_t depth, size_t columns, const uint64_t *matrices,
    const uint8_t *const *inputs, uint8_t *const *outputs, size_t at, size_t part) {
    VECTOR sum[MOST_ROWS][MOST_DEPTH];
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < depth; i++) sum[r][i] = (VECTOR){0};
    }
    // Two columns at a time: one three-way exclusive or adds both products.
    size_t c = 0;
    for (; c + 1 < columns; c += 2) {
        VECTOR first[MOST_DEPTH], second[MOST_DEPTH];
        NAME(load)(first, depth, inputs[c] + at, part);
        NAME(load)(second, depth, inputs[c + 1] + at, part);
        for (size_t r = 0; r < rows; r++) {
            VECTOR a = BROADCAST(matrices[r * columns + c]);
            VECTOR b = BROADCAST(matrices[r * columns + c + 1]);
            for (size_t i = 0; i < depth; i++) {
                sum[r][i] ^= MULTIPLY(first[i], a) ^ MULTIPLY(second[i], b);
            }
        }
    }
    if (c < columns) {
        VECTOR last[MOST_DEPTH];
        NAME(load)(last, depth, inputs[c] + at, part);
        for (size_t r = 0; r < rows; r++) {
            VECTOR matrix = BROADCAST(matrices[r * columns + c]);
            for (size_t i = 0; i < depth; i++) sum[r][i] ^= MULTIPLY(last[i], matrix);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < depth; i++) {
            uint8_t *to = outputs[r] + at + i * VECTOR_BYTES;
            if (part) {
                STORE_PART(to, sum[r][i], part);
            } else {
                STORE(to, sum[r][i]);
            }
        }
    }
}

#define WITH_ROWS(count, depth) \
    __attribute__((target(TARGET))) static void NAME(rows##count)( \
        size_t columns, const uint64_t *matrices, const uint8_t *const *inputs, \
        uint8_t *const *outputs, size_t at, size_t end) { \
        for (; end - at >= depth * VECTOR_BYTES; at += depth * VECTOR_BYTES) { \
            NAME(step)(count, depth, columns, matrices, inputs, outputs, at, 0); \
        } \
        for (; end - at >= VECTOR_BYTES; at += VECTOR_BYTES) { \
            NAME(step)(count, 1, columns, matrices, inputs, outputs, at, 0); \
        } \
        if (at < end) { \
            NAME(step)(count, 1, columns, matrices, inputs, outputs, at, end - at); \
        } \
    }
