"""What no well-behaved client sends, byte by byte; and the framings that only some clients send.

Each bad request must get its named error, and nothing of it may be stored."""

import hashlib
import time

from harness import (CLIENT, Connection, Signed, absent, crc32, exchange, new_bucket,
                     random_bytes, refused)

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

DATA = random_bytes(200_000, 9)
PIECES = [DATA[:65536], DATA[65536:131072], DATA[131072:]]


def stored(bucket, key, data=DATA):
    assert CLIENT.get_object(Bucket=bucket, Key=key)["Body"].read() == data


def chunked(bucket, key, payload, decoded=len(DATA), trailer=None, **more):
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(decoded)}
    if trailer:
        headers["x-amz-trailer"] = trailer
    headers.update(more)
    return Signed("PUT", f"/{bucket}/{key}", headers=headers, payload=payload)


def deliver(request, body, http_chunks=False, end=False):
    """Sends the body with a Content-Length, or as Transfer-Encoding: chunked without one."""
    if not http_chunks:
        head = request.head(unsigned={"Content-Length": str(len(body))})
        return exchange(head + body, end=end)
    head = request.head(unsigned={"Transfer-Encoding": "chunked"})
    framed, step = b"", 50_001
    for start in range(0, len(body), step):
        piece = body[start:start + step]
        framed += f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    return exchange(head + framed + b"0\r\n\r\n", end=end)


def signed_body(request, spoil=None):
    return b"".join(request.chunk(piece, spoil=index == spoil)
                    for index, piece in enumerate(PIECES))


def unsigned_body(pieces=PIECES):
    return b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in pieces) + b"0\r\n"


def test_signed_chunks():
    bucket = new_bucket()
    for http_chunks in [False, True]:
        key = f"k{http_chunks}"
        request = chunked(bucket, key, SIGNED)
        body = signed_body(request) + request.last_chunk() + b"\r\n"
        response = deliver(request, body, http_chunks)
        assert response.status == 200, response.body
        assert response.headers["etag"] == f'"{hashlib.md5(DATA).hexdigest()}"'
        stored(bucket, key)
        assert "ContentEncoding" not in CLIENT.head_object(Bucket=bucket, Key=key)


def test_signed_chunks_with_signed_trailers():
    bucket = new_bucket()
    for http_chunks in [False, True]:
        key = f"k{http_chunks}"
        request = chunked(bucket, key, SIGNED_TRAILER, trailer="x-amz-checksum-crc32")
        body = signed_body(request) + request.last_chunk()
        body += request.trailer("x-amz-checksum-crc32", crc32(DATA))
        response = deliver(request, body, http_chunks)
        assert response.status == 200, response.body
        assert response.headers["x-amz-checksum-crc32"] == crc32(DATA)
        stored(bucket, key)


def test_unsigned_chunks_with_trailers():
    bucket = new_bucket()
    for http_chunks in [False, True]:
        for ending in [b"\r\n", b""]:
            key = f"k{http_chunks}{len(ending)}"
            request = chunked(bucket, key, UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32")
            body = unsigned_body() + f"x-amz-checksum-crc32:{crc32(DATA)}\r\n".encode() + ending
            response = deliver(request, body, http_chunks)
            assert response.status == 200, response.body
            stored(bucket, key)


def test_unsigned_chunks_without_trailers():
    bucket = new_bucket()
    request = chunked(bucket, "k", UNSIGNED_TRAILER)
    assert deliver(request, unsigned_body() + b"\r\n", True).status == 200
    stored(bucket, "k")


def test_plain_body_in_http_chunks():
    bucket = new_bucket()
    request = Signed("PUT", f"/{bucket}/k")
    assert deliver(request, DATA, http_chunks=True).status == 200
    stored(bucket, "k")


def test_wrong_signature_of_a_chunk():
    bucket = new_bucket()
    for spoilt in [0, 1, 2]:
        request = chunked(bucket, "k", SIGNED)
        body = signed_body(request, spoil=spoilt) + request.last_chunk() + b"\r\n"
        refused(deliver(request, body), "SignatureDoesNotMatch", 403)
        absent(bucket, "k")
    request = chunked(bucket, "k", SIGNED)
    body = signed_body(request)
    request.previous = "0" * 64
    refused(deliver(request, body + request.last_chunk() + b"\r\n"), "SignatureDoesNotMatch", 403)
    absent(bucket, "k")


def test_changed_byte_of_a_signed_chunk():
    bucket = new_bucket()
    request = chunked(bucket, "k", SIGNED)
    body = bytearray(signed_body(request) + request.last_chunk() + b"\r\n")
    body[100_000] ^= 1
    refused(deliver(request, bytes(body)), "SignatureDoesNotMatch", 403)
    absent(bucket, "k")


def test_exchanged_signed_chunks():
    bucket = new_bucket()
    request = chunked(bucket, "k", SIGNED)
    first, second = request.chunk(PIECES[0]), request.chunk(PIECES[1])
    body = second + first + request.chunk(PIECES[2]) + request.last_chunk() + b"\r\n"
    refused(deliver(request, body), "SignatureDoesNotMatch", 403)
    absent(bucket, "k")


def test_wrong_trailing_checksum():
    bucket = new_bucket()
    request = chunked(bucket, "k", UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    body = unsigned_body() + f"x-amz-checksum-crc32:{crc32(b'other')}\r\n\r\n".encode()
    refused(deliver(request, body), "BadDigest", 400)
    request = chunked(bucket, "k", UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    refused(deliver(request, unsigned_body() + b"x-amz-checksum-crc32:zzz\r\n\r\n"),
            "InvalidRequest", 400)
    request = chunked(bucket, "k", SIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    body = signed_body(request) + request.last_chunk()
    body += request.trailer("x-amz-checksum-crc32", crc32(b"other"))
    refused(deliver(request, body), "BadDigest", 400)
    absent(bucket, "k")


def test_wrong_or_missing_signature_of_trailers():
    bucket = new_bucket()
    request = chunked(bucket, "k", SIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    body = signed_body(request) + request.last_chunk()
    body += request.trailer("x-amz-checksum-crc32", crc32(DATA), spoil=True)
    refused(deliver(request, body), "SignatureDoesNotMatch", 403)
    request = chunked(bucket, "k", SIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    body = signed_body(request) + request.last_chunk()
    body += f"x-amz-checksum-crc32:{crc32(DATA)}\r\n\r\n\r\n".encode()
    refused(deliver(request, body), "SignatureDoesNotMatch", 403)
    absent(bucket, "k")


def test_missing_and_unannounced_trailers():
    bucket = new_bucket()
    request = chunked(bucket, "k", UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    refused(deliver(request, unsigned_body() + b"\r\n"), "MalformedTrailerError", 400)
    request = chunked(bucket, "k", UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    refused(deliver(request, unsigned_body() + b"x-amz-checksum-sha1:zz\r\n\r\n"),
            "MalformedTrailerError", 400)
    request = chunked(bucket, "k", UNSIGNED_TRAILER)
    body = unsigned_body() + f"x-amz-checksum-crc32:{crc32(DATA)}\r\n\r\n".encode()
    refused(deliver(request, body), "MalformedTrailerError", 400)
    request = chunked(bucket, "k", UNSIGNED_TRAILER, trailer="x-amz-meta-a")
    refused(deliver(request, unsigned_body() + b"x-amz-meta-a:1\r\n\r\n"), "InvalidRequest", 400)
    absent(bucket, "k")


def test_decoded_length_lies():
    bucket = new_bucket()
    for lie in [len(DATA) - 1, len(DATA) + 1, 0, 5]:
        request = chunked(bucket, "k", SIGNED, decoded=lie)
        body = signed_body(request) + request.last_chunk() + b"\r\n"
        refused(deliver(request, body), "IncompleteBody", 400)
        absent(bucket, "k")
    request = chunked(bucket, "k", SIGNED, decoded=10_000_000)
    body = signed_body(request) + request.last_chunk() + b"\r\n"
    refused(deliver(request, body), "InvalidRequest", 400)
    for lie in ["-1", "x"]:
        request = chunked(bucket, "k", SIGNED, decoded=lie)
        refused(deliver(request, signed_body(request)), "InvalidArgument", 400)
    absent(bucket, "k")


def test_malformed_chunks():
    bucket = new_bucket()
    for body in [
        b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n",
        b"3;chunk-signature=1\r\nabc\r\n0\r\n\r\n", b"\r\n", b"3\r\nabc\r\n0\r\n\r\nmore",
        b"FFFFFFFFFFFFFFFFFFFF\r\nabc", b"-3\r\nabc\r\n0\r\n\r\n",
    ]:
        request = chunked(bucket, "k", UNSIGNED_TRAILER, decoded=3)
        response = deliver(request, body)
        assert response.status == 400, (body, response.status)
        assert response.code in ("InvalidRequest", "IncompleteBody"), (body, response.code)
        absent(bucket, "k")
    request = chunked(bucket, "k", UNSIGNED_TRAILER, decoded=3)
    refused(deliver(request, b"a" * 5000), "EntityTooLarge", 400)
    absent(bucket, "k")


def test_truncated_bodies():
    bucket = new_bucket()
    head = Signed("PUT", f"/{bucket}/k").head(unsigned={"Content-Length": str(len(DATA))})
    refused(exchange(head + DATA[:150_000], end=True), "IncompleteBody", 400)
    request = chunked(bucket, "k", SIGNED)
    body = signed_body(request) + request.last_chunk() + b"\r\n"
    head = request.head(unsigned={"Content-Length": str(len(body))})
    refused(exchange(head + body[:-100], end=True), "IncompleteBody", 400)
    # The whole of the framing of HTTP, and not that of aws-chunked.
    for cut in [10, 90, 100]:
        request = chunked(bucket, "k", SIGNED)
        body = signed_body(request) + request.last_chunk() + b"\r\n"
        refused(deliver(request, body[:-cut]), "IncompleteBody", 400)
    head = Signed("PUT", f"/{bucket}/k").head(unsigned={"Transfer-Encoding": "chunked"})
    refused(exchange(head + b"ffff\r\n" + DATA[:1000], end=True), "IncompleteBody", 400)
    absent(bucket, "k")


def test_a_client_that_goes_away():
    bucket = new_bucket()
    for _ in range(5):
        connection = Connection()
        connection.send(Signed("PUT", f"/{bucket}/k").head(
            unsigned={"Content-Length": str(len(DATA))}) + DATA[:150_000])
        connection.close()
    time.sleep(0.5)
    absent(bucket, "k")
    CLIENT.delete_bucket(Bucket=bucket)


def test_wrong_digest_of_the_payload():
    bucket = new_bucket()
    digest = hashlib.sha256(b"other").hexdigest()
    request = Signed("PUT", f"/{bucket}/k", payload=digest)
    head = request.head(unsigned={"Content-Length": str(len(DATA))})
    refused(exchange(head + DATA), "XAmzContentSHA256Mismatch", 400)
    request = Signed("PUT", f"/{bucket}/k", payload="abc")
    refused(exchange(request.head(unsigned={"Content-Length": "0"})), "InvalidArgument", 400)
    absent(bucket, "k")


def test_skewed_clocks():
    bucket = new_bucket()
    for skew in [-960, 960, 86_400 * 3]:
        head = Signed("PUT", f"/{bucket}/k", skew=skew).head(unsigned={"Content-Length": "1"})
        refused(exchange(head + b"x"), "RequestTimeTooSkewed", 403)
        absent(bucket, "k")
    for skew in [-840, 840]:
        head = Signed("PUT", f"/{bucket}/k", skew=skew).head(unsigned={"Content-Length": "1"})
        assert exchange(head + b"x").status == 200


def test_bad_authorization_headers():
    bucket = new_bucket()
    good = Signed("GET", f"/{bucket}").head()
    for old, new, code, status in [
        (b"/aws4_request", b"/aws5_request", "AuthorizationHeaderMalformed", 400),
        (b"/s3/", b"/ec2/", "AuthorizationHeaderMalformed", 400),
        (b"SignedHeaders=", b"Headers=", "AuthorizationHeaderMalformed", 400),
        (b"Signature=", b"Signature=00", "AuthorizationHeaderMalformed", 400),
        (b"AWS4-HMAC-SHA256 ", b"AWS4-HMAC-SHA1 ", "InvalidRequest", 400),
        (b"AWS4-HMAC-SHA256 ", b"Basic ", "InvalidRequest", 400),
        (b"x-amz-date: 20", b"x-amz-date: 99x", "AccessDenied", 403),
        (b"x-amz-content-sha256: UNSIGNED-PAYLOAD", b"x-other: 1", "MissingSecurityHeader", 400),
        (b"host;", b"", "AccessDenied", 403),
    ]:
        assert old in good
        refused(exchange(good.replace(old, new)), code, status)
    spoilt = Signed("GET", f"/{bucket}")
    refused(exchange(spoilt.head(signature="0" * 64)), "SignatureDoesNotMatch", 403)
    other = Signed("GET", f"/{bucket}")
    refused(exchange(other.head().replace(b"GET", b"DELETE", 1)), "SignatureDoesNotMatch", 403)
    assert exchange(good).status == 200


def test_bad_targets():
    bucket = new_bucket()
    for path in [f"/{bucket}/%zz", f"/{bucket}/%", f"/{bucket}/%ff%fe", f"/{bucket}/a?x=%q"]:
        data = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        response = exchange(data)
        assert response.status in (400, 403), response.status
    head = Signed("PUT", f"/{bucket}/%ff%fe").head(unsigned={"Content-Length": "0"})
    assert exchange(head).status in (400, 403)


def test_sizes():
    bucket = new_bucket()
    head = Signed("PUT", f"/{bucket}/k").head(unsigned={"Content-Length": str((5 << 30) + 1)})
    refused(exchange(head), "EntityTooLarge", 400)
    refused(exchange(Signed("PUT", f"/{bucket}/k").head()), "MissingContentLength", 411)
    request = Signed("PUT", f"/{bucket}/k", payload=SIGNED)
    refused(exchange(request.head(unsigned={"Content-Length": "0"})), "MissingContentLength", 411)
    absent(bucket, "k")


def test_not_http():
    for data in [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"hello\r\n\r\n"]:
        connection = Connection()
        try:
            connection.send(data)
            status, _ = connection.read_head()
            assert status == 400, status
        finally:
            connection.close()


def test_expect_100_continue():
    bucket = new_bucket()
    connection = Connection()
    request = Signed("PUT", f"/{bucket}/k")
    connection.send(request.head(
        unsigned={"Content-Length": str(len(DATA)), "Expect": "100-continue"}))
    status, _ = connection.read_head()
    assert status == 100, status
    connection.send(DATA)
    assert connection.response().status == 200
    stored(bucket, "k")
    # The connection goes on.
    connection.send(Signed("HEAD", f"/{bucket}/k").head())
    assert connection.response("HEAD").headers["content-length"] == str(len(DATA))
    connection.close()


def test_expect_100_continue_is_refused_before_the_body():
    bucket = new_bucket()
    for request, code in [
        (Signed("PUT", "/conf-not-there/k"), "NoSuchBucket"),
        (Signed("PUT", f"/{bucket}/k", skew=-5000), "RequestTimeTooSkewed"),
    ]:
        connection = Connection()
        connection.send(request.head(
            unsigned={"Content-Length": "1000000", "Expect": "100-continue"}))
        response = connection.response()
        assert response.code == code, response.code
        assert response.headers.get("connection") == "close"
        connection.close()


def test_keep_alive_after_everything():
    bucket = new_bucket()
    connection = Connection()
    for turn in range(3):
        connection.send(Signed("PUT", f"/{bucket}/k{turn}").head(
            unsigned={"Content-Length": "5"}) + b"hello")
        assert connection.response().status == 200
        connection.send(Signed("GET", f"/{bucket}/k{turn}").head())
        response = connection.response("GET")
        assert response.body == b"hello"
        connection.send(Signed("HEAD", f"/{bucket}/k{turn}").head())
        assert connection.response("HEAD").status == 200
        connection.send(Signed("GET", f"/{bucket}/none").head())
        refused(connection.response("GET"), "NoSuchKey", 404)
        # A refused upload: its body is read to the end and thrown away.
        connection.send(Signed("PUT", "/conf-not-there/k").head(
            unsigned={"Content-Length": str(len(DATA))}) + DATA)
        refused(connection.response(), "NoSuchBucket", 404)
        connection.send(Signed("GET", f"/{bucket}/k{turn}").head(
            unsigned={"If-None-Match": response.headers["etag"]}))
        assert connection.response("GET").status == 304
        connection.send(Signed("DELETE", f"/{bucket}/k{turn}").head())
        assert connection.response("DELETE").status == 204
    # Several requests at once, answered in order.
    CLIENT.put_object(Bucket=bucket, Key="p", Body=DATA)
    connection.send(Signed("GET", f"/{bucket}/p").head() + Signed("GET", f"/{bucket}/none").head()
                    + Signed("GET", f"/{bucket}/p").head())
    assert connection.response("GET").body == DATA
    assert connection.response("GET").status == 404
    assert connection.response("GET").body == DATA
    connection.close()


def test_connection_close():
    bucket = new_bucket()
    connection = Connection()
    connection.send(Signed("GET", f"/{bucket}").head(unsigned={"Connection": "close"}))
    assert connection.response("GET").status == 200
    assert connection.stream.read() == b""
    connection.close()


def test_connections_last_as_long_as_their_clients_say():
    bucket = new_bucket()
    for version, connection_header, stays in [
        (b"1.1", None, True), (b"1.1", "keep-alive", True), (b"1.1", "TE", True),
        (b"1.1", "close", False), (b"1.1", "TE, close", False), (b"1.1", "Close", False),
        (b"1.0", None, False), (b"1.0", "keep-alive", True), (b"1.0", "close", False),
    ]:
        for path, status in [(f"/{bucket}", 200), (f"/{bucket}/none", 404)]:
            connection = Connection()
            unsigned = {"Connection": connection_header} if connection_header else {}
            head = Signed("GET", path).head(unsigned=unsigned)
            connection.send(head.replace(b"HTTP/1.1", b"HTTP/" + version, 1))
            response = connection.response("GET")
            assert response.status == status, response.body
            told = response.headers.get("connection", "").lower()
            expected = "close" if not stays else "keep-alive" if version == b"1.0" else ""
            assert told == expected, (version, connection_header, told)
            if stays:
                connection.send(Signed("HEAD", f"/{bucket}").head())
                assert connection.response("HEAD").status == 200
            else:
                connection.socket.settimeout(10)
                assert connection.stream.read() == b"", (version, connection_header)
            connection.close()


def test_forms_are_not_implemented():
    """They come unsigned; what they lack is said, and not that they are not signed."""
    bucket = new_bucket()
    body = (b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nk\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ndata\r\n--x--\r\n')
    head = (f"POST /{bucket} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            "content-type: multipart/form-data; boundary=x\r\n\r\n").encode()
    refused(exchange(head + body, method="POST"), "NotImplemented", 501)
    absent(bucket, "k")
    head = f"POST /{bucket} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode()
    refused(exchange(head, method="POST"), "AccessDenied", 403)


def test_slow_and_split_requests():
    """The head and the body in the smallest of pieces."""
    bucket = new_bucket()
    request = chunked(bucket, "k", UNSIGNED_TRAILER, decoded=10, trailer="x-amz-checksum-crc32")
    body = unsigned_body([b"01234", b"56789"])
    body += f"x-amz-checksum-crc32:{crc32(b'0123456789')}\r\n\r\n".encode()
    connection = Connection()
    connection.socket.setsockopt(6, 1, 1)
    for byte in request.head(unsigned={"Content-Length": str(len(body))}) + body:
        connection.send(bytes([byte]))
        time.sleep(0.0002)
    assert connection.response().status == 200
    connection.close()
    stored(bucket, "k", b"0123456789")


def test_responses_have_ids_and_escaped_errors():
    bucket = new_bucket()
    response = exchange(Signed("GET", f"/{bucket}/a%3Cb%3E%26").head(), method="GET")
    refused(response, "NoSuchKey", 404)
    assert b"a&lt;b&gt;&amp;" in response.body, response.body
    assert response.headers["x-amz-request-id"].encode() in response.body
    assert response.headers["x-amz-id-2"].encode() in response.body
    assert response.headers["content-type"] == "application/xml"


def test_delete_objects_needs_a_digest():
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"kept")
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    head = Signed("POST", f"/{bucket}", "delete").head(
        unsigned={"Content-Length": str(len(body))})
    refused(exchange(head + body, method="POST"), "InvalidRequest", 400)
    stored(bucket, "k", b"kept")


def test_line_breaks_cannot_be_smuggled_into_headers():
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"x")
    query = "response-content-type=a%0D%0AX-Evil%3A%201"
    response = exchange(Signed("GET", f"/{bucket}/k", query).head(), method="GET")
    assert response.status == 200 and "x-evil" not in response.headers, response.headers
    assert response.body == b"x"


def test_promised_checksum_that_does_not_come():
    bucket = new_bucket()
    request = Signed("PUT", f"/{bucket}/k", headers={"x-amz-sdk-checksum-algorithm": "CRC32"})
    refused(exchange(request.head(unsigned={"Content-Length": "1"}) + b"x"), "InvalidRequest", 400)
    absent(bucket, "k")


def test_documents_that_are_too_large():
    bucket = new_bucket()
    request = Signed("POST", f"/{bucket}", "delete", headers={"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="})
    response = exchange(request.head(unsigned={"Content-Length": str(64 << 20)}) + b" " * (64 << 20))
    refused(response, "MaxMessageLengthExceeded", 400)
