"""Keys: put, get, head, delete, copy, conditions, ranges, checksums."""

import base64
import concurrent.futures
import datetime
import email.header
import hashlib
import io
import urllib.error
import urllib.request

from harness import (CLIENT, FIRST, ClientError, Signed, absent, crc32, exchange, fails_with,
                     new_bucket, parsed, random_bytes, sha256_base64)

ODD_KEYS = [
    "plain", "with space", "plus+plus", "percent%41", "ü/ö/€/漢字/😀", "a//b///c", "trailing/",
    "/leading", "dots/../up/./here", "quote'\"<>&", "semi;colon:comma,=?#[]@!$()*", "tab\there",
    "back\\slash", "~tilde`caret^{}|", "x" * 1024, "e\u0301", "\u00e9",
]


def body(bucket, key, **options):
    return CLIENT.get_object(Bucket=bucket, Key=key, **options)["Body"].read()


def test_put_get_of_many_sizes():
    bucket = new_bucket()
    for size in [0, 1, 100, 16383, 16384, 65536, 1 << 20, (3 << 20) + 5, 20_000_001]:
        data = random_bytes(size)
        answer = CLIENT.put_object(Bucket=bucket, Key=f"k{size}", Body=data)
        assert answer["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
        got = CLIENT.get_object(Bucket=bucket, Key=f"k{size}")
        assert got["ContentLength"] == size and got["Body"].read() == data
        assert got["AcceptRanges"] == "bytes" and got["ETag"] == answer["ETag"]
        head = CLIENT.head_object(Bucket=bucket, Key=f"k{size}")
        assert head["ContentLength"] == size
        age = datetime.datetime.now(datetime.timezone.utc) - head["LastModified"]
        assert abs(age.total_seconds()) < 60


def test_odd_keys():
    bucket = new_bucket()
    for number, key in enumerate(ODD_KEYS):
        CLIENT.put_object(Bucket=bucket, Key=key, Body=str(number).encode())
    for number, key in enumerate(ODD_KEYS):
        assert body(bucket, key) == str(number).encode(), key
    listed = [item["Key"] for item in CLIENT.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(ODD_KEYS, key=lambda key: key.encode()), listed
    listed = [item["Key"] for item in CLIENT.list_objects(Bucket=bucket)["Contents"]]
    assert sorted(listed) == sorted(ODD_KEYS)
    for key in ODD_KEYS:
        url = CLIENT.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key})
        assert urllib.request.urlopen(url).status == 200
    CLIENT.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": key} for key in ODD_KEYS]})
    assert "Contents" not in CLIENT.list_objects_v2(Bucket=bucket)


def test_key_too_long():
    bucket = new_bucket()
    fails_with("KeyTooLongError", 400, CLIENT.put_object, Bucket=bucket, Key="x" * 1025, Body=b"")


def test_overwrite_and_delete():
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"one")
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"second")
    assert body(bucket, "k") == b"second"
    answer = CLIENT.delete_object(Bucket=bucket, Key="k")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    fails_with("NoSuchKey", 404, CLIENT.get_object, Bucket=bucket, Key="k")
    CLIENT.delete_object(Bucket=bucket, Key="k")


def test_no_such_bucket():
    for call in [
        lambda: CLIENT.put_object(Bucket="conf-not-there", Key="k", Body=b"x" * 100_000),
        lambda: CLIENT.get_object(Bucket="conf-not-there", Key="k"),
        lambda: CLIENT.list_objects_v2(Bucket="conf-not-there"),
        lambda: CLIENT.delete_object(Bucket="conf-not-there", Key="k"),
        lambda: CLIENT.create_multipart_upload(Bucket="conf-not-there", Key="k"),
        lambda: CLIENT.delete_objects(
            Bucket="conf-not-there", Delete={"Objects": [{"Key": "k"}]}),
    ]:
        fails_with("NoSuchBucket", 404, call)


def test_headers_and_metadata():
    bucket = new_bucket()
    expires = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    CLIENT.put_object(
        Bucket=bucket, Key="k", Body=b"x", ContentType="text/csv", CacheControl="max-age=5",
        ContentDisposition='attachment; filename="a b.csv"', ContentEncoding="gzip",
        ContentLanguage="de", Expires=expires, Metadata={"One": "1", "two-2": "a  b;c"})
    for answer in [CLIENT.head_object(Bucket=bucket, Key="k"),
                   CLIENT.get_object(Bucket=bucket, Key="k")]:
        assert answer["ContentType"] == "text/csv"
        assert answer["CacheControl"] == "max-age=5"
        assert answer["ContentDisposition"] == 'attachment; filename="a b.csv"'
        assert answer["ContentEncoding"] == "gzip"
        assert answer["ContentLanguage"] == "de"
        assert answer["ResponseMetadata"]["HTTPHeaders"]["expires"].startswith("Wed, 02 Jan 2030")
        assert answer["Metadata"] == {"one": "1", "two-2": "a  b;c"}, answer["Metadata"]
    changed = CLIENT.get_object(
        Bucket=bucket, Key="k", ResponseContentType="image/png", ResponseCacheControl="no-store",
        ResponseContentDisposition="inline", ResponseContentEncoding="br",
        ResponseContentLanguage="fr")
    assert (changed["ContentType"], changed["CacheControl"], changed["ContentDisposition"],
            changed["ContentEncoding"], changed["ContentLanguage"]) == (
                "image/png", "no-store", "inline", "br", "fr")


def test_aws_chunked_is_not_kept_as_an_encoding():
    bucket = new_bucket()
    CLIENT.put_object(
        Bucket=bucket, Key="k", Body=io.BytesIO(b"x" * 1000), ContentEncoding="gzip",
        ChecksumAlgorithm="CRC32")
    assert CLIENT.head_object(Bucket=bucket, Key="k")["ContentEncoding"] == "gzip"
    CLIENT.put_object(
        Bucket=bucket, Key="k", Body=io.BytesIO(b"x" * 1000), ChecksumAlgorithm="CRC32")
    assert "ContentEncoding" not in CLIENT.head_object(Bucket=bucket, Key="k")


def test_content_encodings_stay_as_sent():
    bucket = new_bucket()
    for sent, kept in [("deflate, gzip", "deflate, gzip"), ("deflate,gzip", "deflate,gzip"),
                       ("aws-chunked, deflate, gzip", "deflate, gzip")]:
        response = exchange(Signed("PUT", f"/{bucket}/k", headers={
            "content-length": "1", "content-encoding": sent}).head() + b"x")
        assert response.status == 200, response.body
        assert CLIENT.head_object(Bucket=bucket, Key="k")["ContentEncoding"] == kept


def test_metadata_that_is_not_ascii():
    """It comes back as words of mail; such words come back as they were sent."""
    bucket = new_bucket()
    for text in ["größe", "漢字" * 60, "=?UTF-8?B?Z3LDtsOfZQ==?=", "=?utf-8?q?gr=C3=B6=C3=9Fe?="]:
        response = exchange(Signed("PUT", f"/{bucket}/k", headers={
            "content-length": "1", "x-amz-meta-t": text}).head() + b"x")
        assert response.status == 200, response.body
        exchange(Signed("PUT", f"/{bucket}/c", headers={
            "content-length": "0", "x-amz-copy-source": f"{bucket}/k"}).head())
        for method, key in [("GET", "k"), ("HEAD", "k"), ("GET", "c")]:
            told = exchange(Signed(method, f"/{bucket}/{key}").head(), method=method).headers[
                "x-amz-meta-t"]
            assert told.isascii()
            assert told == text if text.isascii() else str(
                email.header.make_header(email.header.decode_header(told))) == text, told
    assert CLIENT.get_object(Bucket=bucket, Key="k")["Metadata"]["t"] == text


def test_metadata_too_large():
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="fits", Body=b"", Metadata={"a": "x" * 2047})
    fails_with("MetadataTooLarge", 400, CLIENT.put_object, Bucket=bucket, Key="k", Body=b"",
               Metadata={"a": "x" * 2048})
    absent(bucket, "k")


def test_ranges():
    bucket = new_bucket()
    data = random_bytes(3_000_000)
    CLIENT.put_object(Bucket=bucket, Key="k", Body=data)
    size = len(data)
    for header, start, end in [
        ("bytes=0-0", 0, 1), ("bytes=0-9", 0, 10), ("bytes=5-", 5, size),
        ("bytes=-7", size - 7, size), (f"bytes=-{size * 2}", 0, size),
        ("bytes=1048575-1048576", 1048575, 1048577), (f"bytes={size - 1}-", size - 1, size),
        (f"bytes=100-{size * 2}", 100, size), ("bytes=1000000-2000000", 1000000, 2000001),
    ]:
        got = CLIENT.get_object(Bucket=bucket, Key="k", Range=header)
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"] == f"bytes {start}-{end - 1}/{size}", got["ContentRange"]
        assert got["ContentLength"] == end - start and got["Body"].read() == data[start:end]
        head = CLIENT.head_object(Bucket=bucket, Key="k", Range=header)
        assert head["ContentLength"] == end - start
    for header in [f"bytes={size}-", "bytes=-0", f"bytes={size + 5}-{size + 9}"]:
        error = fails_with("InvalidRange", 416, CLIENT.get_object, Bucket=bucket, Key="k",
                           Range=header)
        headers = error.response["ResponseMetadata"]["HTTPHeaders"]
        assert headers["content-range"] == f"bytes */{size}"
    for header in ["bytes=9-5", "lines=0-5", "bytes=a-b", "bytes=0-1,4-5", "bytes=-"]:
        got = CLIENT.get_object(Bucket=bucket, Key="k", Range=header)
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert got["ContentLength"] == size
        got["Body"].close()


def test_ranges_of_nothing():
    """The last bytes of an empty key are all that it has; a first byte it has not."""
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="empty", Body=b"")
    for header in ["bytes=-1", "bytes=-100"]:
        for call in [CLIENT.get_object, CLIENT.head_object]:
            got = call(Bucket=bucket, Key="empty", Range=header)
            assert got["ResponseMetadata"]["HTTPStatusCode"] == 200
            assert got["ContentLength"] == 0 and "ContentRange" not in got
    for header in ["bytes=0-0", "bytes=0-", "bytes=-0"]:
        fails_with("InvalidRange", 416, CLIENT.get_object, Bucket=bucket, Key="empty",
                   Range=header)
        fails_with("416", 416, CLIENT.head_object, Bucket=bucket, Key="empty", Range=header)


def test_conditional_reads():
    bucket = new_bucket()
    etag = CLIENT.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    modified = CLIENT.head_object(Bucket=bucket, Key="k")["LastModified"]
    earlier = modified - datetime.timedelta(seconds=5)
    later = modified + datetime.timedelta(seconds=5)
    for call in [CLIENT.get_object, CLIENT.head_object]:
        is_head = call == CLIENT.head_object
        failed = ("412" if is_head else "PreconditionFailed", 412)
        call(Bucket=bucket, Key="k", IfMatch=etag)
        call(Bucket=bucket, Key="k", IfMatch=f'"zzz", {etag}')
        call(Bucket=bucket, Key="k", IfMatch="*")
        fails_with(*failed, call, Bucket=bucket, Key="k", IfMatch='"zzz"')
        call(Bucket=bucket, Key="k", IfNoneMatch='"zzz"')
        fails_with("304", 304, call, Bucket=bucket, Key="k", IfNoneMatch=etag)
        fails_with("304", 304, call, Bucket=bucket, Key="k", IfNoneMatch="*")
        call(Bucket=bucket, Key="k", IfModifiedSince=earlier)
        fails_with("304", 304, call, Bucket=bucket, Key="k", IfModifiedSince=modified)
        # To come, and so no condition.
        call(Bucket=bucket, Key="k", IfModifiedSince=modified + datetime.timedelta(days=1))
        call(Bucket=bucket, Key="k", IfUnmodifiedSince=later)
        fails_with(*failed, call, Bucket=bucket, Key="k", IfUnmodifiedSince=earlier)
        # A tag's condition comes before that of a time.
        call(Bucket=bucket, Key="k", IfMatch=etag, IfUnmodifiedSince=earlier)
        fails_with("304", 304, call, Bucket=bucket, Key="k", IfNoneMatch=etag,
                   IfModifiedSince=earlier)


def test_conditional_writes():
    bucket = new_bucket()
    first = CLIENT.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    fails_with("PreconditionFailed", 412, CLIENT.put_object, Bucket=bucket, Key="k", Body=b"2",
               IfNoneMatch="*")
    second = CLIENT.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=first)["ETag"]
    fails_with("PreconditionFailed", 412, CLIENT.put_object, Bucket=bucket, Key="k", Body=b"3",
               IfMatch=first)
    assert body(bucket, "k") == b"2"
    try:
        CLIENT.put_object(Bucket=bucket, Key="none", Body=b"3", IfMatch=first)
        raise AssertionError("a tag matched what is not there")
    except ClientError as error:
        assert error.response["Error"]["Code"] in ("NoSuchKey", "PreconditionFailed")
    absent(bucket, "none")
    fails_with("PreconditionFailed", 412, CLIENT.delete_object, Bucket=bucket, Key="k",
               IfMatch=first)
    CLIENT.delete_object(Bucket=bucket, Key="k", IfMatch=second)
    absent(bucket, "k")


def _race(call, count):
    """How many of `count` calls at once succeed; the others must fail their condition."""
    def attempt(number):
        try:
            call(number)
            return number
        except ClientError as error:
            code = error.response["Error"]["Code"]
            assert code in ("PreconditionFailed", "ConditionalRequestConflict"), code
            return None
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return [won for won in pool.map(attempt, range(count)) if won is not None]


def test_racing_creations_have_one_winner():
    bucket = new_bucket()
    for turn in range(5):
        key = f"lock{turn}"
        winners = _race(
            lambda number: CLIENT.put_object(
                Bucket=bucket, Key=key, Body=b"%d" % number, IfNoneMatch="*"), 16)
        assert len(winners) == 1, winners
        assert body(bucket, key) == b"%d" % winners[0]


def test_racing_replacements_have_one_winner():
    bucket = new_bucket()
    etag = CLIENT.put_object(Bucket=bucket, Key="k", Body=b"start")["ETag"]
    for turn in range(5):
        winners = _race(
            lambda number: CLIENT.put_object(
                Bucket=bucket, Key="k", Body=b"%d-%d" % (turn, number), IfMatch=etag), 16)
        assert len(winners) == 1, winners
        assert body(bucket, "k") == b"%d-%d" % (turn, winners[0])
        etag = CLIENT.head_object(Bucket=bucket, Key="k")["ETag"]


def test_checksums_of_every_kind():
    bucket = new_bucket()
    data = random_bytes(200_000)
    algorithms = ["CRC32", "SHA1", "SHA256"]
    try:
        import awscrt  # noqa: F401
        algorithms += ["CRC32C", "CRC64NVME"]
    except ImportError:
        pass
    for algorithm in algorithms:
        for payload in [data, io.BytesIO(data)]:
            put = CLIENT.put_object(
                Bucket=bucket, Key=algorithm, Body=payload, ChecksumAlgorithm=algorithm)
            field = f"Checksum{algorithm}"
            head = CLIENT.head_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED")
            assert head[field] == put[field] and head["ChecksumType"] == "FULL_OBJECT"
            got = CLIENT.get_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED")
            assert got["Body"].read() == data and got[field] == put[field]
    assert CLIENT.head_object(
        Bucket=bucket, Key="CRC32", ChecksumMode="ENABLED")["ChecksumCRC32"] == crc32(data)
    assert "ChecksumCRC32" not in FIRST.client().head_object(Bucket=bucket, Key="CRC32")
    part = CLIENT.get_object(Bucket=bucket, Key="CRC32", Range="bytes=0-9",
                             ChecksumMode="ENABLED")
    assert "ChecksumCRC32" not in part and part["Body"].read() == data[:10]


def test_known_crc_values():
    """The check values of the published catalogues, for "123456789"."""
    bucket = new_bucket()
    for header, value in [("CRC32", 0xCBF43926), ("CRC32C", 0xE3069283)]:
        text = base64.b64encode(value.to_bytes(4, "big")).decode()
        CLIENT.put_object(Bucket=bucket, Key="k", Body=b"123456789",
                          **{f"Checksum{header}": text})
    text = base64.b64encode((0xAE8B14860A799888).to_bytes(8, "big")).decode()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"123456789", ChecksumCRC64NVME=text)
    head = CLIENT.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head["ChecksumCRC64NVME"] == text


def test_wrong_checksums():
    bucket = new_bucket()
    for options, code in [
        ({"ChecksumCRC32": crc32(b"other")}, "BadDigest"),
        ({"ChecksumSHA256": sha256_base64(b"other")}, "BadDigest"),
        ({"ChecksumSHA256": "bad"}, "InvalidRequest"),
        ({"ChecksumCRC32": sha256_base64(b"x")}, "InvalidRequest"),
        ({"ContentMD5": base64.b64encode(hashlib.md5(b"other").digest()).decode()}, "BadDigest"),
        ({"ContentMD5": "bad"}, "InvalidDigest"),
    ]:
        fails_with(code, 400, CLIENT.put_object, Bucket=bucket, Key="k", Body=b"x", **options)
        absent(bucket, "k")
    md5 = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"x", ContentMD5=md5)


def test_signed_and_unsigned_payloads():
    bucket = new_bucket()
    data = random_bytes(300_000)
    for signing in [True, False]:
        for when in ["when_supported", "when_required"]:
            client = FIRST.client(
                s3={"payload_signing_enabled": signing}, request_checksum_calculation=when)
            client.put_object(Bucket=bucket, Key="k", Body=data)
            assert body(bucket, "k") == data


def _fetch(url, **options):
    return urllib.request.urlopen(urllib.request.Request(url, **options))


def _presigned_round_trip(client, data):
    bucket = new_bucket()
    url = client.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "a +b/ü"})
    assert _fetch(url, data=data, method="PUT", headers={"content-type": ""}).status == 200
    url = client.generate_presigned_url(
        "get_object", {"Bucket": bucket, "Key": "a +b/ü", "ResponseContentType": "text/x"})
    got = _fetch(url)
    assert got.read() == data and got.headers["content-type"] == "text/x"
    url = client.generate_presigned_url(
        "put_object", {"Bucket": bucket, "Key": "m", "Metadata": {"a": "b"}})
    headers = {"content-type": ""}
    if "x-amz-meta-a" not in url or "SignedHeaders" in url:
        headers["x-amz-meta-a"] = "b"
    _fetch(url, data=data, method="PUT", headers=headers)
    assert client.head_object(Bucket=bucket, Key="m")["Metadata"] == {"a": "b"}
    url = client.generate_presigned_url("delete_object", {"Bucket": bucket, "Key": "m"})
    assert _fetch(url, method="DELETE").status == 204
    absent(bucket, "m")
    url = client.generate_presigned_url("list_objects_v2", {"Bucket": bucket})
    assert b"<Key>a%20%2Bb/" in _fetch(url).read()
    return client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a +b/ü"})


def _refused_url(url, status):
    try:
        _fetch(url)
        raise AssertionError(f"a spoilt URL worked: {url}")
    except urllib.error.HTTPError as error:
        assert error.code == status, (url, error.code, error.read())


def test_presigned():
    client = FIRST.client(signature_version="s3v4")
    url = _presigned_round_trip(client, b"presigned" * 1000)
    assert "X-Amz-Expires=3600" in url
    _refused_url(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601"), 403)
    _refused_url(url.replace("a%20%2Bb", "a%20%2Bc"), 403)
    _refused_url(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=704800"), 400)
    _refused_url(url + "&response-expires=now", 403)
    _refused_url(url + "&x-amz-meta-a=b", 403)


def test_presigned_by_default():
    """What boto3 makes when it is told nothing of signatures: version 2, in the query."""
    url = _presigned_round_trip(FIRST.client(), b"presigned" * 1000)
    assert "AWSAccessKeyId=" in url
    _refused_url(url.replace("Expires=1", "Expires=2"), 403)
    _refused_url(url.replace("a%20%2Bb", "a%20%2Bc"), 403)
    _refused_url(url + "&uploads", 403)
    _refused_url(url + "&response-expires=now", 403)


def test_presigned_for_a_week_at_most():
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"x")
    week = 7 * 24 * 3600
    parameters = {"Bucket": bucket, "Key": "k"}
    for version in ["s3", "s3v4"]:
        client = FIRST.client(signature_version=version)
        url = client.generate_presigned_url("get_object", parameters, ExpiresIn=week)
        assert _fetch(url).read() == b"x"
        url = client.generate_presigned_url("get_object", parameters, ExpiresIn=week + 3600)
        _refused_url(url, 403 if version == "s3" else 400)


def test_presigned_covers_every_header():
    """Also one that many clients add by themselves."""
    bucket = new_bucket()
    client = FIRST.client(signature_version="s3v4")
    url = client.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "k"})
    for digest in [hashlib.sha256(b"other").hexdigest(), hashlib.sha256(b"x").hexdigest(),
                   "UNSIGNED-PAYLOAD"]:
        try:
            _fetch(url, data=b"x", method="PUT",
                   headers={"content-type": "", "x-amz-content-sha256": digest})
            raise AssertionError("a header that nobody signed was passed over")
        except urllib.error.HTTPError as error:
            assert error.code == 403 and b"x-amz-content-sha256" in error.read()
        absent(bucket, "k")
    _fetch(url, data=b"x", method="PUT", headers={"content-type": ""})


def test_presigned_urls_expire():
    import time
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"x")
    for client in [FIRST.client(), FIRST.client(signature_version="s3v4")]:
        def url(seconds):
            return client.generate_presigned_url(
                "get_object", {"Bucket": bucket, "Key": "k"}, ExpiresIn=seconds)
        # One for as long as the slowest machine may take, and one that is over when it is asked.
        assert _fetch(url(600)).read() == b"x"
        short = url(1)
        time.sleep(2.5)
        _refused_url(short, 403)


def test_copy():
    bucket, other = new_bucket(), new_bucket()
    data = random_bytes(2_500_000)
    CLIENT.put_object(Bucket=bucket, Key="a +b/ü", Body=data, ContentType="text/plain",
                      Metadata={"m": "1"})
    source = {"Bucket": bucket, "Key": "a +b/ü"}
    answer = CLIENT.copy_object(Bucket=other, Key="copy", CopySource=source)
    assert answer["CopyObjectResult"]["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    got = CLIENT.get_object(Bucket=other, Key="copy")
    assert got["Body"].read() == data
    assert got["ContentType"] == "text/plain" and got["Metadata"] == {"m": "1"}
    CLIENT.copy_object(Bucket=other, Key="copy", CopySource=source, MetadataDirective="REPLACE",
                       Metadata={"n": "2"}, ContentType="text/html")
    got = CLIENT.head_object(Bucket=other, Key="copy")
    assert got["ContentType"] == "text/html" and got["Metadata"] == {"n": "2"}
    fails_with("InvalidRequest", 400, CLIENT.copy_object, Bucket=bucket, Key="a +b/ü",
               CopySource=source)
    for options in [{"StorageClass": "STANDARD"}, {"ChecksumAlgorithm": "SHA256"}]:
        CLIENT.copy_object(Bucket=bucket, Key="a +b/ü", CopySource=source, **options)
        got = CLIENT.get_object(Bucket=bucket, Key="a +b/ü", ChecksumMode="ENABLED")
        assert got["Body"].read() == data and got["Metadata"] == {"m": "1"}
    assert got["ChecksumSHA256"] == sha256_base64(data)
    CLIENT.copy_object(Bucket=bucket, Key="a +b/ü", CopySource=source,
                       MetadataDirective="REPLACE", Metadata={"self": "yes"})
    got = CLIENT.get_object(Bucket=bucket, Key="a +b/ü")
    assert got["Body"].read() == data and got["Metadata"] == {"self": "yes"}
    fails_with("NoSuchKey", 404, CLIENT.copy_object, Bucket=other, Key="x",
               CopySource={"Bucket": bucket, "Key": "none"})
    fails_with("NoSuchBucket", 404, CLIENT.copy_object, Bucket=other, Key="x",
               CopySource={"Bucket": "conf-not-there", "Key": "none"})


def test_copy_looks_at_the_target_first():
    bucket = new_bucket()
    missing = {"Bucket": bucket, "Key": "none"}
    fails_with("NoSuchBucket", 404, CLIENT.copy_object, Bucket="conf-not-there", Key="x",
               CopySource=missing)
    fails_with("InvalidArgument", 400, CLIENT.copy_object, Bucket=bucket, Key="x",
               CopySource=missing, MetadataDirective="OTHER")
    fails_with("InvalidRequest", 400, CLIENT.copy_object, Bucket=bucket, Key="none",
               CopySource=missing)
    fails_with("NoSuchKey", 404, CLIENT.copy_object, Bucket=bucket, Key="x", CopySource=missing)


def test_a_plus_in_the_source_of_a_copy_is_a_space():
    """As S3 reads the header: a plus is %2B there."""
    bucket = new_bucket()
    bodies = {"a b": b"with a space" * 9, "a+b": b"with a plus"}
    for key, data in bodies.items():
        CLIENT.put_object(Bucket=bucket, Key=key, Body=data)
    for source, key in [("a+b", "a b"), ("a%20b", "a b"), ("a b", "a b"), ("a%2Bb", "a+b"),
                        ("a%2bb", "a+b")]:
        for slash in ["", "/"]:
            response = exchange(Signed("PUT", f"/{bucket}/copy", headers={
                "content-length": "0", "x-amz-copy-source": f"{slash}{bucket}/{source}"}).head())
            assert response.status == 200, response.body
            assert body(bucket, "copy") == bodies[key], source
        upload = CLIENT.create_multipart_upload(Bucket=bucket, Key="part")["UploadId"]
        response = exchange(Signed(
            "PUT", f"/{bucket}/part", f"partNumber=1&uploadId={upload}", headers={
                "content-length": "0", "x-amz-copy-source": f"{bucket}/{source}"}).head())
        etag = parsed(response).findtext("ETag")
        assert etag == f'"{hashlib.md5(bodies[key]).hexdigest()}"', source
    # In a path it is a plus.
    for path, key in [("a+b", "a+b"), ("a%2Bb", "a+b"), ("a%20b", "a b")]:
        got = exchange(Signed("GET", f"/{bucket}/{path}").head(), method="GET")
        assert got.body == bodies[key], path


def test_copy_conditions():
    bucket = new_bucket()
    etag = CLIENT.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    source = {"Bucket": bucket, "Key": "k"}
    CLIENT.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfMatch=etag)
    for options in [{"CopySourceIfMatch": '"zzz"'}, {"CopySourceIfNoneMatch": etag},
                    {"CopySourceIfUnmodifiedSince": datetime.datetime(2000, 1, 1)},
                    {"CopySourceIfModifiedSince": CLIENT.head_object(
                        Bucket=bucket, Key="k")["LastModified"]}]:
        fails_with("PreconditionFailed", 412, CLIENT.copy_object, Bucket=bucket, Key="d",
                   CopySource=source, **options)
    absent(bucket, "d")
    future = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    CLIENT.copy_object(Bucket=bucket, Key="f", CopySource=source, CopySourceIfModifiedSince=future)
    answer = CLIENT.copy_object(Bucket=bucket, Key="s", CopySource=source,
                                ChecksumAlgorithm="SHA256")
    assert answer["CopyObjectResult"]["ChecksumSHA256"] == sha256_base64(b"x")


def test_delete_objects_of_a_thousand():
    bucket = new_bucket()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(
            lambda n: CLIENT.put_object(Bucket=bucket, Key=f"k{n:04}", Body=b""), range(1000)))
    keys = [{"Key": f"k{n:04}"} for n in range(1000)]
    answer = CLIENT.delete_objects(Bucket=bucket, Delete={"Objects": keys})
    assert [item["Key"] for item in answer["Deleted"]] == [item["Key"] for item in keys]
    assert "Contents" not in CLIENT.list_objects_v2(Bucket=bucket)
    fails_with("MalformedXML", 400, CLIENT.delete_objects, Bucket=bucket,
               Delete={"Objects": keys + [{"Key": "one more"}]})


def test_delete_objects_quiet_conditions_and_missing():
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="a", Body=b"1")
    etag = CLIENT.put_object(Bucket=bucket, Key="b", Body=b"2")["ETag"]
    answer = CLIENT.delete_objects(
        Bucket=bucket, Delete={"Quiet": True, "Objects": [
            {"Key": "a", "ETag": '"zzz"'}, {"Key": "b", "ETag": etag}, {"Key": "missing"},
            {"Key": "v", "VersionId": "3HL4kqtJvjVBH40Nrjfkd"}]})
    assert "Deleted" not in answer
    assert [(item["Key"], item["Code"]) for item in answer["Errors"]] == [
        ("a", "PreconditionFailed"), ("v", "NoSuchVersion")], answer["Errors"]
    assert body(bucket, "a") == b"1"
    absent(bucket, "b")


def test_versions_of_unversioned_keys():
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert body(bucket, "k", VersionId="null") == b"x"
    fails_with("NoSuchVersion", 404, CLIENT.get_object, Bucket=bucket, Key="k",
               VersionId="3HL4kqtJvjVBH40Nrjfkd")
    CLIENT.delete_object(Bucket=bucket, Key="k", VersionId="null")
    absent(bucket, "k")
