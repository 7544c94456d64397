// Carry-less multiplication for CRC-64/NVME, which ISA-L 2.30 does not have, and for CRC32C, which
// it does with one unit of the processor instead of two. No policy here.
#ifndef APUS_CCHECKSUM_H
#define APUS_CCHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/// Whether `apus_crc64nvme_fold` works on this processor.
int apus_crc64nvme_can_fold(void);

/// Folds the `count` bytes at `data`, entered with the raw (not inverted) CRC register `state`,
/// into 16 bytes at `folded`: feeding these to a register of zero gives the register after `data`.
/// `count` is a multiple of 16 and at least 256.
void apus_crc64nvme_fold(uint64_t state, const void *data, size_t count, void *folded);

/// Whether the functions below work on this processor.
int apus_crc32c_can_fold(void);

/// The raw (not inverted) CRC32C register `state` after `count` bytes at `data`.
uint32_t apus_crc32c(uint32_t state, const void *data, size_t count);

/// The same, faster where the bytes are in the second-level cache, slower where they are not.
uint32_t apus_crc32c_cached(uint32_t state, const void *data, size_t count);

/// The same as `apus_crc32c`; also copies the bytes to `to`, which does not overlap them.
uint32_t apus_crc32c_copy(uint32_t state, const void *from, void *to, size_t count);

/// The same as `apus_crc32c_copy`, past the cache: for copies that are not read again soon.
uint32_t apus_crc32c_stream_copy(
    uint32_t state, const void *from, void *to, size_t count);

#endif
