// ISA-L: erasure coding and CRCs.
#ifndef APUS_CISAL_H
#define APUS_CISAL_H

#include <isa-l.h>
#include <isa-l/crc.h>
#include <isa-l/crc64.h>
#include <isa-l/erasure_code.h>
#include <isa-l/raid.h>

#endif
