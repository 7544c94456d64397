"""A cluster of which each role is a process of the test, on a host of its own (hosts.py) or, where
there are none, on loopback: to be stopped, killed and started again one by one.

    om1 scm1, om2 scm2…   as many hosts as members
    dn1, dn2…             one host each
    s3g1…                 one host each"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from rig import APUS, leader_among

# A role says that it is ready, or why not, long before; one that replays or registers while the
# machine is busy with other things.
LONGEST_START = 120
PORTS = {"om": 9862, "scm": 9863, "datanode": 9864, "s3gateway": 9878}


class Place:
    """Where roles run: a host, or this machine's loopback (`host` None)."""

    def __init__(self, host=None):
        self.host = host
        self.address = host.address if host else "127.0.0.1"
        self.enter = host.enter if host else []

    def port(self, role, taken):
        """Where a role listens: its usual port, or one that is free and not in `taken`."""
        if self.host:
            return PORTS[role]
        # Not of those that the system gives to connections.
        for port in range(20_000 + os.getpid() % 5000, 32_000):
            if port in taken:
                continue
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind((self.address, port))
                taken.add(port)
                return port
        raise AssertionError("no free port on 127.0.0.1")


class Role:
    """One process, that can end and be started again."""

    def __init__(self, cluster, name, kind, place, port):
        self.cluster, self.name, self.kind, self.place, self.port = cluster, name, kind, place, port
        self.process = None
        self.is_stopped = False
        # It does not run because it was killed.
        self.is_killed = False
        self.log = cluster.dir / "log" / f"{name}.log"
        self._said_before = 0

    @property
    def address(self):
        return f"{self.place.address}:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    @property
    def runs(self):
        return self.process is not None and self.process.poll() is None

    def start(self, wait=True):
        assert not self.runs, f"{self.name} runs"
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "a") as log:
            # It ends when the other end of its input is closed: when this process has ended.
            self.process = subprocess.Popen(
                [*self.place.enter, APUS, self.kind, "--config", str(self.cluster.config(self.name))],
                stdin=subprocess.PIPE, stdout=log, stderr=log,
                env=dict(os.environ, APUS_PARENT="1"))
        self.is_stopped = self.is_killed = False
        if wait:
            self.wait_ready()

    def said(self):
        """What its log has since it was started last."""
        with open(self.log, "rb") as log:
            log.seek(self._said_before)
            return log.read().decode(errors="replace")

    def is_ready(self):
        return any(line.startswith("ready ") for line in self.said().splitlines())

    def wait_ready(self, seconds=LONGEST_START):
        end = time.monotonic() + seconds
        while not self.is_ready():
            assert self.runs, f"{self.name} ended with {self.process.returncode}: {self.tail()}"
            assert time.monotonic() < end, f"{self.name} is not ready after {seconds} s: {self.tail()}"
            time.sleep(0.1)

    def tail(self, count=1500):
        return self.log.read_text(errors="replace")[-count:] if self.log.exists() else ""

    def kill(self, seconds=30):
        """SIGKILL. A process that waits for its disk in the kernel ends when that answers."""
        if not self.process:
            return
        self.is_killed = True
        self.process.kill()
        self.process.stdin.close()
        self.process.wait(timeout=seconds)
        self.is_stopped = False

    def pause(self):
        """SIGSTOP, until `go_on`."""
        self.process.send_signal(signal.SIGSTOP)
        self.is_stopped = True

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)
        self.is_stopped = False


class RoleCluster:
    """`places` gives each role its place; `common` are settings of all roles by group."""

    def __init__(self, folder, members, datanodes, places, gateways=0, common=None, volumes=None):
        self.dir = pathlib.Path(folder)
        self.members, self.datanodes = members, datanodes
        self.common = common or {}
        # By datanode; one where nothing is said.
        self.volumes = volumes or {}
        for name in ["etc", "log"]:
            (self.dir / name).mkdir(exist_ok=True)
        self.roles_by_name, taken = {}, set()
        names = [(f"{kind}{number}", kind) for kind in ["scm", "om"]
                 for number in range(1, members + 1)]
        names += [(f"dn{number}", "datanode") for number in range(1, datanodes + 1)]
        names += [(f"s3g{number}", "s3gateway") for number in range(1, gateways + 1)]
        for name, kind in names:
            place = places[name]
            self.roles_by_name[name] = Role(self, name, kind, place, place.port(kind, taken))
        self.write_settings()

    def __getitem__(self, name):
        return self.roles_by_name[name]

    def of(self, kind):
        return [role for role in self.roles_by_name.values() if role.kind == kind]

    # Settings

    def config(self, name):
        return self.dir / "etc" / f"{name}.json"

    @property
    def client(self):
        """The settings file of commands."""
        return str(self.config("client"))

    def folder(self, name):
        return self.dir / name

    def volumes_of(self, name):
        return [self.folder(name) / f"volume{number}"
                for number in range(1, self.volumes.get(name, 1) + 1)]

    def write_settings(self):
        for role in self.roles_by_name.values():
            own = {"host": role.place.address, "port": role.port}
            if role.kind in ("om", "scm"):
                own.update(id=role.name, directory=str(self.folder(role.name)))
            elif role.kind == "datanode":
                own.update(directory=str(self.folder(role.name)),
                           volumes=[str(path) for path in self.volumes_of(role.name)])
            group = "s3" if role.kind == "s3gateway" else role.kind
            self._write(role.name, group, own)
        self._write("client", "om", {})

    def _write(self, name, group, own):
        groups = {"cluster": {}, "node": {"name": name}}
        for kind in ["om", "scm"]:
            groups[kind] = {"addresses": [f"{role.name}={role.address}" for role in self.of(kind)]}
        for key, settings in self.common.items():
            groups.setdefault(key, {}).update(settings)
        groups.setdefault(group, {}).update(own)
        self.config(name).write_text(json.dumps(groups, indent=1))

    # Commands

    def apus(self, *arguments, timeout=60, enter=()):
        """A command on the cluster; one that does not end in time counts as failed."""
        command = [*enter, APUS, *arguments, "--config", self.client]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer in {timeout} s")

    def asked(self, *arguments, timeout=10):
        """What a command prints as JSON; None if it could not tell."""
        found = self.apus(*arguments, "--json", timeout=timeout)
        try:
            return json.loads(found.stdout)
        except json.JSONDecodeError:
            return None

    def nodes(self):
        return self.asked("admin", "datanode", "list") or []

    def containers(self):
        """None while SCM does not answer."""
        return self.asked("admin", "container", "list")

    def healthy(self):
        return sum(row["state"] == "HEALTHY" for row in self.nodes())

    def leader(self, kind, but=None, seconds=60):
        """The member that leads, other than `but`; None if none does within so long."""
        return leader_among(lambda: self.asked("admin", kind, "roles") or [], but, seconds)

    # Start and end

    def start(self, seconds=60):
        """All roles; then `credentials` are those of the first user."""
        for kind in ["scm", "om"]:
            for role in self.of(kind):
                found = subprocess.run(
                    [*role.place.enter, APUS, kind, "--config", str(self.config(role.name)),
                     "--init"], capture_output=True, text=True, timeout=60, check=False)
                assert found.returncode == 0, f"{role.name} cannot be begun: {found.stderr}"
        for role in self.roles_by_name.values():
            if role.kind != "s3gateway":
                role.start(wait=False)
        end = time.monotonic() + seconds
        while True:
            made = self.apus("user", "create", "admin", "--admin", "--json")
            if made.returncode == 0:
                break
            assert time.monotonic() < end, f"no user can be made: {made.stderr}"
            time.sleep(0.2)
        user = json.loads(made.stdout)
        self.credentials = user["accessKeyID"], user["secretAccessKey"]
        while self.healthy() < self.datanodes or self.apus("admin", "status").returncode != 0:
            assert time.monotonic() < end, \
                f"the cluster does not become well: {self.apus('admin', 'status').stdout}"
            time.sleep(0.2)
        for role in self.of("s3gateway"):
            role.start()

    def stop(self):
        """Kills all roles: whatever state they are in."""
        for role in self.roles_by_name.values():
            if role.process:
                role.process.kill()
        for role in self.roles_by_name.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                role.kill()
