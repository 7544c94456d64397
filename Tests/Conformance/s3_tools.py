"""The programs and engines that people use: aws CLI, rclone, pyarrow."""

import filecmp
import os
import shutil
import subprocess
import tempfile
import time

from harness import CLIENT, CREDENTIALS, ENDPOINT, FIRST, REGION, Skip, new_bucket, random_bytes


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
    return done.stdout


def need(program):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed")


def make_tree(folder):
    files = {"small.txt": b"hello", "empty": b"", "sub/with space+ü.bin": random_bytes(300_000),
             "sub/deep/er/large.bin": random_bytes(23_000_000, 4)}
    for name, data in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        # The store tells whole seconds, as S3 does: what was written in the very second of its
        # upload would look newer than the key, and be sent again.
        earlier = time.time() - 60
        os.utime(path, (earlier, earlier))
    return files


def same_trees(a, b, files):
    for name in files:
        assert filecmp.cmp(os.path.join(a, name), os.path.join(b, name), shallow=False), name
    assert sum(len(found) for _, _, found in os.walk(b)) == len(files)


def aws(*arguments):
    environment = dict(os.environ, AWS_ACCESS_KEY_ID=FIRST.key, AWS_REGION=REGION,
                       AWS_SECRET_ACCESS_KEY=FIRST.secret, AWS_EC2_METADATA_DISABLED="true",
                       AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    return run("aws", "--endpoint-url", ENDPOINT, *arguments, env=environment)


def test_aws_cli():
    need("aws")
    bucket = new_bucket(label="awscli")
    with tempfile.TemporaryDirectory() as folder:
        source, back = os.path.join(folder, "source"), os.path.join(folder, "back")
        files = make_tree(source)
        aws("s3", "sync", source, f"s3://{bucket}/tree")
        listed = aws("s3", "ls", "--recursive", f"s3://{bucket}/").splitlines()
        assert len(listed) == len(files), listed
        aws("s3", "sync", f"s3://{bucket}/tree", back)
        same_trees(source, back, files)
        assert aws("s3", "sync", source, f"s3://{bucket}/tree").strip() == ""
        aws("s3", "cp", "--recursive", f"s3://{bucket}/tree/sub", f"s3://{bucket}/copy")
        aws("s3", "mv", f"s3://{bucket}/tree/small.txt", f"s3://{bucket}/moved.txt")
        assert "moved.txt" in aws("s3", "ls", f"s3://{bucket}/")
        aws("s3", "rm", "--recursive", f"s3://{bucket}/")
        aws("s3", "rb", f"s3://{bucket}")


def test_aws_cli_exact_timestamps():
    need("aws")
    bucket = new_bucket(label="awscli")
    with tempfile.TemporaryDirectory() as folder:
        source, back = os.path.join(folder, "source"), os.path.join(folder, "back")
        files = make_tree(source)
        aws("s3", "sync", source, f"s3://{bucket}/tree")
        aws("s3", "sync", "--no-progress", "--exact-timestamps", f"s3://{bucket}/tree", back)
        same_trees(source, back, files)
        again = aws("s3", "sync", "--no-progress", "--exact-timestamps", f"s3://{bucket}/tree", back)
        assert again.strip() == "", again


def test_aws_cli_removes_a_bucket_by_force():
    need("aws")
    bucket = new_bucket(label="awscli")
    for key in ["a b", "a+b", "c"]:
        CLIENT.put_object(Bucket=bucket, Key=key, Body=b"x")
    upload = CLIENT.create_multipart_upload(Bucket=bucket, Key="u")["UploadId"]
    CLIENT.upload_part(Bucket=bucket, Key="u", UploadId=upload, PartNumber=1, Body=b"part")
    aws("s3", "rb", "--force", f"s3://{bucket}")
    assert bucket not in [item["Name"] for item in CLIENT.list_buckets()["Buckets"]]


def test_aws_cli_streams():
    need("aws")
    bucket = new_bucket(label="awscli")
    environment = dict(os.environ, AWS_ACCESS_KEY_ID=FIRST.key, AWS_REGION=REGION,
                       AWS_SECRET_ACCESS_KEY=FIRST.secret)
    data = random_bytes(20_000_000, 8)
    command = ["aws", "--endpoint-url", ENDPOINT, "s3", "cp"]
    subprocess.run(command + ["-", f"s3://{bucket}/k"], input=data, env=environment, check=True,
                   capture_output=True)
    done = subprocess.run(command + [f"s3://{bucket}/k", "-"], env=environment, check=True,
                          capture_output=True)
    assert done.stdout == data


def test_rclone():
    need("rclone")
    bucket = new_bucket(label="rclone")
    environment = dict(os.environ, RCLONE_CONFIG=os.devnull)
    environment.pop("AWS_CA_BUNDLE", None)
    remote = (f":s3,provider=Other,access_key_id='{FIRST.key}',secret_access_key='{FIRST.secret}',"
              f"endpoint='{ENDPOINT}',region={REGION},force_path_style=true:{bucket}")
    with tempfile.TemporaryDirectory() as folder:
        source, back = os.path.join(folder, "source"), os.path.join(folder, "back")
        files = make_tree(source)
        chunks = ["--s3-chunk-size", "5M", "--s3-upload-cutoff", "8M"]
        run("rclone", "copy", source, f"{remote}/tree", *chunks, env=environment)
        run("rclone", "check", source, f"{remote}/tree", env=environment)
        run("rclone", "check", "--download", source, f"{remote}/tree", env=environment)
        listed = run("rclone", "lsf", "-R", "--files-only", f"{remote}/tree", env=environment)
        assert sorted(listed.splitlines()) == sorted(files), listed
        run("rclone", "copy", f"{remote}/tree", back, env=environment)
        same_trees(source, back, files)
        run("rclone", "copy", f"{remote}/tree", f"{remote}/copied", env=environment)
        run("rclone", "delete", remote, env=environment)
        assert run("rclone", "lsf", "-R", "--files-only", remote, env=environment) == ""


def filesystem():
    try:
        from pyarrow import fs
    except ImportError:
        raise Skip("pyarrow is not installed")
    return fs.S3FileSystem(
        access_key=FIRST.key, secret_key=FIRST.secret, region=REGION, scheme="http",
        endpoint_override=ENDPOINT.split("://")[1])


def test_pyarrow_files():
    s3 = filesystem()
    from pyarrow import fs
    bucket = new_bucket(label="arrow")
    for size in [0, 10, 1_000_000, 26_000_000]:
        data = random_bytes(size, 6)
        with s3.open_output_stream(f"{bucket}/dir/f{size}") as stream:
            for start in range(0, size, 700_001):
                stream.write(data[start:start + 700_001])
        with s3.open_input_file(f"{bucket}/dir/f{size}") as file:
            assert file.size() == size
            assert file.read() == data
            if size > 100:
                file.seek(size - 50)
                assert file.read(50) == data[-50:]
    found = s3.get_file_info(fs.FileSelector(f"{bucket}/dir", recursive=True))
    assert len(found) == 4
    s3.copy_file(f"{bucket}/dir/f10", f"{bucket}/copied")
    s3.move(f"{bucket}/copied", f"{bucket}/moved")
    assert s3.get_file_info(f"{bucket}/copied").type == fs.FileType.NotFound
    s3.delete_dir(f"{bucket}/dir")
    assert s3.get_file_info(f"{bucket}/dir").type == fs.FileType.NotFound


def test_pyarrow_parquet_dataset():
    s3 = filesystem()
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq
    bucket = new_bucket(label="arrow")
    table = pa.table({"part": [n % 4 for n in range(200_000)], "n": list(range(200_000)),
                      "text": [f"row {n}" for n in range(200_000)]})
    pq.write_to_dataset(table, f"{bucket}/table", partition_cols=["part"], filesystem=s3)
    dataset = ds.dataset(f"{bucket}/table", filesystem=s3, partitioning="hive")
    assert dataset.count_rows() == 200_000
    found = dataset.to_table(filter=ds.field("part") == 3, columns=["n"])
    assert sorted(found["n"].to_pylist()) == list(range(3, 200_000, 4))


def test_aws_crt():
    """The AWS common runtime, as boto3 uses it when told to; its own signing and framing."""
    try:
        import awscrt.auth
        import awscrt.http
        import awscrt.io
        import awscrt.s3
    except ImportError:
        raise Skip("awscrt is not installed")
    bucket = new_bucket(label="crt")
    provider = awscrt.auth.AwsCredentialsProvider.new_static(FIRST.key, FIRST.secret)
    client = awscrt.s3.S3Client(
        bootstrap=awscrt.io.ClientBootstrap.get_or_create_static_default(), region=REGION,
        credential_provider=provider, part_size=5 << 20, tls_mode=awscrt.s3.S3RequestTlsMode.DISABLED,
        multipart_upload_threshold=8 << 20)
    address = ENDPOINT.split("://")[1]
    with tempfile.TemporaryDirectory() as folder:
        for size in [1000, 3_000_000, 23_000_000]:
            data = random_bytes(size, 2)
            source, back = os.path.join(folder, "source"), os.path.join(folder, "back")
            with open(source, "wb") as file:
                file.write(data)
            for algorithm in [None, "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
                path = f"/{bucket}/{size}-{algorithm}"
                headers = awscrt.http.HttpHeaders([
                    ("host", address), ("content-length", str(size)),
                    ("content-type", "application/octet-stream")])
                checksum = None
                if algorithm:
                    checksum = awscrt.s3.S3ChecksumConfig(
                        algorithm=getattr(awscrt.s3.S3ChecksumAlgorithm, algorithm),
                        location=awscrt.s3.S3ChecksumLocation.TRAILER)
                client.make_request(
                    request=awscrt.http.HttpRequest("PUT", path, headers),
                    type=awscrt.s3.S3RequestType.PUT_OBJECT, send_filepath=source,
                    checksum_config=checksum).finished_future.result(60)
                client.make_request(
                    request=awscrt.http.HttpRequest(
                        "GET", path, awscrt.http.HttpHeaders([("host", address)])),
                    type=awscrt.s3.S3RequestType.GET_OBJECT, recv_filepath=back,
                    checksum_config=awscrt.s3.S3ChecksumConfig(validate_response=True),
                ).finished_future.result(60)
                with open(back, "rb") as file:
                    assert file.read() == data, (size, algorithm)
    assert len(CLIENT.list_objects_v2(Bucket=bucket)["Contents"]) == 18


def test_boto3_with_crt():
    try:
        import awscrt  # noqa: F401
        from boto3.s3.transfer import TransferConfig
    except ImportError:
        raise Skip("awscrt is not installed")
    import io
    bucket = new_bucket(label="crt")
    data = random_bytes(18_000_000, 11)
    for algorithm in ["CRC32C", "CRC64NVME"]:
        CLIENT.upload_fileobj(
            io.BytesIO(data), bucket, algorithm, ExtraArgs={"ChecksumAlgorithm": algorithm},
            Config=TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=6 << 20))
        head = CLIENT.head_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED")
        assert f"Checksum{algorithm}" in head
        got = CLIENT.get_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED")
        assert got["Body"].read() == data
