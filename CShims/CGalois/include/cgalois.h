// Matrices over GF(2^8), polynomial 0x11D, applied to long vectors by the processor's affine
// transformation of bytes (GFNI). No policy here.
#ifndef APUS_CGALOIS_H
#define APUS_CGALOIS_H

#include <stddef.h>
#include <stdint.h>

/// What the processor has for the kernels, from worst to best.
enum {
    APUS_GALOIS_NONE = 0,
    /// GFNI on 32-byte vectors, with AVX2.
    APUS_GALOIS_AVX2 = 1,
    /// GFNI on 64-byte vectors, with AVX-512.
    APUS_GALOIS_AVX512 = 2,
};
int apus_galois_level(void);

/// The multiplication by `coefficient` as the 8 × 8 bit matrix that the kernels take: the
/// instruction multiplies in another field (0x11B), but any linear map of a byte's bits can be
/// given to it.
uint64_t apus_galois_matrix(uint8_t coefficient);

/// For every r < `rows` and b from `start` up to `end`:
/// outputs[r][b] = sum over c < `columns` of matrix(r, c) × inputs[c][b].
/// `matrices` has rows × columns elements made by `apus_galois_matrix`, row by row; `rows` and
/// `columns` are at least 1. Inputs and outputs do not overlap. `level` is not NONE and at most
/// that of the processor.
void apus_galois_apply(
    int level, size_t rows, size_t columns, const uint64_t *matrices,
    const uint8_t *const *inputs, uint8_t *const *outputs, size_t start, size_t end);

#endif
