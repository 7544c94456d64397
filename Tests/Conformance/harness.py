"""What the conformance checks share: the endpoint, the users, clients, and a signer of our own
for requests that no well-behaved client would send."""

import base64
import configparser
import datetime
import hashlib
import hmac
import os
import socket
import urllib.parse
import uuid
import xml.etree.ElementTree as ElementTree

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT = os.environ.get("APUS_S3_ENDPOINT", "http://127.0.0.1:9878").rstrip("/")
CREDENTIALS = os.environ.get("APUS_S3_CREDENTIALS", "credentials")
HOST = urllib.parse.urlparse(ENDPOINT).hostname
PORT = urllib.parse.urlparse(ENDPOINT).port or 80
REGION = "us-east-1"
RUN = uuid.uuid4().hex[:8]


class Skip(Exception):
    """A check that cannot run here, with the reason."""


class User:
    def __init__(self, profile, section):
        self.profile = profile
        self.key = section["aws_access_key_id"]
        self.secret = section["aws_secret_access_key"]

    def client(self, **options):
        s3 = {"addressing_style": "path"}
        s3.update(options.pop("s3", {}))
        options.setdefault("retries", {"max_attempts": 1})
        options.setdefault("read_timeout", 120)
        options.setdefault("max_pool_connections", 32)
        return boto3.client(
            "s3", endpoint_url=ENDPOINT, region_name=options.pop("region_name", REGION),
            aws_access_key_id=self.key, aws_secret_access_key=self.secret,
            config=Config(s3=s3, **options))


def users():
    parser = configparser.ConfigParser(interpolation=None)
    if not parser.read(CREDENTIALS):
        raise SystemExit(f"cannot read the credentials file {CREDENTIALS}")
    return [User(name, parser[name]) for name in parser.sections()]


USERS = users()
FIRST = USERS[0]


def second_user():
    if len(USERS) < 2:
        raise Skip("the credentials file has one user only")
    return USERS[1]


CLIENT = FIRST.client()
_buckets = []


def new_bucket(client=None, label="b"):
    """A bucket of this check's own; removed with everything in it when the run ends."""
    name = f"conf-{RUN}-{label}-{len(_buckets)}"
    (client or CLIENT).create_bucket(Bucket=name)
    _buckets.append((client or CLIENT, name))
    return name


def remove_buckets():
    for client, name in _buckets:
        try:
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=name):
                for upload in page.get("Uploads", []):
                    client.abort_multipart_upload(
                        Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
                keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
                if keys:
                    client.delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})
            client.delete_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchBucket":
                raise
    _buckets.clear()


def fails_with(code, status, call, *args, **kwargs):
    """The call must fail with exactly this code and status."""
    try:
        call(*args, **kwargs)
    except ClientError as error:
        found = error.response["Error"]["Code"]
        found_status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert (found, found_status) == (code, status), f"{found} {found_status}"
        assert error.response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-request-id")
        return error
    raise AssertionError(f"succeeded, should have failed with {code}")


def random_bytes(count, seed=1):
    """Bytes that do not repeat in the sizes of cells or pieces."""
    out = bytearray()
    block = seed.to_bytes(8, "big")
    while len(out) < count:
        block = hashlib.sha512(block).digest()
        out += block * 16
        out += bytes([len(out) & 0xFF])
    return bytes(out[:count])


# ---- requests signed by hand ----

EMPTY = hashlib.sha256(b"").hexdigest()


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Signed:
    """A request as text, with every step of its signature open to be spoilt."""

    def __init__(self, method, path, query="", headers=None, payload="UNSIGNED-PAYLOAD",
                 user=None, skew=0, region=REGION, host=None):
        self.method, self.path, self.query = method, path, query
        self.user = user or FIRST
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=skew)
        self.date = now.strftime("%Y%m%dT%H%M%SZ")
        self.scope = f"{self.date[:8]}/{region}/s3/aws4_request"
        self.headers = {"host": host or f"{HOST}:{PORT}", "x-amz-date": self.date,
                        "x-amz-content-sha256": payload}
        self.headers.update(headers or {})
        key = f"AWS4{self.user.secret}".encode()
        for part in (self.date[:8], region, "s3", "aws4_request"):
            key = _hmac(key, part)
        self.key = key
        self.signature = self._sign()
        self.previous = self.signature

    def _sign(self):
        names = sorted(self.headers)
        pairs = sorted(part.partition("=")[::2] for part in self.query.split("&") if part)
        query = "&".join(f"{name}={value}" for name, value in pairs)
        canonical = "\n".join([
            self.method, urllib.parse.quote(urllib.parse.unquote(self.path), safe="/~"), query,
            "".join(f"{name}:{self.headers[name]}\n" for name in names), ";".join(names),
            self.headers["x-amz-content-sha256"]])
        self.names = ";".join(names)
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.date}\n{self.scope}\n{digest}"
        return _hmac(self.key, text).hex()

    def head(self, unsigned=None, signature=None):
        lines = [f"{self.method} {self.path}{'?' + self.query if self.query else ''} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"{name}: {value}" for name, value in (unsigned or {}).items()]
        lines.append(
            f"Authorization: AWS4-HMAC-SHA256 Credential={self.user.key}/{self.scope},"
            f"SignedHeaders={self.names},Signature={signature or self.signature}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def chunk(self, data, spoil=False):
        text = (f"AWS4-HMAC-SHA256-PAYLOAD\n{self.date}\n{self.scope}\n{self.previous}\n{EMPTY}\n"
                f"{hashlib.sha256(data).hexdigest()}")
        self.previous = _hmac(self.key, text).hex()
        signature = "0" * 64 if spoil else self.previous
        return f"{len(data):x};chunk-signature={signature}\r\n".encode() + data + b"\r\n"

    def last_chunk(self):
        return self.chunk(b"")[:-2]

    def trailer(self, name, value, spoil=False):
        line = f"{name}:{value}\n"
        text = (f"AWS4-HMAC-SHA256-TRAILER\n{self.date}\n{self.scope}\n{self.previous}\n"
                f"{hashlib.sha256(line.encode()).hexdigest()}")
        signature = "0" * 64 if spoil else _hmac(self.key, text).hex()
        return f"{name}:{value}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def code(self):
        if not self.body:
            return None
        return ElementTree.fromstring(self.body).findtext("Code")


def _read_head(stream):
    status_line = stream.readline()
    if not status_line:
        raise AssertionError("the connection was closed without a response")
    headers = {}
    while True:
        line = stream.readline()
        if line in (b"\r\n", b""):
            break
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status_line.split()[1]), headers


class Connection:
    """A plain socket that speaks what it is told to."""

    def __init__(self):
        self.socket = socket.create_connection((HOST, PORT), timeout=60)
        self.stream = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)

    def response(self, method="PUT"):
        status, headers = _read_head(self.stream)
        while status == 100:
            status, headers = _read_head(self.stream)
        length = int(headers.get("content-length", 0))
        body = b"" if method == "HEAD" else self.stream.read(length)
        return Response(status, headers, body)

    def read_head(self):
        return _read_head(self.stream)

    def close(self):
        self.stream.close()
        self.socket.close()


def exchange(data, end=False, method="PUT"):
    """Sends raw bytes on a connection of their own and returns the response."""
    connection = Connection()
    try:
        connection.send(data)
        if end:
            connection.end()
        return connection.response(method)
    finally:
        connection.close()


def parsed(response):
    """The root of a response's XML, whose names are without their namespace."""
    root = ElementTree.fromstring(response.body)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2] or element.tag
    return root


def refused(response, code, status):
    assert (response.code, response.status) == (code, status), f"{response.code} {response.status}"
    assert response.headers.get("x-amz-request-id")


def absent(bucket, key):
    fails_with("404", 404, CLIENT.head_object, Bucket=bucket, Key=key)


def crc32(data):
    import zlib
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def sha256_base64(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
