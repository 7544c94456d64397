// Carry-less multiplication for CRC-64/NVME, which ISA-L 2.30 does not have. No policy here.
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

#endif
