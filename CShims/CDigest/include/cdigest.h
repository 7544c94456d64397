// MD5 (RFC 1321) over whole blocks, one message or several side by side. No policy here: which
// messages go together, and what becomes of the bytes past the last whole block, is the caller's.
#ifndef APUS_CDIGEST_H
#define APUS_CDIGEST_H

#include <stddef.h>
#include <stdint.h>

/// Most messages that one call of `apus_md5_lanes` takes.
#define APUS_MD5_MOST_LANES 16

/// How many messages side by side this processor advances at the best rate in total.
size_t apus_md5_best_lanes(void);

/// Advances `count` states, at `states` four words each, by `blocks` blocks of 64 bytes:
/// state i by those at `data[i]`. `count` is at most `APUS_MD5_MOST_LANES`.
void apus_md5_lanes(
    uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks);

/// The same without the processor's vectors, one message after the other.
void apus_md5_lanes_scalar(
    uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks);

/// The same with AVX2 at most, so that tests reach it on wider processors.
void apus_md5_lanes_avx2(
    uint32_t *states, const uint8_t *const *data, size_t count, size_t blocks);

#endif
