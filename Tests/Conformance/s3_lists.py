"""Lists: prefixes, delimiters, pages, encodings, versions."""

import concurrent.futures
import re

from harness import CLIENT, Signed, exchange, fails_with, new_bucket, parsed, refused


def fill(keys, bucket=None):
    bucket = bucket or new_bucket()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: CLIENT.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    return bucket


def walk(bucket, **options):
    """Keys and common prefixes over all pages, with the sizes of the pages."""
    keys, prefixes, sizes, token = [], [], [], None
    while True:
        if token:
            options["ContinuationToken"] = token
        page = CLIENT.list_objects_v2(Bucket=bucket, **options)
        found = [item["Key"] for item in page.get("Contents", [])]
        groups = [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        assert page["KeyCount"] == len(found) + len(groups)
        keys += found
        prefixes += groups
        sizes.append(page["KeyCount"])
        token = page.get("NextContinuationToken")
        assert page["IsTruncated"] == bool(token)
        if not token:
            return keys, prefixes, sizes


TREE = ["a", "b/1", "b/2", "b/c/1", "b/c/2", "b0", "c/x", "d", "d/", "d/e/f/g", "z"]


def expected(keys, prefix="", delimiter="", after=""):
    names, groups = [], []
    for key in sorted(keys, key=lambda name: name.encode()):
        if not key.startswith(prefix):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        group = key[:end + len(delimiter)] if end >= 0 else None
        if (group or key) <= after and after:
            continue
        if group is None:
            names.append(key)
        elif group not in groups:
            groups.append(group)
    return names, groups


def test_every_combination_in_pages_of_every_size():
    bucket = fill(TREE)
    for prefix in ["", "b", "b/", "b/c", "b/c/", "d/", "zz"]:
        for delimiter in ["", "/", "c/", "1"]:
            for after in ["", "a", "b/", "b/1", "b/z", "d", "z"]:
                if delimiter and after:
                    continue
                wanted = expected(TREE, prefix, delimiter, after)
                for size in [1, 2, 3, 1000]:
                    options = {"Prefix": prefix, "MaxKeys": size}
                    if delimiter:
                        options["Delimiter"] = delimiter
                    if after:
                        options["StartAfter"] = after
                    keys, prefixes, sizes = walk(bucket, **options)
                    assert (keys, prefixes) == wanted, (prefix, delimiter, after, size, keys,
                                                        prefixes, wanted)
                    assert all(count == size for count in sizes[:-1]), sizes


def test_v1_markers():
    bucket = fill(TREE)
    for delimiter in ["", "/"]:
        keys, prefixes, marker = [], [], ""
        while True:
            page = CLIENT.list_objects(Bucket=bucket, MaxKeys=2, Marker=marker,
                                       **({"Delimiter": delimiter} if delimiter else {}))
            keys += [item["Key"] for item in page.get("Contents", [])]
            prefixes += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
            assert all(len(item["Owner"]["ID"]) == 64 for item in page.get("Contents", []))
            if not page["IsTruncated"]:
                break
            # As in S3, the next marker is told only with a delimiter.
            assert ("NextMarker" in page) == bool(delimiter)
            marker = page.get("NextMarker") or page["Contents"][-1]["Key"]
        assert (keys, prefixes) == expected(TREE, "", delimiter)


def test_more_than_a_page():
    names = [f"k{n:05}" for n in range(2345)]
    bucket = fill(names)
    keys, _, sizes = walk(bucket)
    assert keys == names and sizes == [1000, 1000, 345]
    keys, _, sizes = walk(bucket, MaxKeys=5000)
    assert keys == names and sizes == [1000, 1000, 345]
    assert walk(bucket, StartAfter="k02000")[0] == names[2001:]
    pages = list(CLIENT.get_paginator("list_objects").paginate(Bucket=bucket))
    assert [len(page["Contents"]) for page in pages] == [1000, 1000, 345]


def test_fields_of_a_list():
    bucket = new_bucket()
    etag = CLIENT.put_object(Bucket=bucket, Key="k", Body=b"12345")["ETag"]
    item = CLIENT.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]
    assert (item["Size"], item["ETag"], item["StorageClass"]) == (5, etag, "STANDARD")
    assert len(item["Owner"]["ID"]) == 64
    modified = CLIENT.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert item["LastModified"] == modified
    assert "Owner" not in CLIENT.list_objects_v2(Bucket=bucket)["Contents"][0]


def test_times_are_told_alike_everywhere():
    """Whole seconds, as in a header: clients compare the two."""
    bucket = new_bucket()
    upload = CLIENT.create_multipart_upload(Bucket=bucket, Key="u")["UploadId"]
    CLIENT.upload_part(Bucket=bucket, Key="u", UploadId=upload, PartNumber=1, Body=b"x")
    for turn in range(3):
        CLIENT.put_object(Bucket=bucket, Key=f"k{turn}", Body=b"x")
        copy = exchange(Signed("PUT", f"/{bucket}/c{turn}", headers={
            "content-length": "0", "x-amz-copy-source": f"{bucket}/k{turn}"}).head())
        told = parsed(copy).findtext("LastModified")
        head = CLIENT.head_object(Bucket=bucket, Key=f"c{turn}")["LastModified"]
        assert told == head.strftime("%Y-%m-%dT%H:%M:%S.000Z"), (told, head)
    for query in ["", "list-type=2", "versions", "uploads"]:
        text = exchange(Signed("GET", f"/{bucket}", query).head(), method="GET").body.decode()
        times = re.findall("<(?:LastModified|Initiated)>([^<]*)<", text)
        assert times and all(time.endswith(".000Z") for time in times), (query, times)
    text = exchange(Signed("GET", f"/{bucket}/u", f"uploadId={upload}").head()).body.decode()
    assert re.search("<LastModified>[^<]*[.]000Z<", text), text
    text = exchange(Signed("GET", "/").head(), method="GET").body.decode()
    assert all(time.endswith(".000Z") for time in re.findall("<CreationDate>([^<]*)<", text))


def test_empty_tokens():
    """They begin a list, like tokens that are not there."""
    bucket = fill(["a", "b"])
    for query in ["continuation-token=&list-type=2", "continuation-token&list-type=2",
                  "marker=", "key-marker=&version-id-marker=&versions"]:
        response = exchange(Signed("GET", f"/{bucket}", query).head(), method="GET")
        assert response.status == 200, (query, response.body)
        assert [key.text for key in parsed(response).iter("Key")] == ["a", "b"]
    response = exchange(
        Signed("GET", f"/{bucket}", "continuation-token=&list-type=2&start-after=a").head(),
        method="GET")
    assert [key.text for key in parsed(response).iter("Key")] == ["b"]
    assert exchange(Signed("GET", "/", "continuation-token=").head(), method="GET").status == 200
    upload = CLIENT.create_multipart_upload(Bucket=bucket, Key="u")["UploadId"]
    for path, query in [(f"/{bucket}/u", f"part-number-marker=&uploadId={upload}"),
                        (f"/{bucket}", "key-marker=&upload-id-marker=&uploads")]:
        assert exchange(Signed("GET", path, query).head(), method="GET").status == 200


def test_no_keys_wanted():
    bucket = fill(["a"])
    page = CLIENT.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert page["KeyCount"] == 0 and not page["IsTruncated"] and "Contents" not in page


def test_url_encoding():
    keys = ["foo+1/bar", "foo/bar/xyzzy", "quux ab/thud", "asdf+b", "per%cent", "ü", "c\x01d"]
    bucket = fill(keys)
    answer = exchange(
        Signed("GET", f"/{bucket}", "delimiter=%2F&encoding-type=url&list-type=2").head())
    text = answer.body.decode()
    for part in ["<Key>asdf%2Bb</Key>", "<Key>per%25cent</Key>", "<Key>%C3%BC</Key>",
                 "<Prefix>foo%2B1/</Prefix>", "<Prefix>foo/</Prefix>", "<Prefix>quux%20ab/</Prefix>",
                 "<Key>c%01d</Key>", "<EncodingType>url</EncodingType>"]:
        assert part in text, (part, text)
    plain = exchange(Signed("GET", f"/{bucket}", "list-type=2").head()).body.decode()
    for part in ["<Key>asdf+b</Key>", "<Key>per%cent</Key>", "<Key>ü</Key>",
                 "<Key>quux ab/thud</Key>"]:
        assert part in plain, (part, plain)
    assert sorted(walk(bucket)[0]) == sorted(keys)


def test_bad_parameters():
    bucket = new_bucket()
    for query in ["max-keys=-1", "max-keys=x", "list-type=3", "encoding-type=base64",
                  "continuation-token=zzz&list-type=2"]:
        refused(exchange(Signed("GET", f"/{bucket}", query).head()), "InvalidArgument", 400)


def test_versions_of_an_unversioned_bucket():
    names = sorted(["a", "b/1", "b/2", "c", "d"])
    bucket = fill(names)
    answer = CLIENT.list_object_versions(Bucket=bucket)
    assert [item["Key"] for item in answer["Versions"]] == names
    assert all(item["VersionId"] == "null" and item["IsLatest"] for item in answer["Versions"])
    assert all(item["Owner"]["ID"] for item in answer["Versions"])
    assert "DeleteMarkers" not in answer
    found = []
    for page in CLIENT.get_paginator("list_object_versions").paginate(
            Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1}):
        found += [item["Key"] for item in page.get("Versions", [])]
        found += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
    assert found == ["a", "b/", "c", "d"], found


def test_after_changes():
    bucket = fill(["a", "b", "c"])
    CLIENT.delete_object(Bucket=bucket, Key="b")
    assert walk(bucket)[0] == ["a", "c"]
    CLIENT.put_object(Bucket=bucket, Key="bb", Body=b"")
    assert walk(bucket)[0] == ["a", "bb", "c"]
    fails_with("NoSuchKey", 404, CLIENT.get_object, Bucket=bucket, Key="b")
