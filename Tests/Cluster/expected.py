"""What readers of keys may find while one writer a key writes, deletes, and is not always told how
it ended. Pure: it knows no network and no clock but the times that it is given."""

import hashlib
import random
import threading

# A write that was not acknowledged may take effect after its client has gone on, but not for ever:
# whoever carries it out gives up. In seconds.
LATEST_EFFECT = 120

ABSENT = None


def content(key, generation, size):
    """The bytes of a key's generation: nothing else has them."""
    return random.Random(f"{key} {generation}").randbytes(size)


def etag(body, part=None):
    """That of S3: of parts of so many bytes where it came in parts."""
    if part is None:
        return hashlib.md5(body).hexdigest()
    digests = [hashlib.md5(body[at:at + part]).digest() for at in range(0, len(body), part)]
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"


class Write:
    """One generation of a key, or its removal (`size` None)."""

    def __init__(self, generation, size):
        self.generation, self.size = generation, size
        self.etag = None
        # How many tries nobody knows the end of, and when the last of them was given up.
        self.unsure, self.given_up = 0, 0.0
        # Its writer still waits for it.
        self.is_under_way = True

    @property
    def found(self):
        """What a reader finds of it: its generation, or that there is nothing."""
        return ABSENT if self.size is None else self.generation

    def may_come(self, when):
        """Whether a try of it may still take effect at a time."""
        return self.is_under_way or self.unsure > 0 and when < self.given_up + LATEST_EFFECT


class Violation(Exception):
    """`kind`: lost, stale, resurrected or invented."""

    def __init__(self, kind, detail):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Register:
    """One key: its writes in order, of which the last that is known to have taken effect counts.

    One thread writes, all read. A reader takes a `mark` before it asks and has what it found judged
    by it."""

    def __init__(self, key):
        self.key = key
        self._lock = threading.Lock()
        nothing = Write(0, None)
        nothing.is_under_way = False
        self._writes = [nothing]
        # The place of the last that is known to have taken effect.
        self._base = 0
        self._generation = 0

    # The writer

    def begin(self, size):
        """A write is about to be sent; None: a removal."""
        with self._lock:
            self._generation += 1
            write = Write(self._generation, size)
            self._writes.append(write)
            return write

    def note_unsure(self, write, when):
        """A try of it ended without an answer that says how."""
        with self._lock:
            write.unsure += 1
            write.given_up = when

    def end(self, write, acknowledged):
        with self._lock:
            write.is_under_way = False
            if acknowledged:
                self._base = max(self._base, self._writes.index(write))

    @property
    def size(self):
        """That of what is there, as far as is known; None: nothing."""
        with self._lock:
            return self._writes[self._base].size

    @property
    def generation(self):
        """That of what is there, as far as is known."""
        with self._lock:
            return self._writes[self._base].generation

    def size_of(self, generation):
        """That of a generation that a reader may have found."""
        with self._lock:
            return next(write.size for write in self._writes if write.generation == generation)

    # Readers

    def mark(self):
        with self._lock:
            return self._base

    def judge(self, mark, began, found, matches=None):
        """Whether `found`, a generation or ABSENT, may be what a reader found who took `mark` and
        began to ask at `began`; a Violation if not. What has been seen once is not unseen later.

        `matches(write)` tells where a reader knows no generation: of a listing."""
        matches = matches or (lambda write: write.found == found)
        with self._lock:
            for place in range(len(self._writes) - 1, mark - 1, -1):
                write = self._writes[place]
                if matches(write) and (place <= self._base or write.is_under_way
                                       or write.unsure > 0):
                    if found is not ABSENT or place == mark:
                        self._see(place, began, mark)
                    return
            for place in range(mark):
                write = self._writes[place]
                if matches(write) and write.may_come(began):
                    # It came after what overtook it: that is what is there now.
                    if place < self._base == mark:
                        self._writes.append(write)
                        self._base = len(self._writes) - 1
                    return
            self._refuse(mark, found, matches)

    def _see(self, place, began, mark):
        if place == mark == self._base:
            # What has not come in all the time that it had, never comes.
            for write in self._writes[place + 1:]:
                if not write.may_come(began):
                    write.unsure = 0
        self._base = max(self._base, place)

    def _refuse(self, mark, found, matches):
        expected = self._writes[mark]
        if not any(map(matches, self._writes)):
            kind = "invented"
        elif found is ABSENT:
            kind = "lost"
        elif expected.size is None:
            kind = "resurrected"
        else:
            kind = "stale"
        later = [(write.generation, write.size, write.unsure, write.is_under_way)
                 for write in self._writes[mark + 1:]]
        raise Violation(kind, f"{self.key}: found {self._name(found)}, known to be there was "
                        f"{self._name(expected.found)} of {expected.size} bytes, later {later}")

    @staticmethod
    def _name(found):
        return "nothing" if found is ABSENT else f"generation {found}"


def compare(key, generation, size, begin, body):
    """What is wrong with bytes that were read of a generation from `begin` on; nothing if they are
    right. Pairs of kind and detail, with the number of bytes that are lost."""
    right = content(key, generation, size)[begin:begin + len(body)]
    if body == right:
        return None
    if len(body) > len(right):
        return "wrong bytes", f"{key} generation {generation} has bytes past its end", len(body)
    first = next(at for at, (one, other) in enumerate(zip(body, right)) if one != other)
    count = sum(one != other for one, other in zip(body, right))
    return ("wrong bytes",
            f"{key} generation {generation} of {size} bytes, read from {begin}: {count} of "
            f"{len(body)} bytes are wrong, the first at {begin + first}", count)
