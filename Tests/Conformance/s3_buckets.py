"""Buckets, and everything that is refused because it is not implemented."""

from harness import (CLIENT, FIRST, RUN, Signed, exchange, fails_with, new_bucket, parsed, refused)


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
    """As in S3's first region: the bucket is there, and stays as it is."""
    name = new_bucket()
    CLIENT.put_object(Bucket=name, Key="k", Body=b"kept")
    made = [b["CreationDate"] for b in CLIENT.list_buckets()["Buckets"] if b["Name"] == name]
    answer = CLIENT.create_bucket(Bucket=name)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200 and answer["Location"] == f"/{name}"
    assert CLIENT.get_object(Bucket=name, Key="k")["Body"].read() == b"kept"
    assert made == [
        b["CreationDate"] for b in CLIENT.list_buckets()["Buckets"] if b["Name"] == name]


def test_delete_not_empty():
    name = new_bucket()
    CLIENT.put_object(Bucket=name, Key="k", Body=b"x")
    fails_with("BucketNotEmpty", 409, CLIENT.delete_bucket, Bucket=name)
    CLIENT.delete_object(Bucket=name, Key="k")
    CLIENT.delete_bucket(Bucket=name)


def test_delete_with_uploads_in_progress():
    """They end with the bucket; while it has keys they do not."""
    name = new_bucket()
    uploads = [CLIENT.create_multipart_upload(Bucket=name, Key=f"u{n % 7}")["UploadId"]
               for n in range(40)]
    part = CLIENT.upload_part(Bucket=name, Key="u0", UploadId=uploads[0], PartNumber=3,
                              Body=b"part" * 50_000)["ETag"]
    CLIENT.put_object(Bucket=name, Key="k", Body=b"x")
    fails_with("BucketNotEmpty", 409, CLIENT.delete_bucket, Bucket=name)
    assert len(CLIENT.list_multipart_uploads(Bucket=name)["Uploads"]) == 40
    assert CLIENT.list_parts(Bucket=name, Key="u0", UploadId=uploads[0])["Parts"][0]["ETag"] == part
    CLIENT.delete_object(Bucket=name, Key="k")
    CLIENT.delete_bucket(Bucket=name)
    fails_with("404", 404, CLIENT.head_bucket, Bucket=name)
    CLIENT.create_bucket(Bucket=name)
    assert "Uploads" not in CLIENT.list_multipart_uploads(Bucket=name)
    fails_with("NoSuchUpload", 404, CLIENT.upload_part, Bucket=name, Key="u0",
               UploadId=uploads[0], PartNumber=4, Body=b"x")
    fails_with("NoSuchUpload", 404, CLIENT.complete_multipart_upload, Bucket=name, Key="u0",
               UploadId=uploads[0],
               MultipartUpload={"Parts": [{"PartNumber": 3, "ETag": part}]})
    CLIENT.delete_bucket(Bucket=name)


def test_names_of_the_examples():
    """What S3 keeps for its documentation is a name like any other here."""
    name = f"amzn-s3-demo-{RUN}"
    CLIENT.create_bucket(Bucket=name)
    CLIENT.put_object(Bucket=name, Key="k", Body=b"x")
    CLIENT.copy_object(Bucket=name, Key="c", CopySource=f"{name}/k")
    assert CLIENT.get_object(Bucket=name, Key="c")["Body"].read() == b"x"
    for key in ["k", "c"]:
        CLIENT.delete_object(Bucket=name, Key=key)
    CLIENT.delete_bucket(Bucket=name)


def test_bad_names():
    for name in ["ab", "a" * 64, "Upper", "under_score", "-begin", "end-", "192.168.5.4", "a..b",
                 "xn--abc", "sthree-abc", "abc-s3alias", "abc--ol-s3", "abc.mrap", "abc--x-s3",
                 "abc--table-s3"]:
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


# What S3 answers of a new bucket: the root of a document, or a code.
UNSET = {
    "versioning": "VersioningConfiguration", "acl": "AccessControlPolicy",
    "ownershipControls": "OwnershipControls", "notification": "NotificationConfiguration",
    "logging": "BucketLoggingStatus", "requestPayment": "RequestPaymentConfiguration",
    "accelerate": "AccelerateConfiguration",
    "analytics": "ListBucketAnalyticsConfigurationResult",
    "intelligent-tiering": "ListBucketIntelligentTieringConfigurationsOutput",
    "inventory": "ListInventoryConfigurationsResult", "metrics": "ListMetricsConfigurationsResult",
    "tagging": 404, "lifecycle": 404, "policy": 404, "policyStatus": 404, "cors": 404,
    "encryption": 404, "object-lock": 404, "replication": 404, "website": 404,
    "publicAccessBlock": 404,
}
MISSING = {
    "tagging": "NoSuchTagSet", "lifecycle": "NoSuchLifecycleConfiguration",
    "policy": "NoSuchBucketPolicy", "policyStatus": "NoSuchBucketPolicy",
    "cors": "NoSuchCORSConfiguration",
    "encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "object-lock": "ObjectLockConfigurationNotFoundError",
    "replication": "ReplicationConfigurationNotFoundError",
    "website": "NoSuchWebsiteConfiguration",
    "publicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
}


def test_settings_that_were_never_made():
    name = new_bucket()
    for resource, expected in UNSET.items():
        response = exchange(Signed("GET", f"/{name}", resource).head(), method="GET")
        if expected == 404:
            refused(response, MISSING[resource], 404)
            assert f"<BucketName>{name}</BucketName>".encode() in response.body
        else:
            assert response.status == 200, (resource, response.status, response.body)
            assert parsed(response).tag == expected, response.body
    assert "Status" not in CLIENT.get_bucket_versioning(Bucket=name)
    owner = CLIENT.list_buckets()["Owner"]
    CLIENT.put_object(Bucket=name, Key="k", Body=b"kept")
    for acl in [CLIENT.get_bucket_acl(Bucket=name), CLIENT.get_object_acl(Bucket=name, Key="k")]:
        assert acl["Owner"]["ID"] == owner["ID"]
        grant, = acl["Grants"]
        assert (grant["Grantee"]["Type"], grant["Grantee"]["ID"], grant["Permission"]) == (
            "CanonicalUser", owner["ID"], "FULL_CONTROL")
    assert CLIENT.get_bucket_ownership_controls(Bucket=name)["OwnershipControls"] == {
        "Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert CLIENT.get_bucket_request_payment(Bucket=name)["Payer"] == "BucketOwner"
    assert CLIENT.get_object_tagging(Bucket=name, Key="k")["TagSet"] == []
    assert CLIENT.get_object_tagging(Bucket=name, Key="k", VersionId="null")["TagSet"] == []
    assert not CLIENT.list_bucket_inventory_configurations(Bucket=name)["IsTruncated"]
    assert "LoggingEnabled" not in CLIENT.get_bucket_logging(Bucket=name)
    for call in [CLIENT.get_bucket_inventory_configuration, CLIENT.get_bucket_metrics_configuration,
                 CLIENT.get_bucket_analytics_configuration,
                 CLIENT.get_bucket_intelligent_tiering_configuration]:
        fails_with("NoSuchConfiguration", 404, call, Bucket=name, Id="one")
    for call in [CLIENT.get_object_retention, CLIENT.get_object_legal_hold]:
        fails_with("InvalidRequest", 400, call, Bucket=name, Key="k")


def test_settings_of_what_is_not_there():
    name = new_bucket()
    for resource in UNSET:
        response = exchange(Signed("GET", "/conf-not-there", resource).head(), method="GET")
        refused(response, "NoSuchBucket", 404)
    for resource in ["acl", "tagging", "retention", "legal-hold"]:
        response = exchange(Signed("GET", f"/{name}/none", resource).head(), method="GET")
        refused(response, "NoSuchKey", 404)
        response = exchange(Signed("GET", "/conf-not-there/k", resource).head(), method="GET")
        refused(response, "NoSuchBucket", 404)
    CLIENT.put_object(Bucket=name, Key="k", Body=b"x")
    fails_with("NoSuchVersion", 404, CLIENT.get_object_tagging, Bucket=name, Key="k",
               VersionId="3HL4kqtJvjVBH40Nrjfkd")
    fails_with("AccessDenied", 403, CLIENT.get_bucket_acl, Bucket=name,
               ExpectedBucketOwner="1" * 64)


def test_settings_of_buckets_cannot_be_made():
    name = new_bucket()
    for resource in list(UNSET) + ["unheard-of", "session"]:
        for method in ["PUT", "DELETE"]:
            headers = {"content-length": "0"} if method == "PUT" else {}
            response = exchange(Signed(method, f"/{name}", resource, headers).head())
            refused(response, "NotImplemented", 501)
    refused(exchange(Signed("GET", f"/{name}", "unheard-of").head()), "NotImplemented", 501)
    CLIENT.head_bucket(Bucket=name)


def test_subresources_of_keys_not_implemented():
    name = new_bucket()
    CLIENT.put_object(Bucket=name, Key="k", Body=b"kept")
    for resource in ["acl", "tagging", "retention", "legal-hold", "torrent", "restore",
                     "select&select-type=2"]:
        for method in ["GET", "PUT", "POST", "DELETE"]:
            if method == "GET" and resource in ["acl", "tagging", "retention", "legal-hold"]:
                continue
            headers = {"content-length": "0"} if method in ("PUT", "POST") else {}
            response = exchange(Signed(method, f"/{name}/k", resource, headers).head())
            refused(response, "NotImplemented", 501)
    assert CLIENT.get_object(Bucket=name, Key="k")["Body"].read() == b"kept"


def test_no_subresource_is_passed_over():
    """What names a sub-resource is not done to the bucket or the key itself."""
    name, absent = new_bucket(), f"conf-{RUN}-never-made"
    for method, query, code, status in [
        ("DELETE", "uploads", "MethodNotAllowed", 405),
        ("DELETE", "versions", "MethodNotAllowed", 405),
        ("DELETE", "delete", "MethodNotAllowed", 405),
        ("DELETE", "location", "MethodNotAllowed", 405),
        ("DELETE", "uploadId=x", "InvalidRequest", 400),
        ("DELETE", "versionId=null", "InvalidArgument", 400),
        ("PUT", "versions", "MethodNotAllowed", 405),
        ("PUT", "uploads", "MethodNotAllowed", 405),
        ("PUT", "partNumber=1&uploadId=x", "InvalidArgument", 400),
        ("GET", "location&versions", "InvalidArgument", 400),
    ]:
        headers = {"content-length": "0"} if method == "PUT" else {}
        bucket = absent if method == "PUT" else name
        response = exchange(Signed(method, f"/{bucket}", query, headers).head())
        refused(response, code, status)
        if status == 405:
            assert response.headers["allow"], response.headers
    CLIENT.head_bucket(Bucket=name)
    fails_with("404", 404, CLIENT.head_bucket, Bucket=absent)
    CLIENT.put_object(Bucket=name, Key="k", Body=b"kept")
    for method, query, code, status in [
        ("GET", "uploads", "InvalidRequest", 400), ("GET", "versions", "InvalidRequest", 400),
        ("PUT", "uploads", "MethodNotAllowed", 405), ("DELETE", "uploads", "MethodNotAllowed", 405),
        ("PUT", "uploadId=x", "MethodNotAllowed", 405),
        ("PUT", "partNumber=1", "InvalidArgument", 400),
        ("PUT", "versionId=null", "InvalidArgument", 400),
        ("DELETE", "partNumber=1", "InvalidArgument", 400),
        ("DELETE", "uploads&uploadId=x", "InvalidArgument", 400),
    ]:
        headers = {"content-length": "0"} if method == "PUT" else {}
        response = exchange(Signed(method, f"/{name}/k", query, headers).head())
        refused(response, code, status)
    assert CLIENT.get_object(Bucket=name, Key="k")["Body"].read() == b"kept"


def test_headers_that_ask_for_nothing():
    """Of a bucket without locks, versions and grants."""
    name = new_bucket()
    for acl in ["private", "bucket-owner-full-control"]:
        CLIENT.put_object(Bucket=name, Key="k", Body=b"x", ACL=acl)
        CLIENT.copy_object(Bucket=name, Key="c", CopySource=f"{name}/k", ACL=acl)
        upload = CLIENT.create_multipart_upload(Bucket=name, Key="u", ACL=acl)["UploadId"]
        CLIENT.abort_multipart_upload(Bucket=name, Key="u", UploadId=upload)
    CLIENT.delete_object(Bucket=name, Key="k", BypassGovernanceRetention=True)
    answer = CLIENT.delete_objects(
        Bucket=name, Delete={"Objects": [{"Key": "c"}]}, BypassGovernanceRetention=True)
    assert [item["Key"] for item in answer["Deleted"]] == ["c"]
    assert "Contents" not in CLIENT.list_objects_v2(Bucket=name)
    response = exchange(Signed(
        "PUT", f"/conf-{RUN}-owned",
        headers={"content-length": "0", "x-amz-acl": "bucket-owner-full-control"}).head())
    assert response.status == 200
    CLIENT.delete_bucket(Bucket=f"conf-{RUN}-owned")


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
