"""Plans for http-load: requests to S3 signed ahead, and the same for a plain HTTP server."""

import datetime
import hashlib
import hmac
import json
import os
import random
import subprocess
import urllib.parse

from measure import ROOT

HTTP_LOAD = os.environ.get("APUS_HTTP_LOAD", str(ROOT / ".build/release/http-load"))


class Plan:
    """A list of requests; `target` makes them for a server."""

    def __init__(self, method, objects, size, ranges=None):
        """`objects`: list of (key, seed). `ranges`: for each request (offset, count), or None."""
        self.method, self.objects, self.size, self.ranges = method, objects, size, ranges

    def lines(self, target):
        for index, (key, seed) in enumerate(self.objects):
            offset, count = self.ranges[index] if self.ranges else (0, self.size)
            headers = [f"Range: bytes={offset}-{offset + count - 1}"] if self.ranges else []
            if self.method in ("HEAD", "DELETE"):
                count = 0
            path, signed = target.sign(self.method, key)
            yield "\t".join([self.method, path, str(seed), str(offset), str(count),
                             *headers, *signed])


class MixedPlan:
    """The requests of several plans in random order."""

    def __init__(self, plans, order):
        """`order`: a generator; the order is the same whenever lines are made."""
        self.plans, self.seed = plans, order.random()

    def lines(self, target):
        lines = [line for plan in self.plans for line in plan.lines(target)]
        random.Random(self.seed).shuffle(lines)
        yield from lines


class PlainTarget:
    """A server without authentication."""

    def __init__(self, port):
        self.host, self.port = "127.0.0.1", port

    def sign(self, method, key):
        return "/" + urllib.parse.quote(key), []


class S3Target:
    """A bucket of an S3 gateway. Signature version 4 in headers, the payload unsigned: what the
    SDKs do over TLS. (AWS, "Signature Version 4: authenticating requests".)"""

    def __init__(self, endpoint, access, secret, bucket, region="us-east-1"):
        parts = urllib.parse.urlsplit(endpoint)
        self.host, self.port, self.bucket = parts.hostname, parts.port, bucket
        self.access, self.region = access, region
        now = datetime.datetime.now(datetime.timezone.utc)
        self.day, self.secret = now.strftime("%Y%m%d"), secret
        key = ("AWS4" + secret).encode()
        for part in (self.day, region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        self.key = key

    def sign(self, method, key):
        time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        path = f"/{self.bucket}/{urllib.parse.quote(key)}"
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = (f"{method}\n{path}\n\nhost:{self.host}:{self.port}\n"
                     f"x-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{time}\n\n{names}\n"
                     "UNSIGNED-PAYLOAD")
        scope = f"{self.day}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}"
        signature = hmac.digest(self.key, text.encode(), "sha256").hex()
        return path, [
            "x-amz-content-sha256: UNSIGNED-PAYLOAD", f"x-amz-date: {time}",
            f"Authorization: AWS4-HMAC-SHA256 Credential={self.access}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"]


class PreparedLoad:
    """A plan signed for a target; `run` carries it out. Signing is not part of what is timed."""

    def __init__(self, plan, target, clients, verify=False, mark=0, stop_after=0,
                 pause=0):
        self.text = "\n".join(plan.lines(target)) + "\n"
        self.command = [HTTP_LOAD, "--host", target.host, "--port", str(target.port),
                        "--clients", str(clients)]
        if verify:
            self.command.append("--verify")
        if mark:
            self.command += ["--mark", str(mark)]
        if stop_after:
            self.command += ["--stop-after", str(stop_after)]
        if pause:
            self.command += ["--pause", str(pause)]

    def run(self):
        result = subprocess.run(self.command, input=self.text, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"http-load: {result.stdout[-600:]}{result.stderr[-600:]}")
        return json.loads(result.stdout)
