"""Steps of cluster_test.py: the command line as people and as programs meet it, and the memory of a
cluster that has nothing to do."""

import hashlib
import json
import os
import pathlib
import pty
import random
import select
import subprocess
import sys
import time

from rig import APUS

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "Bench"))
from memory import pss  # noqa: E402
from memoryrow import MIB, separate_roles  # noqa: E402


def on_terminal(cluster, *arguments, stdin=None):
    """What `apus` shows where standard output and error are a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([APUS, *arguments], stdin=stdin, stdout=theirs, stderr=theirs,
                               env=cluster.environment())
    os.close(theirs)
    shown = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        assert ready, f"{arguments} hangs: {shown!r}"
        try:
            piece = os.read(ours, 65536)
        except OSError:  # The end of a terminal.
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return shown.decode(), process.wait(timeout=60)


class CommandLineSteps:
    """In alphabetical order between those of `Run`, whose bucket `files` they find."""

    def test_05g_names_are_made_listed_and_deleted(self):
        apus = self.cluster.apus
        assert apus("volume", "create", "/cli").stdout == "created volume /cli\n"
        made = apus("bucket", "create", "/cli/one", "--replication", "rs-2-1-64k")
        assert made.stdout == "created bucket /cli/one, rs-2-1-64k\n", made
        made = json.loads(apus("bucket", "create", "/cli/two", "--json").stdout)
        assert made == {"done": "created", "kind": "bucket", "name": "/cli/two",
                        "replication": "rs-3-2-1024k"}, made
        again = apus("bucket", "create", "/cli/two", check=False)
        assert again.returncode == 1 and again.stdout == "", again
        assert again.stderr.startswith("apus: bucketOwnedByYou: "), again
        for index in range(25):
            self.put(f"/cli/one/{'ab'[index % 2]}/{index:02}", b"x" * index)
        info = json.loads(apus("bucket", "info", "/cli/one", "--json").stdout)
        assert (info["keys"], info["bytes"]) == (25, sum(range(25))), info
        assert "25" in apus("bucket", "info", "/cli/one").stdout.split("keys")[1]
        assert "keys" not in json.loads(
            apus("bucket", "info", "/cli/one", "--quick", "--json").stdout)
        for index in range(25):
            key = f"/cli/one/{'ab'[index % 2]}/{index:02}"
            assert apus("key", "delete", key).stdout == f"deleted key {key}\n"
        for bucket in ["one", "two"]:
            gone = apus("bucket", "delete", f"/cli/{bucket}").stdout
            assert gone == f"deleted bucket /cli/{bucket}\n", gone
        assert json.loads(apus("volume", "delete", "/cli", "--json").stdout) == {
            "done": "deleted", "kind": "volume", "name": "/cli"}
        user = json.loads(apus("user", "create", "somebody", "--json").stdout)
        assert len(user["secretAccessKey"]) == 40, user
        assert apus("user", "delete", "somebody").stdout == "deleted user somebody\n"

    def put(self, key, body):
        result = subprocess.run([APUS, "key", "put", key, "-", "--json"], input=body,
                                capture_output=True, env=self.cluster.environment(), timeout=60)
        assert result.returncode == 0 and result.stderr == b"", result
        return json.loads(result.stdout)

    def output(self, *arguments):
        """Standard output as bytes."""
        return subprocess.run([APUS, *arguments], capture_output=True, check=True, timeout=60,
                              env=self.cluster.environment()).stdout

    def test_05h_keys_stream_in_and_out_and_are_copied(self):
        apus, client = self.cluster.apus, self.cluster.client()
        body = random.Random(12).randbytes((5 << 20) + 17)
        row = self.put("/s3v/files/cli/piped", body)
        assert row["etag"] == hashlib.md5(body).hexdigest() and row["length"] == len(body), row
        assert self.output("key", "cat", "/s3v/files/cli/piped") == body
        assert self.output("key", "get", "/s3v/files/cli/piped", "-") == body
        assert self.put("/s3v/files/cli/empty", b"")["length"] == 0
        assert self.output("key", "cat", "/s3v/files/cli/empty") == b""
        client.put_object(Bucket="files", Key="cli/source", Body=body, ContentType="text/x-cli",
                          CacheControl="no-store", Metadata={"colour": "blue"},
                          ChecksumAlgorithm="CRC32")
        apus("bucket", "create", "/s3v/copies", "--replication", "rs-2-1-64k")
        said = apus("key", "cp", "/s3v/files/cli/source", "/s3v/copies").stdout
        assert said == ("copied key /s3v/files/cli/source to /s3v/copies/cli/source, 5.0 MiB, "
                        "rs-2-1-64k\n"), said
        apus("key", "cp", "/s3v/files/cli/source", "/s3v/files/cli/again")
        for bucket, key in [("copies", "cli/source"), ("files", "cli/again")]:
            copy = client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            assert copy["Body"].read() == body
            assert copy["ContentType"] == "text/x-cli" and copy["CacheControl"] == "no-store"
            assert copy["Metadata"] == {"colour": "blue"} and copy["ChecksumCRC32"], copy
        # The ETag of parts tells nothing of the bytes; a copy's does.
        upload = client.create_multipart_upload(Bucket="files", Key="cli/parts")["UploadId"]
        part = client.upload_part(Bucket="files", Key="cli/parts", UploadId=upload, PartNumber=1,
                                  Body=body)
        client.complete_multipart_upload(
            Bucket="files", Key="cli/parts", UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
        copied = json.loads(
            apus("key", "cp", "/s3v/files/cli/parts", "/s3v/copies", "--json").stdout)
        assert copied["etag"] == hashlib.md5(body).hexdigest(), copied
        info = apus("key", "info", "/s3v/copies/cli/source").stdout
        assert "text/x-cli" in info and "x-amz-meta-colour" in info and "CRC32" in info, info
        # What is there stays when a put or a get fails, and nothing half done is left.
        missing = apus("key", "put", "/s3v/files/cli/piped", "/nowhere", check=False)
        assert missing.returncode == 1 and "/nowhere" in missing.stderr, missing
        target = pathlib.Path(self.work, "kept")
        target.write_text("kept")
        apus("key", "get", "/s3v/files/cli/absent", str(target), check=False)
        assert target.read_text() == "kept" and not target.with_name("kept.part").exists()
        apus("key", "get", "/s3v/files/cli/piped", "/dev/null")
        assert pathlib.Path("/dev/null").is_char_device()
        for key in ["piped", "empty", "source", "again", "parts"]:
            apus("key", "delete", f"/s3v/files/cli/{key}")
        for key in ["source", "parts"]:
            apus("key", "delete", f"/s3v/copies/cli/{key}")
        apus("bucket", "delete", "/s3v/copies")

    def test_05i_listings_are_streams(self):
        apus, client = self.cluster.apus, self.cluster.client()
        client.create_bucket(Bucket="listed")
        names = [f"{folder}/{index:04}" for folder in "ab" for index in range(600)] + ["top"]
        load = ["bench", "put", "--bucket", "/s3v/listed", "--size", "1", "--keep", "--json"]
        prefix = json.loads(apus(*load, "--count", "1200").stdout)["prefix"]
        client.put_object(Bucket="listed", Key="top", Body=b"")
        rows = apus("key", "list", "/s3v/listed", "--json").stdout
        keys = [row["key"] for row in json.loads(rows)]
        assert len(keys) == 1201 and keys == sorted(keys), len(keys)
        # An element a line: a program can also read it line by line.
        assert [json.loads(line.rstrip(","))["key"] for line in rows.splitlines()[1:-1]] == keys

        def listed(*arguments):
            return [row.get("key") or row["prefix"] for row in json.loads(
                apus("key", "list", *arguments, "--json").stdout)]

        assert listed("/s3v/listed", "--delimiter", "/") == [prefix.split("/")[0] + "/", "top"]
        assert listed("/s3v/listed", "--prefix", prefix, "--limit", "1001") == keys[:1001]
        assert listed("/s3v/listed/" + prefix, "--limit", "2") == keys[:2]
        assert listed("/s3v/listed", "--start-after", keys[-2]) == ["top"]
        assert listed("/s3v/listed", "--prefix", "none") == []
        lines = apus("key", "list", "/s3v/listed").stdout.splitlines()
        assert lines[0].split() == ["BYTES", "MODIFIED", "ETAG", "KEY"]
        assert [line.split()[-1] for line in lines[1:]] == keys
        # Who reads the first lines only does not make it an error to be told of.
        head = subprocess.run(f"{APUS} key list /s3v/listed | head -2", shell=True, text=True,
                              capture_output=True, env=self.cluster.environment(), timeout=60)
        assert head.stderr == "" and len(head.stdout.splitlines()) == 2, head
        full = subprocess.run(f"{APUS} key list /s3v/listed > /dev/full", shell=True, text=True,
                              capture_output=True, env=self.cluster.environment(), timeout=60)
        assert full.returncode == 1 and "standard output" in full.stderr, full
        assert len(names) == 1201
        self.cluster.run("aws", "s3", "rb", "--force", "s3://listed")

    def test_05j_a_terminal_is_shown_and_never_told(self):
        client = self.cluster.client()
        evil = "shown/\u202etxt\u202c\x1b[2J\x07\\n"
        client.put_object(Bucket="files", Key=evil, Body=b"x")
        for arguments in [["key", "list", "/s3v/files/shown/"], ["key", "info", "/s3v/files/" + evil],
                          ["key", "info", "/s3v/files/absent" + evil],
                          ["key", "list", "/s3v/files/shown/", "--json"],
                          ["volume", "create", "/" + evil], ["volume", "list", "--user", evil]]:
            shown, _ = on_terminal(self.cluster, *arguments)
            assert not set("\u202e\u202c\x1b\x07") & set(shown), (arguments, shown)
        shown, _ = on_terminal(self.cluster, "key", "list", "/s3v/files/shown/")
        assert "shown/\\u{202E}txt\\u{202C}\\u{1B}[2J\\u{7}\\\\n" in shown, shown
        # A program gets the name itself.
        assert evil in self.cluster.apus("key", "list", "/s3v/files/shown/").stdout
        rows = json.loads(self.cluster.apus("key", "list", "/s3v/files/shown/", "--json").stdout)
        assert [row["key"] for row in rows] == [evil], rows
        client.delete_object(Bucket="files", Key=evil)

    def test_05k_progress_is_for_people_alone(self):
        # A pipe that takes its time: longer than anything of which nothing is shown.
        def slow_put(*more, terminal):
            source = subprocess.Popen(
                [sys.executable, "-c", "import sys, time\nfor _ in range(8):\n"
                 "    sys.stdout.buffer.write(bytes(1 << 20)); time.sleep(0.2)"],
                stdout=subprocess.PIPE)
            command = ["key", "put", "/s3v/files/cli/slow", "-", *more]
            if terminal:
                shown, code = on_terminal(self.cluster, *command, stdin=source.stdout)
            else:
                result = subprocess.run([APUS, *command], stdin=source.stdout, text=True,
                                        capture_output=True, env=self.cluster.environment())
                shown, code = result.stderr, result.returncode
            source.stdout.close()
            source.wait(timeout=30)
            assert code == 0, shown
            return shown
        assert "/s" in slow_put(terminal=True)
        assert "/s," not in slow_put("--json", terminal=True).replace("/s3v", "")
        assert slow_put(terminal=False) == ""
        self.cluster.apus("key", "delete", "/s3v/files/cli/slow")

    def test_05l_wrong_usage_is_told_from_failure(self):
        for code, arguments in [
                (0, ["--help"]), (0, ["help", "key", "put"]), (0, ["--version"]),
                (2, ["key", "nonsense"]), (2, ["key", "put", "/s3v/files/x"]),
                (2, ["key", "put", "/s3v", "-"]), (2, ["key", "list", "/s3v/files", "--limit", "0"]),
                (2, ["bucket", "create", "/s3v/odd", "--replication", "rs-6"]),
                (2, ["volume", "create", "/a/b"]), (2, ["up", "--s3", "9878"]),
                (2, ["config", "show", "--set", "om.nonsense=1"]),
                (1, ["key", "info", "/s3v/files/absent"]), (1, ["bucket", "info", "/s3v/absent"]),
                (1, ["key", "info", "/s3v/files/x", "--user", "nobody"]),
                (1, ["admin", "container", "info", "987654"]),
                (1, ["key", "info", "/s3v/files/x", "--dir", "/nowhere"])]:
            result = self.cluster.apus(*arguments, check=False)
            assert result.returncode == code, (arguments, result)
            # Either says something, in its place.
            assert (result.stdout != "") == (code == 0), (arguments, result)
            assert (result.stderr != "") == (code != 0), (arguments, result)
        settings = json.loads(self.cluster.apus("config", "show", "--json").stdout)
        assert all(row["help"] for row in settings), settings
        shown = self.cluster.apus("config", "show", "om.").stdout
        port = next(row for row in settings if row["key"] == "om.port")
        assert "om.port" in shown and "scm.port" not in shown and port["help"] in shown

    def test_05m_memory_goes_back_when_nothing_is_to_be_done(self):
        # 64 MiB at a time, so that there is something to give back.
        bodies = {f"memory-{index}": bytes([index]) * (64 << 20) for index in range(4)}
        client = self.cluster.client()
        for key, body in bodies.items():
            client.put_object(Bucket="files", Key=key, Body=body)
        roles = separate_roles(self.cluster.dir)

        def total():
            return sum(pss(pid) for pid in roles.values()) / MIB

        loaded, began = total(), time.monotonic()
        # Memory is no timing: 100 to 135 MiB were measured, over 400 before any was given back.
        while total() > 200 and time.monotonic() - began < 120:
            time.sleep(2)
        idle = total()
        print(f"    {loaded:.0f} MiB under load, {idle:.0f} MiB {time.monotonic() - began:.0f} s "
              "later")
        assert idle <= 200, {name: pss(pid) / MIB for name, pid in roles.items()}
        # What was given back is not what is stored, and works as before.
        for key, body in bodies.items():
            assert client.get_object(Bucket="files", Key=key)["Body"].read() == body, key
            client.delete_object(Bucket="files", Key=key)

    def test_06b_the_worst_news_come_first(self):
        # Two datanodes were killed: until SCM counts them as dead (scm.dead-after-ms).
        for _ in range(60):
            nodes = json.loads(self.cluster.apus("admin", "datanode", "list", "--json").stdout)
            if sum(node["state"] == "DEAD" for node in nodes) == 2:
                break
            time.sleep(0.5)
        assert [node["state"] for node in nodes] == ["DEAD"] * 2 + ["HEALTHY"] * 3, nodes
        table = self.cluster.apus("admin", "datanode", "list").stdout.splitlines()
        assert all("DEAD" in line for line in table[1:3]), table
        rows = json.loads(self.cluster.apus("admin", "container", "list", "--json").stdout)
        # Two of five are missing, of which three are enough; of three (rs-2-1) they are too many.
        assert "missing" in rows[0]["health"] and len(rows[0]["missingIndexes"]) == 2, rows[0]
        health = [row["health"].split()[0] for row in rows if row["state"] != "DELETED"]
        assert health == sorted(health, key=["UNREADABLE:", "missing", "ok"].index), health
        text = self.cluster.apus("admin", "container", "info", str(rows[0]["id"])).stdout
        assert text.count("MISSING") == 2, text
        status = self.cluster.apus("admin", "safemode", "status").stdout
        assert "2 dead, 3 healthy" in status and "missing or corrupt" in status, status
