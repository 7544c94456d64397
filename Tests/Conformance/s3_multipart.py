"""Uploads in parts."""

import base64
import concurrent.futures
import hashlib
import os

from boto3.s3.transfer import TransferConfig

from harness import (CLIENT, FIRST, Signed, ClientError, absent, crc32, exchange, fails_with,
                     new_bucket, random_bytes, refused)

MIB = 1 << 20
# The number of parts of the longest upload; less makes a quick run.
MANY_PARTS = int(os.environ.get("APUS_S3_MANY_PARTS", "10000"))


def put_part(bucket, key, upload, number, data, **options):
    return CLIENT.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number,
                              Body=data, **options)


def begin(bucket, key, **options):
    return CLIENT.create_multipart_upload(Bucket=bucket, Key=key, **options)["UploadId"]


def complete(bucket, key, upload, parts, **options):
    return CLIENT.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **options)


def multipart_etag(pieces):
    digests = b"".join(hashlib.md5(piece).digest() for piece in pieces)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(pieces)}"'


def test_three_parts():
    bucket = new_bucket()
    pieces = [random_bytes(5 * MIB, 1), random_bytes(6 * MIB + 3, 2), b"end"]
    upload = begin(bucket, "k", ContentType="text/plain", Metadata={"a": "b"})
    absent(bucket, "k")
    parts = []
    for number, piece in [(2, pieces[0]), (7, pieces[1]), (9, pieces[2])]:
        etag = put_part(bucket, "k", upload, number, piece)["ETag"]
        assert etag == f'"{hashlib.md5(piece).hexdigest()}"'
        parts.append({"PartNumber": number, "ETag": etag})
    listed = CLIENT.list_parts(Bucket=bucket, Key="k", UploadId=upload)
    assert [(part["PartNumber"], part["Size"], part["ETag"]) for part in listed["Parts"]] == [
        (part["PartNumber"], len(piece), part["ETag"]) for part, piece in zip(parts, pieces)]
    assert listed["Initiator"]["ID"] and listed["Owner"]["ID"]
    answer = complete(bucket, "k", upload, parts)
    assert answer["ETag"] == multipart_etag(pieces), answer
    got = CLIENT.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"".join(pieces)
    assert (got["ContentType"], got["Metadata"], got["ETag"]) == (
        "text/plain", {"a": "b"}, answer["ETag"])
    fails_with("NoSuchUpload", 404, CLIENT.list_parts, Bucket=bucket, Key="k", UploadId=upload)

    start = 0
    for number, piece in zip([2, 7, 9], pieces):
        for call in [CLIENT.get_object, CLIENT.head_object]:
            got = call(Bucket=bucket, Key="k", PartNumber=number)
            assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
            assert got["PartsCount"] == 3 and got["ContentLength"] == len(piece)
            if "Body" in got:
                assert got["Body"].read() == piece
                assert got["ContentRange"].startswith(f"bytes {start}-{start + len(piece) - 1}/")
        start += len(piece)
    for number in [1, 3, 10]:
        fails_with("InvalidPartNumber", 416, CLIENT.get_object, Bucket=bucket, Key="k",
                   PartNumber=number)
    fails_with("InvalidRequest", 400, CLIENT.get_object, Bucket=bucket, Key="k", PartNumber=2,
               Range="bytes=0-1")
    edge = 5 * MIB
    got = CLIENT.get_object(Bucket=bucket, Key="k", Range=f"bytes={edge - 10}-{edge + 9}")
    assert got["Body"].read() == pieces[0][-10:] + pieces[1][:10]


def test_part_number_of_a_whole_object():
    bucket = new_bucket()
    CLIENT.put_object(Bucket=bucket, Key="k", Body=b"whole")
    got = CLIENT.get_object(Bucket=bucket, Key="k", PartNumber=1)
    assert got["Body"].read() == b"whole" and "PartsCount" not in got
    fails_with("InvalidPartNumber", 416, CLIENT.get_object, Bucket=bucket, Key="k", PartNumber=2)


def test_a_part_again():
    bucket = new_bucket()
    upload = begin(bucket, "k")
    first = put_part(bucket, "k", upload, 1, b"first")["ETag"]
    second = put_part(bucket, "k", upload, 1, b"second")["ETag"]
    fails_with("InvalidPart", 400, complete, bucket, "k", upload,
               [{"PartNumber": 1, "ETag": first}])
    complete(bucket, "k", upload, [{"PartNumber": 1, "ETag": second}])
    assert CLIENT.get_object(Bucket=bucket, Key="k")["Body"].read() == b"second"


def test_bad_completions():
    bucket = new_bucket()
    upload = begin(bucket, "k")
    one = put_part(bucket, "k", upload, 1, b"small")["ETag"]
    two = put_part(bucket, "k", upload, 2, b"last")["ETag"]
    parts = [{"PartNumber": 1, "ETag": one}, {"PartNumber": 2, "ETag": two}]
    fails_with("EntityTooSmall", 400, complete, bucket, "k", upload, parts)
    fails_with("InvalidPartOrder", 400, complete, bucket, "k", upload, parts[::-1])
    fails_with("InvalidPartOrder", 400, complete, bucket, "k", upload, [parts[0], parts[0]])
    fails_with("InvalidPart", 400, complete, bucket, "k", upload,
               [{"PartNumber": 3, "ETag": one}])
    fails_with("MalformedXML", 400, complete, bucket, "k", upload, [])
    fails_with("NoSuchUpload", 404, complete, bucket, "k", "0" * 32, parts)
    fails_with("NoSuchUpload", 404, complete, bucket, "other", upload, parts)
    for number in [0, 10_001, -1]:
        refused(exchange(
            Signed("PUT", f"/{bucket}/k", f"partNumber={number}&uploadId={upload}",
                   {"content-length": "1"}).head() + b"x"), "InvalidArgument", 400)
    fails_with("NoSuchUpload", 404, put_part, bucket, "k", "nonsense", 1, b"x")
    absent(bucket, "k")
    complete(bucket, "k", upload, parts[1:])
    assert CLIENT.get_object(Bucket=bucket, Key="k")["Body"].read() == b"last"


def test_bad_documents():
    bucket = new_bucket()
    upload = begin(bucket, "k")
    etag = put_part(bucket, "k", upload, 1, b"x")["ETag"]
    part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    for document in [
        "<CompleteMultipartUpload>", "nonsense", "<Other></Other>", "<a/><b/>",
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part>"
        "</CompleteMultipartUpload>",
        '<!DOCTYPE x [<!ENTITY e "1">]><CompleteMultipartUpload>'
        f"{part}</CompleteMultipartUpload>",
        f"<CompleteMultipartUpload>{part.replace('>1<', '>&e;<')}</CompleteMultipartUpload>",
    ]:
        data = document.encode()
        refused(exchange(
            Signed("POST", f"/{bucket}/k", f"uploadId={upload}",
                   {"content-length": str(len(data))}).head() + data, method="POST"),
            "MalformedXML", 400)
    absent(bucket, "k")


def test_abort():
    bucket = new_bucket()
    upload = begin(bucket, "k")
    put_part(bucket, "k", upload, 1, b"x" * 1000)
    fails_with("BucketNotEmpty", 409, CLIENT.delete_bucket, Bucket=bucket)
    CLIENT.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    fails_with("NoSuchUpload", 404, CLIENT.abort_multipart_upload, Bucket=bucket, Key="k",
               UploadId=upload)
    fails_with("NoSuchUpload", 404, put_part, bucket, "k", upload, 2, b"x")
    absent(bucket, "k")
    CLIENT.delete_bucket(Bucket=bucket)


def test_list_uploads():
    bucket = new_bucket()
    keys = ["a", "b/1", "b/2", "b/2", "c d", "e"]
    made = sorted((key, begin(bucket, key)) for key in keys)
    answer = CLIENT.list_multipart_uploads(Bucket=bucket)
    found = [(item["Key"], item["UploadId"]) for item in answer["Uploads"]]
    assert found == made, (found, made)
    assert all(item["Initiator"]["ID"] and item["Initiated"] for item in answer["Uploads"])
    found, markers = [], {}
    while True:
        page = CLIENT.list_multipart_uploads(Bucket=bucket, MaxUploads=1, **markers)
        found += [(item["Key"], item["UploadId"]) for item in page.get("Uploads", [])]
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"],
                   "UploadIdMarker": page["NextUploadIdMarker"]}
    assert found == made, (found, made)
    page = CLIENT.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["b/"]
    assert [item["Key"] for item in page["Uploads"]] == ["a", "c d", "e"]
    page = CLIENT.list_multipart_uploads(Bucket=bucket, Prefix="b/")
    assert [item["Key"] for item in page["Uploads"]] == ["b/1", "b/2", "b/2"]


def test_part_copy():
    bucket = new_bucket()
    data = random_bytes(11 * MIB, 5)
    CLIENT.put_object(Bucket=bucket, Key="source", Body=data)
    source = {"Bucket": bucket, "Key": "source"}
    upload = begin(bucket, "k")
    parts = []
    for number, (start, end) in enumerate([(0, 5 * MIB), (5 * MIB, 10 * MIB), (100, 200)], 1):
        answer = CLIENT.upload_part_copy(
            Bucket=bucket, Key="k", UploadId=upload, PartNumber=number, CopySource=source,
            CopySourceRange=f"bytes={start}-{end - 1}")
        etag = answer["CopyPartResult"]["ETag"]
        assert etag == f'"{hashlib.md5(data[start:end]).hexdigest()}"'
        parts.append({"PartNumber": number, "ETag": etag})
    fails_with("InvalidArgument", 400, CLIENT.upload_part_copy, Bucket=bucket, Key="k",
               UploadId=upload, PartNumber=4, CopySource=source,
               CopySourceRange=f"bytes=0-{len(data)}")
    fails_with("InvalidArgument", 400, CLIENT.upload_part_copy, Bucket=bucket, Key="k",
               UploadId=upload, PartNumber=4, CopySource=source, CopySourceRange="bytes=5-")
    complete(bucket, "k", upload, parts)
    got = CLIENT.get_object(Bucket=bucket, Key="k")["Body"].read()
    assert got == data[:10 * MIB] + data[100:200]
    whole = begin(bucket, "w")
    etag = CLIENT.upload_part_copy(
        Bucket=bucket, Key="w", UploadId=whole, PartNumber=1,
        CopySource=source)["CopyPartResult"]["ETag"]
    complete(bucket, "w", whole, [{"PartNumber": 1, "ETag": etag}])
    assert CLIENT.get_object(Bucket=bucket, Key="w")["Body"].read() == data


def test_conditional_completion():
    bucket = new_bucket()
    upload = begin(bucket, "k")
    parts = [{"PartNumber": 1, "ETag": put_part(bucket, "k", upload, 1, b"x")["ETag"]}]
    etag = CLIENT.put_object(Bucket=bucket, Key="k", Body=b"there")["ETag"]
    fails_with("PreconditionFailed", 412, complete, bucket, "k", upload, parts, IfNoneMatch="*")
    fails_with("PreconditionFailed", 412, complete, bucket, "k", upload, parts, IfMatch='"zz"')
    assert CLIENT.get_object(Bucket=bucket, Key="k")["Body"].read() == b"there"
    complete(bucket, "k", upload, parts, IfMatch=etag)
    assert CLIENT.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_full_object_checksum():
    bucket = new_bucket()
    pieces = [random_bytes(5 * MIB, 1), random_bytes(5 * MIB, 2), b"end"]
    upload = begin(bucket, "k", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    parts = []
    for number, piece in enumerate(pieces, 1):
        answer = put_part(bucket, "k", upload, number, piece, ChecksumAlgorithm="CRC32")
        assert answer["ChecksumCRC32"] == crc32(piece)
        parts.append({"PartNumber": number, "ETag": answer["ETag"],
                      "ChecksumCRC32": answer["ChecksumCRC32"]})
    listed = CLIENT.list_parts(Bucket=bucket, Key="k", UploadId=upload)
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == ("CRC32", "FULL_OBJECT")
    assert [part["ChecksumCRC32"] for part in listed["Parts"]] == [crc32(p) for p in pieces]
    whole = crc32(b"".join(pieces))
    fails_with("BadDigest", 400, complete, bucket, "k", upload, parts,
               ChecksumCRC32=crc32(b"other"), ChecksumType="FULL_OBJECT")
    fails_with("InvalidRequest", 400, complete, bucket, "k", upload, parts, MpuObjectSize=5)
    wrong = [dict(parts[0], ChecksumCRC32=crc32(b"other"))] + parts[1:]
    fails_with("InvalidPart", 400, complete, bucket, "k", upload, wrong)
    answer = complete(bucket, "k", upload, parts, ChecksumCRC32=whole, ChecksumType="FULL_OBJECT",
                      MpuObjectSize=sum(map(len, pieces)))
    assert (answer["ChecksumCRC32"], answer["ChecksumType"]) == (whole, "FULL_OBJECT")
    head = CLIENT.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head["ChecksumCRC32"], head["ChecksumType"]) == (whole, "FULL_OBJECT")
    got = CLIENT.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"".join(pieces)
    got = CLIENT.get_object(Bucket=bucket, Key="k", PartNumber=2, ChecksumMode="ENABLED")
    assert got["Body"].read() == pieces[1] and got["ChecksumCRC32"] == crc32(pieces[1])


def test_composite_checksum():
    bucket = new_bucket()
    pieces = [random_bytes(5 * MIB, 1), b"end"]
    upload = begin(bucket, "k", ChecksumAlgorithm="SHA256")
    parts = []
    for number, piece in enumerate(pieces, 1):
        answer = put_part(bucket, "k", upload, number, piece, ChecksumAlgorithm="SHA256")
        parts.append({"PartNumber": number, "ETag": answer["ETag"],
                      "ChecksumSHA256": answer["ChecksumSHA256"]})
    digests = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    value = base64.b64encode(hashlib.sha256(digests).digest()).decode() + "-2"
    answer = complete(bucket, "k", upload, parts)
    assert (answer["ChecksumSHA256"], answer["ChecksumType"]) == (value, "COMPOSITE"), answer
    head = CLIENT.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head["ChecksumSHA256"], head["ChecksumType"]) == (value, "COMPOSITE")


def test_checksum_rules():
    bucket = new_bucket()
    for options in [
        {"ChecksumAlgorithm": "SHA256", "ChecksumType": "FULL_OBJECT"},
        {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "COMPOSITE"},
    ]:
        fails_with("InvalidRequest", 400, CLIENT.create_multipart_upload, Bucket=bucket, Key="k",
                   **options)
    upload = begin(bucket, "k", ChecksumAlgorithm="CRC32")
    fails_with("InvalidRequest", 400, put_part, bucket, "k", upload, 1, b"x",
               ChecksumAlgorithm="SHA256")
    assert "Parts" not in CLIENT.list_parts(Bucket=bucket, Key="k", UploadId=upload)


def test_racing_completions_have_one_winner():
    bucket = new_bucket()
    uploads = []
    for number in range(8):
        upload = begin(bucket, "k")
        etag = put_part(bucket, "k", upload, 1, b"%d" % number)["ETag"]
        uploads.append((upload, [{"PartNumber": 1, "ETag": etag}]))

    def attempt(number):
        try:
            complete(bucket, "k", *uploads[number], IfNoneMatch="*")
            return number
        except ClientError as error:
            assert error.response["Error"]["Code"] in (
                "PreconditionFailed", "ConditionalRequestConflict"), error
            return None
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        winners = [won for won in pool.map(attempt, range(8)) if won is not None]
    assert len(winners) == 1, winners
    assert CLIENT.get_object(Bucket=bucket, Key="k")["Body"].read() == b"%d" % winners[0]


def test_transfer_manager():
    bucket = new_bucket()
    data = random_bytes(40 * MIB + 17, 3)
    import io
    CLIENT.upload_fileobj(
        io.BytesIO(data), bucket, "k",
        Config=TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB))
    out = io.BytesIO()
    CLIENT.download_fileobj(
        bucket, "k", out,
        Config=TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB))
    assert out.getvalue() == data
    assert CLIENT.head_object(Bucket=bucket, Key="k")["ETag"].endswith('-6"')


def test_ten_thousand_parts():
    """Listed in pages; completed with the parts that are large enough to be: the last one."""
    bucket = new_bucket()
    client = FIRST.client(request_checksum_calculation="when_required")
    upload = begin(bucket, "k")
    numbers = range(1, MANY_PARTS + 1)

    def put(number):
        return client.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=number,
                                  Body=b"%d" % number)["ETag"]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        etags = list(pool.map(put, numbers))
    found, marker, pages = [], 0, 0
    while True:
        page = CLIENT.list_parts(Bucket=bucket, Key="k", UploadId=upload, PartNumberMarker=marker)
        found += [(part["PartNumber"], part["ETag"]) for part in page["Parts"]]
        pages += 1
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
    assert found == list(zip(numbers, etags)) and pages == (MANY_PARTS + 999) // 1000
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in zip(numbers, etags)]
    fails_with("EntityTooSmall", 400, complete, bucket, "k", upload, parts)
    complete(bucket, "k", upload, parts[-1:])
    assert CLIENT.get_object(Bucket=bucket, Key="k")["Body"].read() == b"%d" % MANY_PARTS
