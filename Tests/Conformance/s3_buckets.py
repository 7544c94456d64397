"""Buckets, and everything that is refused because it is not implemented."""

from harness import (CLIENT, FIRST, RUN, ClientError, Signed, exchange, fails_with, new_bucket,
                     refused)


def test_create_head_list_delete():
    name = new_bucket()
    CLIENT.head_bucket(Bucket=name)
    answer = CLIENT.list_buckets()
    assert name in [bucket["Name"] for bucket in answer["Buckets"]]
    assert len(answer["Owner"]["ID"]) == 64
    assert CLIENT.get_bucket_location(Bucket=name)["LocationConstraint"] is None
    CLIENT.delete_bucket(Bucket=name)
    fails_with("404", 404, CLIENT.head_bucket, Bucket=name)
    fails_with("NoSuchBucket", 404, CLIENT.delete_bucket, Bucket=name)


def test_create_twice():
    name = new_bucket()
    fails_with("BucketAlreadyOwnedByYou", 409, CLIENT.create_bucket, Bucket=name)


def test_delete_not_empty():
    name = new_bucket()
    CLIENT.put_object(Bucket=name, Key="k", Body=b"x")
    fails_with("BucketNotEmpty", 409, CLIENT.delete_bucket, Bucket=name)
    CLIENT.delete_object(Bucket=name, Key="k")
    CLIENT.delete_bucket(Bucket=name)


def test_bad_names():
    for name in ["ab", "a" * 64, "Upper", "under_score", "-begin", "end-", "192.168.5.4", "a..b",
                 "xn--abc", "abc-s3alias"]:
        response = exchange(Signed("PUT", f"/{name}", headers={"content-length": "0"}).head())
        refused(response, "InvalidBucketName", 400)


def test_location_constraint():
    fails_with(
        "InvalidLocationConstraint", 400, CLIENT.create_bucket, Bucket=f"conf-{RUN}-elsewhere",
        CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})


def test_any_region_in_the_scope():
    name = new_bucket()
    client = FIRST.client(region_name="ap-south-1")
    client.put_object(Bucket=name, Key="k", Body=b"x")
    assert client.get_object(Bucket=name, Key="k")["Body"].read() == b"x"


def test_list_buckets_in_pages():
    names = [new_bucket(label="page") for _ in range(5)]
    found, token = [], None
    while True:
        options = {"ContinuationToken": token} if token else {}
        page = CLIENT.list_buckets(MaxBuckets=2, Prefix=f"conf-{RUN}-page", **options)
        found += [bucket["Name"] for bucket in page["Buckets"]]
        token = page.get("ContinuationToken")
        if not token:
            break
    assert found == sorted(names), found


def test_subresources_of_buckets_not_implemented():
    name = new_bucket()
    for resource in ["acl", "policy", "versioning", "tagging", "lifecycle", "cors", "website",
                     "logging", "notification", "replication", "encryption", "object-lock",
                     "policyStatus", "publicAccessBlock", "ownershipControls", "requestPayment",
                     "accelerate", "analytics", "inventory", "metrics", "unheard-of"]:
        for method in ["GET", "PUT", "DELETE"]:
            headers = {"content-length": "0"} if method == "PUT" else {}
            response = exchange(Signed(method, f"/{name}", resource, headers).head())
            refused(response, "NotImplemented", 501)
    CLIENT.head_bucket(Bucket=name)


def test_subresources_of_keys_not_implemented():
    name = new_bucket()
    CLIENT.put_object(Bucket=name, Key="k", Body=b"kept")
    for resource in ["acl", "tagging", "retention", "legal-hold", "torrent", "restore",
                     "select&select-type=2"]:
        for method in ["GET", "PUT", "POST", "DELETE"]:
            headers = {"content-length": "0"} if method in ("PUT", "POST") else {}
            response = exchange(Signed(method, f"/{name}/k", resource, headers).head())
            refused(response, "NotImplemented", 501)
    assert CLIENT.get_object(Bucket=name, Key="k")["Body"].read() == b"kept"


def test_headers_not_implemented():
    name = new_bucket()
    for options in [
        {"ACL": "public-read"}, {"ServerSideEncryption": "AES256"},
        {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "x"}, {"Tagging": "a=b"},
        {"ObjectLockMode": "GOVERNANCE"}, {"ObjectLockLegalHoldStatus": "ON"},
        {"WebsiteRedirectLocation": "/x"}, {"GrantRead": "id=x"},
        {"IfNoneMatch": "abc"},
    ]:
        fails_with("NotImplemented", 501, CLIENT.put_object, Bucket=name, Key="k", Body=b"x",
                   **options)
    fails_with("InvalidStorageClass", 400, CLIENT.put_object, Bucket=name, Key="k", Body=b"x",
               StorageClass="GLACIER")
    fails_with("404", 404, CLIENT.head_object, Bucket=name, Key="k")
    CLIENT.put_object(Bucket=name, Key="k", Body=b"x", ACL="private", StorageClass="STANDARD")
    fails_with("NotImplemented", 501, CLIENT.create_bucket, Bucket=name + "x",
               ObjectLockEnabledForBucket=True)


def test_methods_not_allowed():
    name = new_bucket()
    refused(exchange(Signed("DELETE", "/").head()), "MethodNotAllowed", 405)
    refused(exchange(Signed("PATCH", f"/{name}", headers={"content-length": "0"}).head()),
            "MethodNotAllowed", 405)


def test_virtual_host_style_or_path():
    """Path style works with any host in the request."""
    name = new_bucket()
    response = exchange(Signed("HEAD", f"/{name}", host="storage.example").head(), method="HEAD")
    assert response.status == 200


def test_expected_bucket_owner():
    name = new_bucket()
    owner = CLIENT.list_buckets()["Owner"]["ID"]
    CLIENT.put_object(Bucket=name, Key="k", Body=b"x", ExpectedBucketOwner=owner)
    for call in [
        lambda: CLIENT.put_object(Bucket=name, Key="k", Body=b"y", ExpectedBucketOwner="1" * 64),
        lambda: CLIENT.get_object(Bucket=name, Key="k", ExpectedBucketOwner="1" * 64),
        lambda: CLIENT.list_objects_v2(Bucket=name, ExpectedBucketOwner="1" * 64),
        lambda: CLIENT.delete_bucket(Bucket=name, ExpectedBucketOwner="1" * 64),
    ]:
        fails_with("AccessDenied", 403, call)
    assert CLIENT.get_object(Bucket=name, Key="k")["Body"].read() == b"x"
