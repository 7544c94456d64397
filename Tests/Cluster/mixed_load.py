"""A mixed load of S3 clients that holds every answer against what was acknowledged (expected.py).

Each worker writes keys of its own and reads those of all. What is asked is repeated until it is
answered, as clients do, for a bounded time."""

import collections
import contextlib
import itertools
import random
import threading
import time

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError, ClientError, ConnectionError as BotoConnectionError, HTTPClientError,
    IncompleteReadError, ReadTimeoutError, ResponseStreamingError)

import expected
from expected import ABSENT, Register, Violation

BUCKET = "chaos"
KEYS_OF_WORKER = 25
MIB = 1 << 20
# S3's least part, of all but the last.
PART = 5 * MIB
# One try: longer than any role waits for another.
LONGEST_TRY = 45
# One operation with its repetitions. What is not answered by then is a violation.
LONGEST_OPERATION = 120
KINDS = {"put": 24, "get": 36, "ranged get": 16, "delete": 7, "multipart": 3, "head": 6, "list": 5,
         "copy": 3}
SIZES = [(1, 1, 8), (2, 4096, 25), (4097, 300_000, 30), (300_001, MIB, 17), (MIB, 4 * MIB, 20)]


class Unanswered(Exception):
    """No answer within the time that an operation has."""


class Tally:
    """What came of it; all threads write here."""

    def __init__(self):
        self.lock = threading.Lock()
        self.operations = collections.Counter()
        self.bytes = collections.Counter()
        # By kind: how often, and the first examples.
        self.errors = collections.Counter()
        self.examples = {}
        self.violations = []
        self.lost_bytes = 0
        self.slowest = {}
        # The most tries that an operation took, and which it was.
        self.most_tries = (0, None)
        # When a read and a write last succeeded, and the longest time without.
        self.last, self.gaps = {}, {}
        # The report is made: what comes now is of a cluster that is being taken down.
        self.is_closed = False

    def error(self, kind, detail):
        with self.lock:
            self.errors[kind] += 1
            if self.errors[kind] <= 3:
                self.examples.setdefault(kind, []).append(f"{time.strftime('%H:%M:%S')} {detail}")

    def tried(self, tries, what):
        with self.lock:
            self.most_tries = max(self.most_tries, (tries, what))

    def violation(self, kind, detail, lost=0):
        with self.lock:
            if self.is_closed:
                return
            self.lost_bytes += lost
            self.violations.append({"kind": kind, "at": time.strftime("%H:%M:%S"),
                                    "detail": detail})
            count = len(self.violations)
        if count <= 20:
            print(f"  VIOLATION {time.strftime('%H:%M:%S')} {kind}: {detail}", flush=True)

    def done(self, kind, began, moved=0, what=None):
        now = time.monotonic()
        way = "read" if kind in ("get", "ranged get", "head", "list") else "write"
        with self.lock:
            self.operations[kind] += 1
            self.bytes[way] += moved
            if now - began > self.slowest.get(kind, (0,))[0]:
                self.slowest[kind] = (now - began, time.strftime("%H:%M:%S"), what)
            self._note_gap(way, now)
            self.last[way] = now

    def _note_gap(self, way, now):
        gap = now - self.last.get(way, now)
        if gap > self.gaps.get(way, (0,))[0]:
            self.gaps[way] = (gap, time.strftime("%H:%M:%S"))

    def stop_waiting(self):
        """The load ends: what has not succeeded by now did not, and what comes is no part of it."""
        with self.lock:
            for way in list(self.last):
                self._note_gap(way, time.monotonic())
            self.last.clear()


def client_of(endpoint, credentials):
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=credentials[0],
        aws_secret_access_key=credentials[1],
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1},
                      connect_timeout=5, read_timeout=LONGEST_TRY))


class Gateways:
    """The clients of one worker, one a gateway, and what excuses a connection that breaks."""

    def __init__(self, endpoints, credentials, is_troubled):
        """`is_troubled(name, since)`: whether something was done to a gateway since then."""
        self.is_troubled = is_troubled
        self.clients = {name: client_of(endpoint, credentials)
                        for name, endpoint in endpoints.items()}


class Load:
    def __init__(self, seed, workers, gateways):
        """`gateways()` makes a worker's clients."""
        self.seed, self.gateways = seed, gateways
        self.tally = Tally()
        self.ended = threading.Event()
        self.resting = threading.Event()
        self.pace = 0.01
        self.registers = {f"w{worker:02d}/k{number:03d}": None for worker in range(workers)
                          for number in range(KEYS_OF_WORKER)}
        self.registers = {key: Register(key) for key in self.registers}
        self.workers = [Worker(self, number) for number in range(workers)]
        self.threads = []

    def start(self):
        for worker in self.workers:
            thread = threading.Thread(target=worker.run, daemon=True)
            self.threads.append(thread)
            thread.start()

    @contextlib.contextmanager
    def rest(self):
        """Nothing is asked meanwhile; it begins when what is under way has ended."""
        self.resting.set()
        try:
            end = time.monotonic() + LONGEST_OPERATION + LONGEST_TRY
            while not all(worker.is_idle for worker in self.workers):
                assert time.monotonic() < end, "the load does not come to rest"
                time.sleep(0.05)
            yield
        finally:
            self.resting.clear()

    def stop(self):
        """Ends when each worker's operation has. Names those that do not."""
        self.ended.set()
        end = time.monotonic() + LONGEST_OPERATION + LONGEST_TRY + 30
        for thread, worker in zip(self.threads, self.workers):
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                self.tally.violation("no answer", f"worker {worker.number} hangs in {worker.at}")
        self.tally.stop_waiting()

    def reader(self):
        """A worker that is not among those that run: it reads all keys at the end."""
        return Worker(self, len(self.workers))

    @property
    def stored(self):
        """Bytes that are to be there, as far as is known."""
        return sum(register.size or 0 for register in self.registers.values())


class Worker:
    def __init__(self, load, number):
        self.load, self.number = load, number
        self.tally = load.tally
        self.chance = random.Random(f"{load.seed} {number}")
        self.gateways = load.gateways()
        self.keys = [key for key in load.registers if key.startswith(f"w{number:02d}/")]
        self.at = "nothing"
        # Rests, as the load does.
        self.is_idle = False

    def run(self):
        kinds, weights = zip(*KINDS.items())
        while not self.load.ended.is_set():
            self.is_idle = self.load.resting.is_set()
            if self.is_idle:
                time.sleep(0.05)
                continue
            kind = self.chance.choices(kinds, weights)[0]
            try:
                getattr(self, "do_" + kind.replace(" ", "_"))()
            except Unanswered as error:
                self.tally.violation("no answer", str(error))
            except Exception as error:  # a fault of the rig is one too: it must not go unseen
                self.tally.violation("rig", f"{kind}: {type(error).__name__}: {error}")
            time.sleep(self.chance.uniform(0, 2 * self.load.pace))

    # Trying

    def answered(self, what, call, unsure=None):
        """What `call(client)` returns, tried until it does; `unsure()` is told of each try that
        nobody knows the end of."""
        self.at = what
        began = time.monotonic()
        for tries in itertools.count(1):
            self.tally.tried(tries, what)
            name = self.chance.choice(list(self.gateways.clients))
            tried = time.monotonic()
            try:
                return call(self.gateways.clients[name])
            except (ClientError, BotoCoreError, urllib3.exceptions.HTTPError,
                    ConnectionError) as error:
                if not self._note(what, name, tried, error):
                    raise
                if unsure:
                    unsure()
            if time.monotonic() > began + LONGEST_OPERATION:
                raise Unanswered(f"{what}: not in {LONGEST_OPERATION} s")
            time.sleep(self.chance.uniform(0.05, 0.5))

    def _note(self, what, name, tried, error):
        """Counts an error; whether it is one that is tried again."""
        took = time.monotonic() - tried
        detail = f"{what} at {name} after {took:.1f} s: {error}"
        if isinstance(error, ClientError):
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            code = error.response["Error"]["Code"]
            if status < 500:
                return False
            self.tally.error(f"{status} {code}", detail)
            return True
        if isinstance(error, (ReadTimeoutError, urllib3.exceptions.ReadTimeoutError)):
            kind = "no answer in time"
        elif isinstance(error, (IncompleteReadError, ResponseStreamingError,
                                urllib3.exceptions.ProtocolError)):
            kind = "body cut off"
        elif isinstance(error, (BotoConnectionError, HTTPClientError, ConnectionError,
                                urllib3.exceptions.HTTPError)):
            kind = "connection broken"
        else:
            return False
        if self.gateways.is_troubled(name, tried):
            self.tally.error(f"{kind}, of a gateway that was killed, stopped or cut off", detail)
        else:
            self.tally.error(kind, detail)
            self.tally.violation(kind, detail)
        return True

    # Writing

    def size(self):
        low, high, _ = self.chance.choices(SIZES, [weight for *_, weight in SIZES])[0]
        return self.chance.randint(low, high)

    def write(self, key, size, kind, call, part=None):
        """Sends one generation until it is acknowledged. `call(client, body, metadata)`."""
        register = self.load.registers[key]
        write = register.begin(size)
        body = None
        metadata = {"generation": str(write.generation), "size": str(size)}
        if size is not None:
            body = expected.content(key, write.generation, size)
            write.etag = expected.etag(body, part)
        began = time.monotonic()
        is_done = False
        try:
            self.answered(
                f"{kind} {key} generation {write.generation} of {size} bytes",
                lambda client: call(client, body, metadata),
                unsure=lambda: register.note_unsure(write, time.monotonic()))
            is_done = True
            self.tally.done(kind, began, size or 0, key)
        except ClientError as error:
            register.note_unsure(write, time.monotonic())
            self.tally.violation("refused", f"{kind} {key} of {size} bytes: {error}")
        finally:
            if not is_done:
                register.note_unsure(write, time.monotonic())
            register.end(write, is_done)

    def do_put(self):
        key = self.chance.choice(self.keys)
        self.write(key, self.size(), "put", lambda client, body, metadata: client.put_object(
            Bucket=BUCKET, Key=key, Body=body, Metadata=metadata))

    def do_delete(self):
        key = self.chance.choice(self.keys)
        self.write(key, None, "delete", lambda client, body, metadata: client.delete_object(
            Bucket=BUCKET, Key=key))

    def do_multipart(self):
        key = self.chance.choice(self.keys)
        size = PART + self.chance.randint(1, 3 * MIB)
        gives_up = self.chance.random() < 0.2

        def call(client, body, metadata):
            upload = client.create_multipart_upload(
                Bucket=BUCKET, Key=key, Metadata=metadata)["UploadId"]
            parts = []
            for number, at in enumerate(range(0, size, PART), 1):
                tag = client.upload_part(
                    Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number,
                    Body=body[at:at + PART])["ETag"]
                parts.append({"PartNumber": number, "ETag": tag})
            if gives_up:
                client.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)
            else:
                client.complete_multipart_upload(
                    Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})

        if gives_up:
            body = self.chance.randbytes(size)
            began = time.monotonic()
            self.answered(f"an upload to {key} that is aborted",
                          lambda client: call(client, body, {"generation": "0"}))
            self.tally.done("multipart aborted", began, 0, key)
        else:
            self.write(key, size, "multipart", call, PART)

    def do_copy(self):
        """A key of one's own is copied over itself: the next generation has other metadata and
        other bytes, so what is copied is an object beside that nobody else writes."""
        key = self.chance.choice(self.keys)
        source = f"source/{self.number}"

        def call(client, body, metadata):
            client.put_object(Bucket=BUCKET, Key=source, Body=body)
            client.copy_object(
                Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": source},
                Metadata=metadata, MetadataDirective="REPLACE")

        self.write(key, self.chance.randint(1, 600_000), "copy", call)

    # Reading

    def any_key(self):
        return self.chance.choice(list(self.load.registers))

    def do_get(self):
        self.read(self.any_key(), "get")

    def do_head(self):
        self.read(self.any_key(), "head")

    def do_ranged_get(self):
        key = self.any_key()
        size = self.load.registers[key].size
        if not size:
            return self.do_get()
        first = self.chance.randrange(size)
        self.read(key, "ranged get", (first, min(size - 1, first + self.chance.choice(
            [0, 100, 4096, 70_000, 2 * MIB]))))

    def fetch(self, client, key, kind, span):
        """(generation, size of the whole, offset, body); generation ABSENT where there is none."""
        try:
            if kind == "head":
                found = client.head_object(Bucket=BUCKET, Key=key)
                whole, body, first = found["ContentLength"], None, 0
            elif span:
                found = client.get_object(
                    Bucket=BUCKET, Key=key, Range=f"bytes={span[0]}-{span[1]}")
                body, first = found["Body"].read(), span[0]
                whole = int(found["ContentRange"].rsplit("/", 1)[1])
            else:
                found = client.get_object(Bucket=BUCKET, Key=key)
                body, first = found["Body"].read(), 0
                whole = found["ContentLength"]
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404 and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return ABSENT, None, 0, None
            if status == 416:
                # The object has become shorter than what was known of it.
                return None
            raise
        return int(found["Metadata"].get("generation", -1)), whole, first, body

    def read(self, key, kind, span=None):
        register = self.load.registers[key]
        mark = register.mark()
        began = time.monotonic()
        try:
            found = self.answered(
                f"{kind} {key}" + (f" {span}" if span else ""),
                lambda client: self.fetch(client, key, kind, span))
        except ClientError as error:
            self.tally.violation("refused", f"{kind} {key} {span}: {error}")
            return
        if found is None:
            return
        generation, whole, first, body = found
        try:
            register.judge(mark, began, generation)
            self.check(key, generation, whole, first, body, span)
        except Violation as violation:
            self.tally.violation(violation.kind, f"{kind}: {violation}",
                                 register.size or 0 if violation.kind == "lost" else 0)
        self.tally.done(kind, began, len(body or b""), key)

    def check(self, key, generation, whole, first, body, span):
        if generation is ABSENT:
            return
        size = self.load.registers[key].size_of(generation)
        if whole != size:
            raise Violation("partial", f"{key} generation {generation} has {whole} bytes, not {size}")
        if body is None:
            return
        length = min(span[1] + 1, size) - first if span else size
        if len(body) != length:
            raise Violation("partial", f"{key} generation {generation}: {len(body)} bytes came of "
                                       f"{length} from {first}")
        wrong = expected.compare(key, generation, size, first, body)
        if wrong:
            self.tally.violation(wrong[0], wrong[1], wrong[2])

    def do_list(self):
        self.list(f"w{self.chance.randrange(len(self.load.workers)):02d}/",
                  self.chance.choice([7, 1000]))

    def list(self, prefix, page):
        marks = {key: register.mark() for key, register in self.load.registers.items()
                 if key.startswith(prefix)}
        began = time.monotonic()
        found, after = {}, ""
        while True:
            try:
                rows = self.answered(
                    f"list {prefix}", lambda client: client.list_objects_v2(
                        Bucket=BUCKET, Prefix=prefix, MaxKeys=page, StartAfter=after))
            except ClientError as error:
                self.tally.violation("refused", f"list {prefix}: {error}")
                return
            for row in rows.get("Contents", []):
                found[row["Key"]] = row["Size"], row["ETag"].strip('"')
            if not rows["IsTruncated"]:
                break
            after = rows["Contents"][-1]["Key"]
        for key, mark in marks.items():
            told = found.get(key)
            try:
                self.load.registers[key].judge(
                    mark, began, ABSENT if told is None else told,
                    lambda write: (told is None and write.size is None
                                   or told == (write.size, write.etag)))
            except Violation as violation:
                self.tally.violation(violation.kind, f"list of {prefix}: {violation}")
        strange = found.keys() - marks.keys()
        if strange:
            self.tally.violation("invented", f"list of {prefix} has {sorted(strange)[:3]}")
        self.tally.done("list", began, 0, prefix)
