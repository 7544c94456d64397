#!/usr/bin/env python3
"""The main job on a real cluster of processes: store with aws CLI, boto3 and rclone, read back byte
for byte, kill datanodes, kill everything in the middle of an upload, start again.

Prints a line for each check and closes with 'N passed, N failed'. APUS_TEST_MIB sets how many MiB
of files are stored (default 256; the largest file is a quarter of it, at least 64 MiB)."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request

from botocore.exceptions import BotoCoreError, ClientError

from command_line import CommandLineSteps
from rig import Cluster

MIB = int(os.environ.get("APUS_TEST_MIB", "256"))


def make_files(root, mib, seed):
    """Many small files and some large, with contents that cannot be compressed away."""
    generator = random.Random(seed)
    total = mib << 20
    large = max(64 << 20, total // 4)
    sizes = [large, large // 3 + 17, 5 << 20, (5 << 20) + 1, 3 << 20, (3 << 20) - 1, 1 << 20, 0, 1]
    sizes += [generator.randrange(1, 200_000) for _ in range(300)]
    while sum(sizes) < total:
        sizes.append(generator.randrange(1 << 20, 24 << 20))
    for index, size in enumerate(sizes):
        path = pathlib.Path(root, f"d{index % 7}", f"größe {index}+{size}.bin")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            left = size
            while left > 0:
                piece = generator.randbytes(min(left, 4 << 20))
                file.write(piece)
                left -= len(piece)
    return len(sizes), sum(sizes)


def digests(root):
    found = {}
    for path in sorted(pathlib.Path(root).rglob("*")):
        if path.is_file():
            found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def read_all(cluster, bucket, expected):
    """Reads every object with boto3 and compares it."""
    client = cluster.client()
    seen = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"]
            digest = hashlib.sha256()
            for piece in body.iter_chunks(1 << 20):
                digest.update(piece)
            seen[entry["Key"]] = digest.hexdigest()
    assert seen == expected, f"{len(seen)} of {len(expected)} keys; " + str(
        [key for key in expected if seen.get(key) != expected[key]][:5])


class Run(CommandLineSteps):
    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="apus-files-", dir=os.environ.get("APUS_TEST_TMP"))
        self.cluster = Cluster()
        self.files = os.path.join(self.work, "files")
        self.count, self.bytes = make_files(self.files, MIB, seed=1)
        self.expected = digests(self.files)

    def close(self):
        self.cluster.destroy()
        shutil.rmtree(self.work, ignore_errors=True)

    def test_01_start(self):
        self.cluster.start()
        nodes = json.loads(self.cluster.apus("admin", "datanode", "list", "--json").stdout)
        assert [node["state"] for node in nodes] == ["HEALTHY"] * 5, nodes

    def test_02_aws_cli_stores_a_directory(self):
        self.cluster.run("aws", "s3", "mb", "s3://files")
        self.cluster.run("aws", "s3", "cp", "--recursive", "--quiet", self.files, "s3://files/")
        print(f"    {self.count} files, {self.bytes >> 20} MiB")

    def test_03_read_back_with_boto3(self):
        read_all(self.cluster, "files", self.expected)

    def test_04_rclone_stores_and_checks(self):
        assert "the cluster is well" in self.cluster.apus("admin", "status").stdout
        self.cluster.run("rclone", "mkdir", "apus:rclone")
        self.cluster.run("rclone", "copy", self.files + "/d1", "apus:rclone/d1")
        self.cluster.run("rclone", "check", "--download", self.files + "/d1", "apus:rclone/d1")

    def test_05_own_command_line(self):
        source = pathlib.Path(self.work, "own")
        source.write_bytes(random.Random(5).randbytes((7 << 20) + 3))
        self.cluster.apus("key", "put", "/s3v/files/own/key", str(source))
        self.cluster.apus("key", "get", "/s3v/files/own/key", str(source) + ".back")
        assert pathlib.Path(str(source) + ".back").read_bytes() == source.read_bytes()
        info = json.loads(
            self.cluster.apus("key", "info", "--blocks", "--json", "/s3v/files/own/key").stdout)
        nodes = [replica["node"] for replica in info["blocks"][0]["replicas"]]
        assert len(set(nodes)) == 5, info
        self.cluster.apus("key", "delete", "/s3v/files/own/key")
        missing = self.cluster.apus("key", "info", "/s3v/files/own/key", check=False)
        assert missing.returncode == 1 and "noSuchKey" in missing.stderr, missing

    def test_05b_a_hung_datanode_is_read_around(self):
        client = self.cluster.client()
        body = random.Random(9).randbytes(24 << 20)
        client.put_object(Bucket="files", Key="hung", Body=body)
        slowest = 0
        for index in range(1, 6):
            for _ in range(2):
                assert client.get_object(Bucket="files", Key="hung")["Body"].read() == body
            pid = self.cluster.pid(f"dn{index}")
            os.kill(pid, signal.SIGSTOP)
            try:
                start = time.time()
                assert client.get_object(Bucket="files", Key="hung")["Body"].read() == body
                slowest = max(slowest, time.time() - start)
            finally:
                os.kill(pid, signal.SIGCONT)
            time.sleep(1.5)
        client.delete_object(Bucket="files", Key="hung")
        print(f"    24 MiB with one node hung: at most {slowest:.2f} s")

    def test_05c_load_generation(self):
        def bench(*arguments, check=True):
            result = self.cluster.apus("bench", *arguments, "--json", check=check)
            return json.loads(result.stdout), result
        for work in [["put", "--size", "1-300k"], ["get", "--size", "200k", "--objects", "8"],
                     ["range", "--size", "3m", "--objects", "4", "--range", "1-100k"],
                     ["mixed", "--size", "4k", "--rate", "200", "--clients", "32"],
                     ["list", "--objects", "300", "--page", "50"], ["om"],
                     ["om", "--operation", "info", "--objects", "20"],
                     ["om", "--operation", "delete"]]:
            report, _ = bench(*work, "--count", "200")
            assert sum(row["count"] for row in report["operations"]) == 200, report
            assert report["errors"] == [], report
        # Everything was removed, with the bucket.
        assert "bench" not in self.cluster.apus("bucket", "list").stdout
        # What was kept is found and verified, and other bytes under its names are told.
        report, _ = bench("put", "--size", "10k", "--count", "5", "--keep", "--prefix", "kept/")
        key = f"/s3v/bench/{report['prefix']}put-000000003"
        assert bench("get", "--prefix", "kept/", "--count", "50")[0]["errors"] == []
        self.cluster.apus("key", "put", key, __file__)
        report, result = bench("get", "--prefix", "kept/", "--count", "50", check=False)
        assert result.returncode == 1 and report["errors"][0]["kind"] == "mismatch", report
        for wrong in [["--clients", "0"], ["--rate", "0"], ["--size", "4q"], ["--count", "0"]]:
            result = self.cluster.apus("bench", "put", *wrong, check=False)
            assert result.returncode == 2, (wrong, result.returncode, result.stderr)

    def metrics(self, name):
        """The samples of a role's page, by series."""
        url = pathlib.Path(self.cluster.dir, "run", name + ".metrics").read_text().strip()
        with urllib.request.urlopen(url, timeout=10) as page:
            assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4"), url
            lines = page.read().decode().splitlines()
        with urllib.request.urlopen(url.replace("/metrics", "/health"), timeout=10) as page:
            assert page.read() == b"ok\n"
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
                for line in lines if not line.startswith("#")}

    def test_05d_every_role_counts_a_put(self):
        roles = {"om1": "om", "scm1": "scm", "s3g1": "s3gateway"}
        roles.update({f"dn{index}": "datanode" for index in range(1, 6)})
        before = {name: self.metrics(name) for name in roles}
        body = random.Random(10).randbytes(3 << 20)
        self.cluster.client().put_object(Bucket="files", Key="counted", Body=body)
        time.sleep(1.1)
        after = {name: self.metrics(name) for name in roles}

        def grown(name, series, **labels):
            labels = {"role": roles[name], "node": name, **labels}
            text = ",".join(f'{key}="{value}"' for key, value in labels.items())
            return after[name][f"{series}{{{text}}}"] - before[name][f"{series}{{{text}}}"]

        assert grown("s3g1", "apus_s3_duration_seconds_count", operation="PutObject") == 1
        assert grown("s3g1", "apus_s3_received_bytes_total", operation="PutObject") >= len(body)
        assert grown("om1", "apus_rpc_duration_seconds_count", method="openKey") == 1
        assert grown("om1", "apus_rpc_duration_seconds_count", method="commit") == 1
        assert grown("om1", "apus_log_commands_total") >= 1
        assert grown("scm1", "apus_rpc_duration_seconds_count", method="heartbeat") >= 1
        written = 0
        for name in (name for name in roles if name.startswith("dn")):
            assert grown(name, "apus_rpc_duration_seconds_count", method="writeCell") == 1, name
            disk = f"{self.cluster.dir}/{name}/volume1"
            written += grown(name, "apus_store_appended_bytes_total", disk=disk)
        assert written == len(body) // 3 * 5, written
        self.cluster.client().delete_object(Bucket="files", Key="counted")

    def test_05e_disks_are_told(self):
        rows = json.loads(self.cluster.apus("admin", "datanode", "disks", "--json").stdout)
        assert len(rows) == 5 and all(row["write"]["count"] > 0 for row in rows), rows
        assert all(row["capacity"] > row["available"] > 0 for row in rows), rows
        one = self.cluster.apus(
            "admin", "datanode", "disks", "--json", "--node", rows[2]["datanode"]).stdout
        assert [row["disk"] for row in json.loads(one)] == [rows[2]["disk"]]
        table = self.cluster.apus("admin", "datanode", "disks").stdout
        # What is said of a slow disk, if one is, names it by its path.
        lines = [line.replace(self.cluster.dir, "/…") for line in table.splitlines()]
        assert max(map(len, lines)) <= 100, table
        wrong = self.cluster.apus("admin", "datanode", "disks", "--node", "x", check=False)
        assert wrong.returncode == 1 and "'x'" in wrong.stderr, wrong

    def trace(self, request):
        """The spans of a request, as pairs of a span and the one above it."""
        told = json.loads(self.cluster.apus("admin", "trace", request, "--json").stdout)

        def walk(span, parent):
            yield span, parent
            for child in span["children"]:
                yield from walk(child, span)

        return [pair for root in told["spans"] for pair in walk(root, None)]

    def test_05f_a_trace_names_who_took_the_time(self):
        client = self.cluster.client()
        body = random.Random(11).randbytes(12 << 20)
        put = client.put_object(Bucket="files", Key="traced", Body=body)
        spans = self.trace(put["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"])
        assert {span["role"] for span, _ in spans} >= {"s3gateway", "om", "datanode"}
        assert spans[0][0]["operation"] == "PutObject" and spans[0][0]["outcome"] == 200
        assert sum(span["kind"] == "request" for span, _ in spans) == 1
        for kind, operation in [("disk", "write"), ("wait", "commit")]:
            found = [pair for pair in spans if pair[0]["kind"] == kind]
            assert len(found) == 20, (kind, len(found))
            for span, parent in found:
                assert span["operation"] == operation and parent["operation"] == "writeCell"
                assert span["node"] == parent["node"]
        # A datanode that hangs while a write needs it: nobody can do without it.
        pid = self.cluster.pid("dn3")
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(2, os.kill, (pid, signal.SIGCONT))
        timer.start()
        put = client.put_object(Bucket="files", Key="traced", Body=body)
        timer.join()
        request = put["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]
        spans = self.trace(request)
        chain = [pair for pair in spans if pair[0]["isOnLongestChain"]]
        longest, _ = max(chain, key=lambda pair: pair[0]["ownNanoseconds"])
        assert longest["ownNanoseconds"] > 1_500_000_000, longest
        served = [span["node"] for span in longest["children"]] or [longest["node"]]
        assert served == ["dn3"], longest
        text = self.cluster.apus("admin", "trace", request).stdout
        assert "dn3" in text.split("longest chain")[1].splitlines()[1], text
        assert max(map(len, text.splitlines())) <= 100, text
        slow = json.loads(self.cluster.apus("admin", "trace", "--slow", "200", "--json").stdout)
        assert request in [row["request"] for row in slow], slow
        unknown = self.cluster.apus("admin", "trace", "0123456789ABCDEF", check=False)
        assert unknown.returncode == 1 and "no role knows" in unknown.stderr, unknown
        client.delete_object(Bucket="files", Key="traced")

    def verify(self, key):
        found = self.cluster.apus(
            "admin", "replicas", "verify", f"/s3v/files/{key}", "--json", check=False)
        groups = json.loads(found.stdout)
        assert found.returncode == (0 if all(group["isWhole"] for group in groups) else 1), found
        return groups

    def test_05n_replicas_are_verified_parity_too(self):
        client = self.cluster.client()
        body = random.Random(12).randbytes((6 << 20) + 12345)
        client.put_object(Bucket="files", Key="verified", Body=body)
        groups = self.verify("verified")
        assert sum(group["length"] for group in groups) == len(body), groups
        for group in groups:
            assert group["isWhole"] and group["spare"] == 2, group
            assert group["stripesCompared"] == group["stripes"] > 0, group
            assert {row["state"] for row in group["replicas"]} <= {"whole", "empty"}, group
        # One is silent; what is left is verified all the same.
        pid = self.cluster.pid("dn4")
        os.kill(pid, signal.SIGSTOP)
        try:
            text = self.cluster.apus(
                "admin", "replicas", "verify", "/s3v/files/verified", check=False)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert text.returncode == 1 and text.stdout.count(" unreachable ") == len(groups), text
        assert "1 of 5 replicas are not whole, 1 more may be lost" in text.stdout, text
        client.delete_object(Bucket="files", Key="verified")

    def test_06_two_datanodes_killed(self):
        self.cluster.kill("dn2")
        self.cluster.kill("dn4")
        read_all(self.cluster, "files", self.expected)
        time.sleep(6)
        page = self.cluster.apus("admin", "status", check=False)
        assert page.returncode == 1, page
        assert page.stdout.count("danger: datanode 127.0.0.1:") == 2, page.stdout
        assert "OUTAGE: 3 datanodes are healthy and in service, and rs-3-2" in page.stdout, page.stdout
        self.cluster.run("rclone", "check", "--download", self.files + "/d1", "apus:rclone/d1")

    def test_07_writing_goes_on_with_one_back(self):
        self.cluster.restart("dn2", "datanode")
        body = random.Random(7).randbytes(20 << 20)
        client = self.cluster.client(retries={"max_attempts": 8})
        client.put_object(Bucket="files", Key="with-four-nodes", Body=body)
        assert client.get_object(Bucket="files", Key="with-four-nodes")["Body"].read() == body
        self.expected["with-four-nodes"] = hashlib.sha256(body).hexdigest()

    def test_08_node_killed_in_the_middle_of_a_write(self):
        self.cluster.restart("dn4", "datanode")
        time.sleep(2)
        client = self.cluster.client()
        body = random.Random(8).randbytes(96 << 20)

        class Slow:
            """Sends for some seconds, so that there is a middle."""
            def __init__(self):
                self.position = 0
            def read(self, count=-1):
                count = len(body) if count is None or count < 0 else min(count, 1 << 20)
                piece = body[self.position:self.position + count]
                self.position += len(piece)
                # A piece is as small as the client likes: slow down once for each MiB.
                if 30 << 20 < self.position < 60 << 20 and self.position % (1 << 20) < len(piece):
                    time.sleep(0.04)
                return piece
            def seek(self, position, whence=0):
                self.position = position if whence == 0 else len(body) + position
                return self.position
            def tell(self):
                return self.position

        def put():
            try:
                client.put_object(Bucket="files", Key="through-a-kill", Body=Slow(),
                                  ContentLength=len(body))
            except Exception as error:  # shown below
                failures.append(error)
        failures = []
        writer = threading.Thread(target=put)
        writer.start()
        time.sleep(1.2)
        self.cluster.kill("dn5")
        writer.join()
        assert not failures, failures
        assert client.get_object(Bucket="files", Key="through-a-kill")["Body"].read() == body
        self.expected["through-a-kill"] = hashlib.sha256(body).hexdigest()
        self.cluster.restart("dn5", "datanode")

    def test_09_stop_and_start_keeps_everything(self):
        for child in self.cluster.logs:
            child.terminate()
        for child in self.cluster.logs:
            child.wait(timeout=90)
        self.cluster.logs = []
        self.cluster.stop()
        self.cluster.start()
        read_all(self.cluster, "files", self.expected)

    def test_10_everything_killed_in_the_middle_of_uploads(self):
        acknowledged, attempted = {}, {}
        stop = threading.Event()

        def write(number):
            client = self.cluster.client(retries={"max_attempts": 0})
            generator = random.Random(100 + number)
            index = 0
            while not stop.is_set():
                key = f"crash/{number}/{index}"
                body = generator.randbytes(generator.choice([100, 50_000, 1 << 20, 9 << 20]))
                digest = hashlib.sha256(body).hexdigest()
                attempted[key] = digest
                try:
                    client.put_object(Bucket="files", Key=key, Body=body)
                except (BotoCoreError, ClientError):
                    return
                acknowledged[key] = digest
                index += 1

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(4)
        self.cluster.kill_all()
        stop.set()
        for thread in threads:
            thread.join()
        self.cluster.start()
        client = self.cluster.client()
        present = {}
        for page in client.get_paginator("list_objects_v2").paginate(
                Bucket="files", Prefix="crash/"):
            for entry in page.get("Contents", []):
                body = client.get_object(Bucket="files", Key=entry["Key"])["Body"].read()
                present[entry["Key"]] = hashlib.sha256(body).hexdigest()
        for key, digest in acknowledged.items():
            assert present.get(key) == digest, f"{key} was acknowledged"
        for key, digest in present.items():
            assert attempted[key] == digest, f"{key} is neither absent nor whole"
        self.expected.update(present)
        print(f"    {len(acknowledged)} acknowledged, {len(present)} present")

    def test_11_all_still_there_afterwards(self):
        read_all(self.cluster, "files", self.expected)

    def test_11b_a_restart_of_scm_leaves_open_containers_open(self):
        """Though datanodes come back one after the other, some seconds later than SCM."""
        def containers():
            listed = json.loads(self.cluster.apus("admin", "container", "list", "--json").stdout)
            return {entry["id"] for entry in listed if entry["state"] == "OPEN"}
        client = self.cluster.client(retries={"max_attempts": 8})
        body = random.Random(11).randbytes(5 << 20)
        client.put_object(Bucket="files", Key="before-the-restart", Body=body)
        before = containers()
        assert before, "a key was stored, and no container is open"
        for role in ("scm1", "dn1", "dn2"):
            self.cluster.kill(role)
        self.cluster.restart("scm1", "scm")
        time.sleep(3)
        for role in ("dn1", "dn2"):
            self.cluster.restart(role, "datanode")
        def has_left():
            mode = json.loads(self.cluster.apus("admin", "safemode", "status", "--json").stdout)
            return mode["safeMode"] == "off"
        wait_until(has_left, 30)
        time.sleep(1.5)
        assert before <= containers(), f"{before} were open, {containers()} are"
        client.put_object(Bucket="files", Key="after-the-restart", Body=body)
        for key in ("before-the-restart", "after-the-restart"):
            assert client.get_object(Bucket="files", Key=key)["Body"].read() == body
            self.expected[key] = hashlib.sha256(body).hexdigest()

    def test_12_bad_directories_and_settings_are_refused_by_name(self):
        cluster = self.cluster
        path = pathlib.Path(cluster.dir, "etc", "dn1.json")
        settings = json.loads(path.read_text())
        settings["datanode"]["volumez"] = []
        bad = pathlib.Path(self.work, "bad.json")
        bad.write_text(json.dumps(settings))
        result = cluster.apus("datanode", "--config", str(bad), check=False)
        assert result.returncode == 1 and "datanode.volumez" in result.stderr, result
        result = cluster.apus("datanode", "--config", str(path), check=False)
        assert result.returncode == 1 and "in use" in result.stderr, result
        result = cluster.apus("bucket", "create", "/s3v/wide", "--replication", "rs-6-3-1024k",
                              check=False)
        assert result.returncode == 1 and "needs 9 datanodes" in result.stderr, result
        result = cluster.apus("bucket", "create", "/s3v/odd", "--replication", "rs-6", check=False)
        assert result.returncode == 2 and "codec-data-parity-cell" in result.stderr, result
        assert "ratis-3" in result.stderr, result
        self.copies_are_refused(bad)
        settings = json.loads(pathlib.Path(cluster.dir, "etc", "scm1.json").read_text())
        settings["scm"]["directory"] = str(pathlib.Path(self.work, "scm"))
        settings["scm"]["stale-after-ms"] = 99_999_999_999_999_999
        bad.write_text(json.dumps(settings))
        result = cluster.apus("scm", "--config", str(bad), check=False)
        assert result.returncode == 1 and "scm.stale-after-ms is 0 to" in result.stderr, result
        assert cluster.apus("key", "nonsense", check=False).returncode == 2

    def copies_are_refused(self, file):
        """Whole copies can be named and not written: every way to ask for them says so."""
        cluster = self.cluster
        source = pathlib.Path(self.work, "copy")
        source.write_bytes(b"bytes")
        cluster.apus("bucket", "create", "/s3v/coded")
        for name in ("ratis-3", "RATIS/ONE"):
            for command in (("bucket", "create", "/s3v/copies"),
                            ("key", "put", "/s3v/coded/k", str(source))):
                result = cluster.apus(*command, "--replication", name, check=False)
                assert result.returncode == 1, result
                assert "unsupported" in result.stderr and "Ratis pipelines" in result.stderr, result
                assert "rs-3-2-1024k" in result.stderr, result
        assert cluster.apus("bucket", "info", "/s3v/copies", check=False).returncode == 1
        assert cluster.apus("key", "info", "/s3v/coded/k", check=False).returncode == 1
        cluster.apus("bucket", "delete", "/s3v/coded")
        result = cluster.apus("bucket", "create", "/s3v/two", "--replication", "ratis-2", check=False)
        assert result.returncode == 2 and "ratis-1 and ratis-3" in result.stderr, result
        result = cluster.apus("up", "--dir", str(pathlib.Path(self.work, "up")), "--replication",
                              "ratis-3", check=False)
        assert result.returncode == 2 and "Ratis pipelines" in result.stderr, result
        settings = json.loads(pathlib.Path(cluster.dir, "etc", "om1.json").read_text())
        settings["cluster"]["replication"] = "ratis-3"
        settings["om"]["directory"] = str(pathlib.Path(self.work, "om"))
        file.write_text(json.dumps(settings))
        result = cluster.apus("om", "--config", str(file), check=False)
        assert result.returncode == 1 and "cluster.replication" in result.stderr, result
        assert "Ratis pipelines" in result.stderr, result

    def test_13_a_slow_reader_finishes_whatever_becomes_of_its_key(self):
        grace = 3
        cluster = Cluster(options=("--set", f"om.deletion-delay-ms={grace * 1000}",
                                   "--set", "datanode.reclaim-delay-ms=500"))
        try:
            cluster.start()
            client = cluster.client(max_pool_connections=20)
            client.create_bucket(Bucket="held")
            content = {name: random.Random(name).randbytes(64 << 20)
                       for name in ("deleted", "replaced", "range", "left")}
            for name, body in content.items():
                client.put_object(Bucket="held", Key=name, Body=body)
            full = used(cluster)
            found = {}

            def read(name, first, **options):
                body = client.get_object(Bucket="held", Key=name, **options)["Body"]
                pieces = [body.read(1 << 20)]
                first.set()
                # As long as six graces, little by little.
                for _ in range(30):
                    time.sleep(6 * grace / 30)
                    pieces.append(body.read(1 << 20))
                pieces.append(body.read())
                found[name] = b"".join(pieces)

            begun = {name: threading.Event() for name in ("deleted", "replaced", "range")}
            readers = [threading.Thread(target=read, args=("deleted", begun["deleted"])),
                       threading.Thread(target=read, args=("replaced", begun["replaced"])),
                       threading.Thread(target=read, args=("range", begun["range"]),
                                        kwargs={"Range": "bytes=1000000-"})]
            for reader in readers:
                reader.start()
            for event in begun.values():
                assert event.wait(60)
            # This reader goes away without having read what it asked for.
            left = client.get_object(Bucket="held", Key="left")["Body"]
            left.read(1 << 20)
            for name in ("deleted", "range", "left"):
                client.delete_object(Bucket="held", Key=name)
            client.put_object(Bucket="held", Key="replaced", Body=b"new")
            assert client.get_object(Bucket="held", Key="replaced")["Body"].read() == b"new"
            time.sleep(2 * grace)
            left.close()
            # Nobody reads this one any more: its space comes back while the others are read.
            wait_until(lambda: used(cluster) < full - (90 << 20), 6 * grace)
            assert any(reader.is_alive() for reader in readers), "the readers were too fast"
            for reader in readers:
                reader.join(120)
            for name, skipped in [("deleted", 0), ("replaced", 0), ("range", 1000000)]:
                assert found.get(name) == content[name][skipped:], (
                    name, len(found.get(name, b"")))
            # All of it comes back in the end.
            wait_until(lambda: used(cluster) < full - (400 << 20), 60)
        finally:
            cluster.destroy()

    def test_14_an_emptied_disk_is_missing_and_rebuilt(self):
        cluster = Cluster()
        try:
            cluster.start()
            client = cluster.client(retries={"max_attempts": 8})
            client.create_bucket(Bucket="lost")
            # Each index has bytes.
            content = {f"a{number}": random.Random(number).randbytes(5 << 20)
                       for number in range(6)}
            for name, body in content.items():
                client.put_object(Bucket="lost", Key=name, Body=body)
            time.sleep(2.5)
            before = containers(cluster)
            identity = next(pathlib.Path(cluster.dir).glob("dn3/**/datanode.id")).read_text()
            victim = next(node["address"] for node in
                          json.loads(cluster.apus("admin", "datanode", "list", "--json").stdout)
                          if node["id"] == identity.strip())
            held = {row["id"]: index for row in before
                    for index, address in enumerate(row["replicas"], 1)
                    if address == victim and row["usedBytes"] > 0}
            assert held and all(not row["missingIndexes"] for row in before), before
            cluster.kill("dn3")
            volume = pathlib.Path(cluster.dir, "dn3", "volume1")
            for entry in volume.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            # It may be that the disk is not mounted: nothing is made there before somebody says.
            refused = cluster.apus(
                "datanode", "--config", f"{cluster.dir}/etc/dn3.json", check=False)
            assert refused.returncode == 1 and "apus disk replaced" in refused.stderr, refused
            assert not list(volume.iterdir()), list(volume.iterdir())
            cluster.apus("disk", "replaced", "--config", f"{cluster.dir}/etc/dn3.json",
                         str(volume))
            cluster.restart("dn3", "datanode")

            def lost():
                rows = {row["id"]: row for row in containers(cluster)}
                return all(rows[container]["missingIndexes"] == [index]
                           for container, index in held.items())
            wait_until(lost, 10)
            # Writing goes on, in other containers; everything is read, without that replica.
            for number in range(6):
                body = random.Random(50 + number).randbytes(5 << 20)
                client.put_object(Bucket="lost", Key=f"b{number}", Body=body)
                content[f"b{number}"] = body
            for name, body in content.items():
                assert client.get_object(Bucket="lost", Key=name)["Body"].read() == body, name
            for row in containers(cluster):
                if row["state"] == "OPEN":
                    assert row["id"] not in held, row
                    cluster.apus("admin", "container", "close", str(row["id"]))

            def closed():
                return all(row["state"] == "CLOSED" for row in containers(cluster)
                           if row["id"] in held)
            wait_until(closed, 60)

            def whole():
                return all(row["missingIndexes"] == [] for row in containers(cluster)
                           if row["id"] in held)
            # There is no other node: it is rebuilt where it was lost.
            wait_until(whole, 60)
            for name in content:
                cluster.apus("admin", "replicas", "verify", f"/s3v/lost/{name}")
            # The same after SCM has read its tables again.
            cluster.kill("scm1")
            cluster.restart("scm1", "scm")

            def safe():
                found = cluster.apus("admin", "safety", "--json", check=False)
                return found.returncode == 0 and json.loads(found.stdout)["degradedBlocks"] == 0
            wait_until(safe, 30)
            assert whole(), containers(cluster)
        finally:
            cluster.destroy()

    def test_15_a_stopped_datanode_costs_a_put_about_a_second(self):
        cluster = Cluster(datanodes=7)
        try:
            cluster.start()
            client = cluster.client()
            client.create_bucket(Bucket="stopped")
            content, slowest = {}, 0
            for number in range(40):
                content[f"warm{number}"] = random.Random(number).randbytes(1 << 20)
                client.put_object(Bucket="stopped", Key=f"warm{number}",
                                  Body=content[f"warm{number}"])
            for index in (2, 5):
                pid = cluster.pid(f"dn{index}")
                os.kill(pid, signal.SIGSTOP)
                try:
                    end = time.time() + 8
                    number = 0
                    while time.time() < end:
                        name = f"{index}/{number}"
                        size = (200_000, 3 << 20, 20 << 20)[number % 3]
                        content[name] = random.Random(name).randbytes(size)
                        start = time.time()
                        client.put_object(Bucket="stopped", Key=name, Body=content[name])
                        slowest = max(slowest, time.time() - start)
                        number += 1
                finally:
                    os.kill(pid, signal.SIGCONT)
                time.sleep(3)
            for name, body in content.items():
                assert client.get_object(Bucket="stopped", Key=name)["Body"].read() == body, name
            found = [entry["Key"] for page in client.get_paginator("list_objects_v2").paginate(
                Bucket="stopped") for entry in page["Contents"]]
            assert sorted(found) == sorted(content), len(found)
            print(f"    {len(content)} keys, the slowest PUT {slowest:.2f} s")
            # A node counts as failed after 20 s: no PUT may have waited for that.
            assert slowest < 10, slowest
        finally:
            cluster.destroy()

    def test_16_a_first_start_that_was_cut_off_goes_on(self):
        """Groups are begun, and SCM and datanodes have run, but OM has not."""
        cluster = Cluster(options=["--oms", "3"])
        try:
            cluster.start()
            cluster.stop()
            for number in (1, 2, 3):
                shutil.rmtree(pathlib.Path(cluster.dir, f"om{number}"))
            config = f"{cluster.dir}/etc/om%d.json"
            cluster.apus("om", "--config", config % 1, "--init")
            # Two founders are missing: that is no first start.
            refused = cluster.run(*cluster.command, check=False, timeout=60)
            assert refused.returncode != 0 and "no files of om2, om3" in refused.stderr, refused
            for number in (2, 3):
                cluster.apus("om", "--config", config % number, "--init")
            cluster.start()
            client = cluster.client()
            client.create_bucket(Bucket="first")
            client.put_object(Bucket="first", Key="key", Body=b"body")
            assert client.get_object(Bucket="first", Key="key")["Body"].read() == b"body"
        finally:
            cluster.destroy()


def containers(cluster):
    return json.loads(cluster.apus("admin", "container", "list", "--json").stdout)


def used(cluster):
    """Bytes that the datanodes' files take on their disks."""
    total = 0
    for path in pathlib.Path(cluster.dir).glob("dn*/volume*/**/*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total


def wait_until(holds, seconds):
    end = time.time() + seconds
    while not holds():
        assert time.time() < end, "it did not come about"
        time.sleep(0.2)


def main():
    run = Run()
    passed = failed = 0
    try:
        for name in sorted(name for name in dir(run) if name.startswith("test_")):
            start = time.time()
            try:
                getattr(run, name)()
            except Exception:
                failed += 1
                print(f"FAILED {name}")
                traceback.print_exc(file=sys.stdout)
                for log in sorted(pathlib.Path(run.cluster.dir, "log").glob("*.log")):
                    text = log.read_text()[-600:]
                    print(f"--- {log.name}\n{text}")
                if name == "test_01_start":
                    break
            else:
                passed += 1
                print(f"ok {name} ({time.time() - start:.1f} s)", flush=True)
    finally:
        run.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
