"""A cluster of `apus up` for tests: start, stop, kill roles, and clients on it."""

import configparser
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

import boto3
from botocore.config import Config

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
APUS = os.environ.get("APUS_BINARY", str(ROOT / ".build/release/apus"))

# A role says that it is ready, or why not, long before.
LONGEST_START = 120


def lines(stream, seconds, what):
    """The lines of a process as they come, until it ends; fails when none came for so long.

    Reads past Python's buffers: whoever takes lines from here reads the stream no other way."""
    left = b""
    poll = select.poll()
    poll.register(stream, select.POLLIN | select.POLLHUP)
    while True:
        if not poll.poll(seconds * 1000):
            raise AssertionError(f"{what} said nothing for {seconds} s")
        piece = os.read(stream.fileno(), 4096)
        if not piece:
            return
        *whole, left = (left + piece).split(b"\n")
        yield from (line.decode() for line in whole)


def leader_among(roles, but=None, seconds=20):
    """The id of the member that leads and answers, other than `but`, as `roles()` lists them; None
    if there is none within so long."""
    end = time.monotonic() + seconds
    while True:
        for member in roles():
            if member["role"] == "leader" and member["isReachable"] and member["id"] != but:
                return member["id"]
        if time.monotonic() > end:
            return None
        time.sleep(0.1)


class Cluster:
    def __init__(self, separate=True, datanodes=5, volumes=1, options=()):
        self.dir = tempfile.mkdtemp(prefix="apus-cluster-", dir=os.environ.get("APUS_TEST_TMP"))
        self.command = [APUS, "up", "--dir", self.dir, "--datanodes", str(datanodes),
                        "--volumes-per-datanode", str(volumes), "--s3", "127.0.0.1:0", *options]
        if separate:
            self.command.append("--separate")
        self.process = None
        self.logs = []

    def start(self):
        self.log = open(os.path.join(self.dir, "up.err"), "a")
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        for line in lines(self.process.stdout, LONGEST_START, "apus up"):
            if line.startswith("ready"):
                fields = dict(part.split("=", 1) for part in line.split()[1:])
                self.endpoint, self.credentials = fields["s3"], fields["credentials"]
                return self
        raise RuntimeError("apus up ended: " + self.tail("up.err"))

    def tail(self, name):
        path = pathlib.Path(self.dir, name)
        return path.read_text()[-2000:] if path.exists() else ""

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=90)
        assert code == 0, f"apus up ended with {code}: {self.tail('up.err')}"

    def destroy(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.kill_all()
        # Those that were started again by hand: `apus up` does not know them.
        for child in self.logs:
            child.kill()
            child.wait()
        self.logs = []
        if not os.environ.get("APUS_TEST_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)

    def pid(self, role):
        return int(pathlib.Path(self.dir, "run", role + ".pid").read_text())

    def kill(self, role):
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        for _ in range(500):
            try:
                # One that was started again is a child of this process.
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    return
            except ChildProcessError:
                pass
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.02)
        raise AssertionError(f"{role} (process {pid}) is still there 10 s after it was killed")

    def restart(self, role, command):
        """Starts a killed role again by hand, as an operator would."""
        log = open(os.path.join(self.dir, "log", role + ".again.log"), "a")
        child = subprocess.Popen(
            [APUS, command, "--config", f"{self.dir}/etc/{role}.json"],
            stdout=subprocess.PIPE, stderr=log, text=True)
        self.logs.append(child)
        line = next(lines(child.stdout, LONGEST_START, role), "")
        assert line.startswith("ready"), line + self.tail(f"log/{role}.again.log")
        pathlib.Path(self.dir, "run", role + ".pid").write_text(f"{child.pid}\n")
        return child

    def kill_all(self):
        """SIGKILL of every process at once."""
        pids = [int(path.read_text()) for path in pathlib.Path(self.dir, "run").glob("*.pid")]
        for pid in [self.process.pid, *filter(self._is_role, pids)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        # One that was started by hand may not have come as far as its file.
        for child in self.logs:
            child.kill()
        for child in [self.process, *self.logs]:
            child.wait(timeout=60)
        self.logs = []

    def _is_role(self, pid):
        """Whether a process is still the one of this cluster that wrote its number down."""
        try:
            return self.dir.encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def keys(self):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(self.credentials)
        return parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]

    def client(self, **options):
        access, secret = self.keys()
        options.setdefault("retries", {"max_attempts": 1})
        options.setdefault("read_timeout", 120)
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=access,
            aws_secret_access_key=secret, config=Config(s3={"addressing_style": "path"}, **options))

    def environment(self):
        access, secret = self.keys()
        # rclone refuses to start with a bundle for TLS, which plain HTTP does not use.
        inherited = {key: value for key, value in os.environ.items() if key != "AWS_CA_BUNDLE"}
        return dict(
            inherited, AWS_ACCESS_KEY_ID=access, AWS_SECRET_ACCESS_KEY=secret,
            AWS_ENDPOINT_URL=self.endpoint, AWS_DEFAULT_REGION="us-east-1", APUS_DIR=self.dir,
            AWS_EC2_METADATA_DISABLED="true",
            RCLONE_CONFIG_APUS_TYPE="s3", RCLONE_CONFIG_APUS_PROVIDER="Other",
            RCLONE_CONFIG_APUS_ENV_AUTH="true", RCLONE_CONFIG_APUS_ENDPOINT=self.endpoint,
            RCLONE_CONFIG_APUS_REGION="us-east-1")

    def run(self, *command, check=True, timeout=900, **options):
        result = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=timeout,
            **options)
        if check and result.returncode != 0:
            raise AssertionError(f"{command} ended with {result.returncode}: {result.stderr[-2000:]}")
        return result

    def roles(self, noun, timeout=30):
        """The members of a group, `om` or `scm`; none while nobody says who they are."""
        command = [APUS, "admin", noun, "roles", "--json", "--dir", self.dir]
        try:
            found = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return []
        return json.loads(found.stdout) if found.returncode == 0 else []

    def leader(self, noun, but=None, seconds=20):
        """The member that leads, other than `but`; None if there is none within so long."""
        return leader_among(lambda: self.roles(noun), but, seconds)

    def apus(self, *arguments, check=True):
        return self.run(APUS, *arguments, check=check)
