"""Two users: each has buckets of their own."""

from harness import (CLIENT, FIRST, Signed, User, exchange, fails_with, new_bucket, refused,
                     second_user)


def test_buckets_belong_to_their_creators():
    other = second_user()
    client = other.client()
    mine, theirs = new_bucket(), new_bucket(client)
    CLIENT.put_object(Bucket=mine, Key="k", Body=b"mine")
    names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    assert theirs in names and mine not in names
    upload = CLIENT.create_multipart_upload(Bucket=mine, Key="u")["UploadId"]
    for call in [
        lambda: client.get_object(Bucket=mine, Key="k"),
        lambda: client.put_object(Bucket=mine, Key="k", Body=b"theirs"),
        lambda: client.put_object(Bucket=mine, Key="new", Body=b"x" * 1_000_000),
        lambda: client.delete_object(Bucket=mine, Key="k"),
        lambda: client.delete_objects(Bucket=mine, Delete={"Objects": [{"Key": "k"}]}),
        lambda: client.list_objects_v2(Bucket=mine),
        lambda: client.list_objects(Bucket=mine),
        lambda: client.list_object_versions(Bucket=mine),
        lambda: client.list_multipart_uploads(Bucket=mine),
        lambda: client.list_parts(Bucket=mine, Key="u", UploadId=upload),
        lambda: client.upload_part(Bucket=mine, Key="u", UploadId=upload, PartNumber=1, Body=b""),
        lambda: client.abort_multipart_upload(Bucket=mine, Key="u", UploadId=upload),
        lambda: client.create_multipart_upload(Bucket=mine, Key="v"),
        lambda: client.delete_bucket(Bucket=mine),
        lambda: client.get_bucket_location(Bucket=mine),
        lambda: client.copy_object(Bucket=theirs, Key="c", CopySource={"Bucket": mine, "Key": "k"}),
        lambda: client.get_bucket_versioning(Bucket=mine),
        lambda: client.get_bucket_acl(Bucket=mine),
        lambda: client.get_bucket_policy(Bucket=mine),
        lambda: client.get_bucket_tagging(Bucket=mine),
        lambda: client.get_object_acl(Bucket=mine, Key="k"),
        lambda: client.get_object_tagging(Bucket=mine, Key="none"),
    ]:
        fails_with("AccessDenied", 403, call)
    fails_with("403", 403, client.head_bucket, Bucket=mine)
    fails_with("403", 403, client.head_object, Bucket=mine, Key="k")
    fails_with("BucketAlreadyExists", 409, client.create_bucket, Bucket=mine)
    assert CLIENT.get_object(Bucket=mine, Key="k")["Body"].read() == b"mine"


def test_owners_are_told():
    other = second_user()
    client = other.client()
    bucket = new_bucket(client)
    client.put_object(Bucket=bucket, Key="k", Body=b"")
    first, second = CLIENT.list_buckets()["Owner"], client.list_buckets()["Owner"]
    assert first["ID"] != second["ID"]
    owner = client.list_objects(Bucket=bucket)["Contents"][0]["Owner"]
    assert owner["ID"] == second["ID"]


def test_unknown_key_and_wrong_secret():
    bucket = new_bucket()
    stranger = User("stranger", {"aws_access_key_id": "AKIANOBODYNOBODY0000",
                                 "aws_secret_access_key": FIRST.secret})
    fails_with("InvalidAccessKeyId", 403, stranger.client().list_objects_v2, Bucket=bucket)
    liar = User("liar", {"aws_access_key_id": FIRST.key, "aws_secret_access_key": "wrong"})
    fails_with("SignatureDoesNotMatch", 403, liar.client().put_object, Bucket=bucket, Key="k",
               Body=b"x" * 100_000)
    fails_with("404", 404, CLIENT.head_object, Bucket=bucket, Key="k")


def test_anonymous():
    bucket = new_bucket()
    head = f"GET /{bucket} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    refused(exchange(head), "AccessDenied", 403)
    head = (f"GET /{bucket} HTTP/1.1\r\nhost: x\r\n"
            "Authorization: AWS AKIA:signature\r\n\r\n").encode()
    refused(exchange(head), "InvalidRequest", 400)


def test_headers_that_were_not_signed():
    bucket = new_bucket()
    request = Signed("PUT", f"/{bucket}/k", headers={"content-length": "1"})
    data = request.head(unsigned={"x-amz-meta-smuggled": "1"}) + b"x"
    refused(exchange(data), "AccessDenied", 403)
    fails_with("404", 404, CLIENT.head_object, Bucket=bucket, Key="k")
