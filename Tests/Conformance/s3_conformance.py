#!/usr/bin/env python3
"""Runs all S3 conformance checks against an endpoint.

    APUS_S3_ENDPOINT=http://127.0.0.1:9878 APUS_S3_CREDENTIALS=DIR/credentials \
        python3 s3_conformance.py [WORD …]

Prints a line for each check and closes with "N passed, N failed"; exits with 1 if any failed.
Words choose the checks whose names contain one of them. Checks that need a program or a user
that is not there say so and count as neither.
"""

import sys
import time
import traceback

import harness
import s3_buckets
import s3_multipart
import s3_objects
import s3_lists
import s3_raw
import s3_tools
import s3_users

MODULES = [s3_buckets, s3_objects, s3_lists, s3_multipart, s3_users, s3_raw, s3_tools]


def main():
    words = sys.argv[1:]
    passed, failed, skipped = 0, 0, 0
    for module in MODULES:
        for name, check in list(vars(module).items()):
            if not name.startswith("test_") or (words and not any(w in name for w in words)):
                continue
            label = f"{module.__name__}.{name[5:]}"
            started = time.time()
            try:
                check()
            except harness.Skip as reason:
                skipped += 1
                print(f"skip {label}: {reason}", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAIL {label}: {type(error).__name__}: {error}", flush=True)
                traceback.print_exc()
            else:
                passed += 1
                print(f"ok   {label} ({time.time() - started:.2f} s)", flush=True)
    try:
        harness.remove_buckets()
    except Exception as error:
        failed += 1
        print(f"FAIL removing the buckets: {error}")
    print(f"{skipped} skipped")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
