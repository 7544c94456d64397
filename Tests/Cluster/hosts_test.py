#!/usr/bin/env python3
"""A cluster on three hosts, as an operator sets it up: the package installed, the settings written by
`apus init`, the hosts checked, the units started; then written to and read over S3 and the native
client, with a host cut off and back, and with what goes wrong at installations.

Needs root, for network namespaces (hosts.py); without, it says so and is skipped. Takes the package
that `make deb` built. APUS_TEST_GROUPS names the roles that have three members (default: om scm).
Prints a line for each check and closes with 'N passed, N failed'."""

import configparser
import hashlib
import json
import os
import pathlib
import random
import re
import sys
import time
import traceback

import hosts

hosts.enter()

import boto3  # noqa: E402
from botocore.config import Config  # noqa: E402
from botocore.exceptions import BotoCoreError, ClientError  # noqa: E402

UNITS = ["apus-scm", "apus-om", "apus-datanode", "apus-s3gateway@9878"]

# What is said of a container that lost a replica with its disk, as long as nothing rebuilds it.
LOST = "replicas are missing or damaged of container"


class Run:
    def __init__(self, cluster):
        self.hosts = cluster
        self.passed = self.failed = 0
        # Roles whose groups begin with --init, and those that have three members here.
        self.begin = [role for role in ["om", "scm"]
                      if "--init" in cluster[1].apus(role, "--help").stdout]
        wanted = os.environ.get("APUS_TEST_GROUPS", "om scm").split()
        self.groups = [role for role in self.begin if role in wanted]
        # The others are on the first host alone.
        self.alone = [flag for role in ["om", "scm"] if role not in self.groups
                      for flag in ["--" + role, "host1"]]

    def check(self, name, body):
        start = time.monotonic()
        try:
            body()
        except Exception:
            self.failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        else:
            self.passed += 1
            print(f"passed {name} ({time.monotonic() - start:.1f} s)", flush=True)

    # Installing

    def installed(self):
        """The package makes the user and the directory, and no role runs."""
        assert "no role runs yet" in self.hosts.installed, self.hosts.installed
        host = self.hosts[1]
        assert "apus" in host.run("getent", "passwd", "apus").stdout
        assert host.run("stat", "-c", "%U %a", "/var/lib/apus").stdout == "apus 750\n"
        assert host.apus("--version").stdout.strip() in host.run("dpkg", "-s", "apus").stdout
        missing = host.run("sh", "-c", "ldd /usr/bin/apus | grep -E 'not found|swift' || true").stdout
        assert missing == "", missing
        # Before there are settings, a role says what it wants.
        result = host.apus("om", check=False)
        assert result.returncode == 2 and "/etc/apus/cluster.json" in result.stderr, result.stderr

    def init(self):
        """`apus init` writes the same file from flags and from answers, and it has no secrets."""
        host = self.hosts[1]
        flags = [flag for other in self.hosts for flag in ["--host", f"{other.name}={other.address}"]]
        flags += [flag for path in host.disks for flag in ["--volume", path]]
        flags += self.alone
        self.steps = host.apus("init", "--cluster-id", "test", *flags).stdout
        text = (host.root / "etc/apus/cluster.json").read_text()
        again = host.apus("init", "--cluster-id", "other", *flags, check=False)
        assert again.returncode == 1 and "is there already" in again.stderr, again.stderr
        answers = "test\n" + "".join(f"{other.name}={other.address}\n" for other in self.hosts)
        answers += "\n" + ",".join(host.disks) + "\n\n"
        host.apus("init", *self.alone, "--output", "/tmp/asked.json", input=answers,
                  environment={"APUS_INIT_ASK": "1"})
        assert (host.root / "tmp/asked.json").read_text() == text
        result = host.apus("init", "--host", "a=10.0.0.1", check=False, stdin=-3)
        assert result.returncode == 2 and "--volume" in result.stderr, result.stderr
        for other in self.hosts:
            (other.root / "etc/apus/cluster.json").write_text(text)
            (other.root / "etc/apus/cluster.json").chmod(0o644)

    def sees_itself(self):
        """Each host finds its own section by its name, and another only if told."""
        for host in self.hosts:
            rows = json.loads(host.apus("config", "show", "datanode.host", "--json").stdout)
            assert rows[0]["value"] == host.address, rows
            assert rows[0]["source"] == f"/etc/apus/cluster.json, host {host.name}", rows
        rows = json.loads(self.hosts[1].apus(
            "config", "show", "datanode.host", "--json", "--host", "host2").stdout)
        assert rows[0]["value"] == self.hosts[2].address, rows
        strange = self.hosts[1].run("unshare", "--uts", "sh", "-c", "hostname db7; apus datanode", check=False)
        assert strange.returncode == 1, strange
        assert "no host db7 (this machine's name); it has: host1 host2 host3" in strange.stderr, strange.stderr

    def findings(self, host, *flags, code=1):
        result = host.apus("init", "check", "--json", *flags, check=False)
        assert result.returncode == code, result.stdout + result.stderr
        return [(row["state"], row["what"]) for row in json.loads(result.stdout)["findings"]]

    def fails(self, host, *flags):
        return [what for state, what in self.findings(host, *flags) if state == "fail"]

    def prepare(self):
        """Directories are missing at first; `init host` makes them for the roles' user, twice the same."""
        for host in self.hosts:
            # A disk just mounted belongs to root.
            assert any("belongs to user root" in what for what in self.fails(host, "--alone"))
            host.apus("init", "host")
            host.apus("init", "host")
            assert host.run("stat", "-c", "%U", "/disks/1").stdout == "apus\n"
            conf = (host.root / "etc/systemd/system/apus-datanode.service.d/paths.conf").read_text()
            assert "Wants=disks.mount disks-1.mount disks-2.mount\nAfter=disks.mount disks-1.mount" in conf, conf
            assert 'ReadWritePaths="-/disks/1" "-/disks/2"' in conf, conf
            self.findings(host, "--alone", code=0)

    def check_all(self):
        """All hosts check each other at the same time."""
        runs = [(host, host.begin("apus", "init", "check", "--json", "--wait", "30")) for host in self.hosts]
        for host, process in runs:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, f"{host.name}: {output}"
            found = [row["what"] for row in json.loads(output)["findings"]]
            for other in self.hosts:
                if other is not host:
                    assert any(what.startswith(f"{other.name} and this host reach each other on all ports, clocks within")
                               for what in found), found

    # What goes wrong at installations

    def port_taken(self):
        host = self.hosts[2]
        holder = host.begin("python3", "-c", "import socket, time; s = socket.create_server(('0.0.0.0', 9864)); "
                            "print('up', flush=True); time.sleep(60)")
        holder.stdout.readline()
        found = self.fails(host, "--alone")
        holder.kill()
        holder.wait()
        assert len(found) == 1 and "9864 (datanode) is held by python3 -c (pid" in found[0], found

    def foreign_files(self):
        host = self.hosts[3]
        stranger = host.disk("/disks/2") / "holiday.jpg"
        stranger.write_text("not ours")
        found = self.fails(host, "--alone")
        role = host.start("apus-datanode", wait=False)
        code = role.process.wait(timeout=60)
        host.roles.pop("apus-datanode")
        stranger.unlink()
        assert found == ["volume /disks/2 holds files that are not Apus's: holiday.jpg"], found
        assert code != 0 and "holiday.jpg" in host.log("apus-datanode"), host.log("apus-datanode")
        # What that attempt left is as if it had never been.
        for path in host.disks:
            for name in host.disk(path).iterdir():
                hosts.run("rm", "-rf", str(name))
        hosts.run("sh", "-c", f"rm -rf {host.rig.dir}/host3/apus/datanode/*")

    def wrong_address(self):
        """A name that is 127.0.1.1, as Debian's installer writes it, and an address of nobody."""
        host = self.hosts[2]
        path = host.root / "etc/apus/cluster.json"
        text = path.read_text()
        names = (host.root / "etc/hosts").read_text()
        try:
            (host.root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 host2\n")
            path.write_text(text.replace(f'"{host.address}"', '"host2"'))
            named = self.fails(host, "--alone")
            (host.root / "etc/hosts").write_text(names)
            path.write_text(text.replace(f'"{host.address}"', '"10.99.0.9"'))
            strange = self.fails(host, "--alone")
        finally:
            (host.root / "etc/hosts").write_text(names)
            path.write_text(text)
        assert any("host2 is 127.0.1.1 here" in what for what in named), named
        assert "10.99.0.9 is no address of this machine" in strange, strange

    def wrong_user(self):
        """A role that is started by root where it is the service's user's would leave files that the
        service cannot open."""
        result = self.hosts[1].apus("datanode", check=False)
        assert result.returncode == 1 and "runuser -u apus" in result.stderr, result.stderr

    def others_settings(self):
        """Another file, a host that is not there, a host that is reached in one direction only."""
        one, two, three = self.hosts
        path = three.root / "etc/apus/cluster.json"
        text = path.read_text()
        path.write_text(text.replace('"test"', '"test" '))
        one.cut_towards(two)
        runs = [(host, host.begin("apus", "init", "check", "--json", "--wait", "4")) for host in self.hosts]
        found = {}
        for host, process in runs:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 1, f"{host.name}: {output}"
            found[host.name] = [row["what"] for row in json.loads(output)["findings"]
                                if row["state"] == "fail"]
        one.heal_towards(two)
        path.write_text(text)
        for name in ["host1", "host2"]:
            assert "host3 has another settings file than this host" in found[name], found[name]
        assert any(f"host2 is not reached at {two.address}:9864 (datanode)" in what
                   for what in found["host1"]), found["host1"]
        assert any("host1 does not say what it sees" in what or "host1 is not reached" in what
                   for what in found["host2"]), found["host2"]

    def wrong_clock(self):
        """A host whose clock is off by seconds; here one that only says so."""
        program = """
import json, socket, sys, time
server = socket.create_server((sys.argv[1], 9861))
print("up", flush=True)
while True:
    connection, _ = server.accept()
    asked = json.loads(connection.makefile().readline())
    connection.sendall((json.dumps(dict(asked, host="host2", reached={},
        milliseconds=int(time.time() * 1000) - 4200)) + "\\n").encode())
    connection.close()
"""
        fake = self.hosts[2].begin("python3", "-c", program, self.hosts[2].address)
        fake.stdout.readline()
        found = self.fails(self.hosts[1], "--wait", "2")
        fake.kill()
        fake.wait()
        assert "host2's clock is 4.2 s behind" in found, found

    # The cluster

    def first_start(self):
        """As `apus init` said, host by host."""
        for host in self.hosts:
            for role in self.begin:
                if self.runs(host, "apus-" + role):
                    said = host.apus(role, "--init", user="apus").stdout
                    assert f"{role}{host.number}" in said, said
        for unit in UNITS:
            self.start_units([host for host in self.hosts if self.runs(host, unit)], unit)

    def start_units(self, chosen, unit):
        """All at once: a member of a group is not ready before others are there."""
        for role in [host.start(unit, wait=False) for host in chosen]:
            role.wait_ready()
            assert any(line.startswith("STATUS=serving on port") for line in role.told), role.told

    def well(self, seconds=30, but=None):
        """Waits until nothing is wrong, except what begins with `but`. Returns the page."""
        end = time.monotonic() + seconds
        while True:
            result = self.hosts[2].apus("admin", "status", "--json", check=False)
            findings = json.loads(result.stdout)["findings"] if result.stdout else [{"what": result.stderr}]
            if all(but and finding["what"].startswith(but) for finding in findings):
                return self.hosts[2].apus("admin", "status", check=False).stdout
            assert time.monotonic() < end, result.stdout + result.stderr
            time.sleep(0.5)

    def status(self):
        page = self.well()
        assert "3 healthy" in page, page
        for role in self.groups:
            assert re.search(f"{role.upper()}: {role}[123] leads, {role}[123] {role}[123] follow", page), page

    def watched(self):
        """The roles tell the watchdog that they live."""
        for role in self.hosts[1].roles.values():
            end = time.monotonic() + 10
            role.told.clear()
            while "WATCHDOG=1" not in role.told and time.monotonic() < end:
                role.listen(0.5)
            assert "WATCHDOG=1" in role.told, (role.unit, role.told)

    def first_user(self):
        text = self.hosts[1].apus("user", "create", "admin", "--admin").stdout
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(text)
        self.keys = (parser["admin"]["aws_access_key_id"], parser["admin"]["aws_secret_access_key"])

    def s3(self, host, **options):
        options.setdefault("retries", {"max_attempts": 1})
        return boto3.client(
            "s3", endpoint_url=f"http://{host.address}:9878", region_name="us-east-1",
            aws_access_key_id=self.keys[0], aws_secret_access_key=self.keys[1],
            config=Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=60, **options))

    def store(self):
        """Written through each gateway, read through each other one; and with the native client."""
        generator = random.Random(12)
        self.bodies = {f"through-host{number}/{size}": generator.randbytes(size)
                       for number in [1, 2, 3] for size in [0, 1000, 300_000, 9 << 20]}
        self.s3(self.hosts[1]).create_bucket(Bucket="demo")
        for key, body in self.bodies.items():
            number = int(key.split("/")[0][-1])
            self.s3(self.hosts[number]).put_object(Bucket="demo", Key=key, Body=body)
        self.read_all(self.hosts)
        file = self.hosts[2].root / "tmp/native"
        file.write_bytes(generator.randbytes(3 << 20))
        self.hosts[2].apus("key", "put", "/s3v/demo/native", "/tmp/native")
        self.hosts[3].apus("key", "get", "/s3v/demo/native", "/tmp/copy")
        copy = (self.hosts[3].root / "tmp/copy").read_bytes()
        assert hashlib.sha256(copy).digest() == hashlib.sha256(file.read_bytes()).digest()

    def read_all(self, gateways):
        for host in gateways:
            client = self.s3(host)
            for key, body in self.bodies.items():
                assert client.get_object(Bucket="demo", Key=key)["Body"].read() == body, (host.name, key)

    def cut_off(self):
        """A host without its cable: the others read all, and say which one is missing; when it is back,
        all is well without anybody's help, and it is written to."""
        self.hosts[3].cut()
        self.read_all([self.hosts[1], self.hosts[2]])
        end = time.monotonic() + 40
        while True:
            result = self.hosts[2].apus("admin", "status", check=False)
            if result.returncode == 1 and f"datanode {self.hosts[3].address}:9864 is" in result.stdout:
                break
            assert time.monotonic() < end, result.stdout
            time.sleep(1)
        self.hosts[3].heal()
        self.well(60)
        self.write_again("back")
        self.read_all(self.hosts)

    def write_again(self, key, seconds=30):
        """Until it is taken: who was away a moment ago is not written to at once."""
        self.bodies[key] = os.urandom(200_000)
        end = time.monotonic() + seconds
        while True:
            try:
                self.s3(self.hosts[3]).put_object(Bucket="demo", Key=key, Body=self.bodies[key])
                return
            except (BotoCoreError, ClientError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def unmounted(self):
        """A disk that is not mounted when its datanode starts is left out and named; nothing is written
        below its mount. Mounted again, all is well."""
        host = self.hosts[2]
        assert host.roles["apus-datanode"].stop() == 0
        host.unmount("/disks/2")
        below = host.root / "disks/2"
        os.chown(below, *(lambda s: (s.st_uid, s.st_gid))((host.root / "disks/1").stat()))
        found = self.fails(host, "--alone")
        assert any("volume /disks/2: it was a volume of this datanode" in what for what in found), found
        host.start("apus-datanode")
        assert list(below.iterdir()) == [], list(below.iterdir())
        end = time.monotonic() + 20
        while True:
            page = self.hosts[1].apus("admin", "status", check=False)
            if "/disks/2 is out: it was a volume of this datanode" in page.stdout:
                break
            assert time.monotonic() < end, page.stdout
            time.sleep(0.5)
        self.read_all([self.hosts[1]])
        assert host.roles["apus-datanode"].stop() == 0
        assert list(below.iterdir()) == [], list(below.iterdir())
        host.mount(host.disk("/disks/2"), "/disks/2")
        host.start("apus-datanode")
        self.well(60)
        self.read_all(self.hosts)

    def replaced(self):
        """A new disk at the place of one that was lost is taken when somebody says so."""
        host = self.hosts[3]
        refused = host.apus("disk", "replaced", "/disks/1", user="apus", check=False)
        assert refused.returncode == 1 and "holds a volume" in refused.stderr, refused.stderr
        assert host.roles["apus-datanode"].stop() == 0
        for name in host.disk("/disks/1").iterdir():
            hosts.run("rm", "-rf", str(name))
        said = host.apus("disk", "replaced", "/disks/1", user="apus").stdout
        assert "made a new volume" in said, said
        host.start("apus-datanode")
        assert (host.root / "disks/1/VERSION").exists()
        self.read_all(self.hosts)

    def another_cluster(self):
        """A disk that belongs to another datanode is refused, with both names."""
        host = self.hosts[1]
        assert host.roles["apus-datanode"].stop() == 0
        host.unmount("/disks/1")
        host.mount(self.hosts[2].disk("/disks/1"), "/disks/1")
        found = self.fails(host, "--alone")
        assert any("volume /disks/1 belongs to datanode" in what for what in found), found
        role = host.start("apus-datanode", wait=False)
        code = role.process.wait(timeout=60)
        host.roles.pop("apus-datanode")
        assert code != 0 and "belongs to datanode" in host.log("apus-datanode"), host.log("apus-datanode")
        host.unmount("/disks/1")
        host.mount(host.disk("/disks/1"), "/disks/1")
        host.start("apus-datanode")
        self.read_all(self.hosts)

    def stop(self):
        """Each role ends by itself when it is asked to, and says that it does."""
        for unit in reversed(UNITS):
            for host in self.hosts:
                role = host.roles.get(unit)
                if role:
                    code = role.stop()
                    assert code == 0, (unit, host.name, code, host.log(unit)[-800:])
                    assert "STOPPING=1" in role.told, (unit, role.told)

    def under_systemd(self):
        """The units in earnest, with all that they forbid: they start, serve what was stored, are started
        anew when they are killed, and an upgrade has them go on."""
        names = {host.number: " ".join(unit for unit in UNITS if self.runs(host, unit)) for host in self.hosts}
        for host in self.hosts:
            reason = host.boot()
            if reason:
                print(f"SKIPPED the units under systemd: {reason}")
                return
            host.shell("systemd-analyze verify " + names[host.number].replace(" ", ".service ") + ".service")
        # A member of a group is not ready before others are there.
        for host in self.hosts:
            host.shell(f"systemctl enable --now --no-block {names[host.number]}")
        self.active(names)
        for unit in names[1].split():
            pid = self.hosts[1].shell(f"systemctl show --property=MainPID --value {unit}").stdout.strip()
            status = self.hosts[1].shell(f"cat /proc/{pid}/status").stdout
            for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"]:
                assert line in status, (unit, line)
        self.well(30, but=LOST)
        self.read_all(self.hosts)
        log = self.hosts[1].shell("journalctl --no-pager -u 'apus-*'").stdout
        # What the filter of system calls forbids fails with EPERM.
        forbidden = [line for line in log.splitlines() if re.search(r"not permitted|errno=1\b", line)]
        assert "ready om port=9862" in log and not forbidden, forbidden[:5]
        self.hosts[3].shell("kill -9 $(systemctl show --property=MainPID --value apus-datanode)")
        self.active(names)
        assert self.hosts[3].shell("systemctl show --property=NRestarts --value apus-datanode").stdout.strip() == "1"
        self.well(30, but=LOST)
        # The same version once more, as an upgrade does.
        before = self.pids(self.hosts[3], names[3])
        (self.hosts[3].root / "opt/apus.deb").write_bytes(pathlib.Path(self.hosts.package).read_bytes())
        self.hosts[3].shell("dpkg --force-unsafe-io -i /opt/apus.deb")
        self.active(names)
        after = self.pids(self.hosts[3], names[3])
        assert all(a != b for a, b in zip(before, after)), (before, after)
        self.well(30, but=LOST)
        self.write_again("after an upgrade")
        self.read_all(self.hosts)
        for host in self.hosts:
            host.shell(f"systemctl stop {names[host.number]}")
            assert host.shell(f"systemctl is-failed {names[host.number]}", check=False).stdout.count("failed") == 0
            host.shut_down()

    def runs(self, host, unit):
        role = unit.removeprefix("apus-")
        return role in self.groups or role not in ["om", "scm"] or host.number == 1

    def pids(self, host, units):
        return [host.shell(f"systemctl show --property=MainPID --value {unit}").stdout.strip()
                for unit in units.split()]

    def active(self, names, seconds=40):
        end = time.monotonic() + seconds
        for host in self.hosts:
            units = names[host.number].split()
            while host.shell("systemctl is-active " + " ".join(units), check=False).stdout.split() \
                    != ["active"] * len(units):
                assert time.monotonic() < end, host.shell("journalctl --no-pager -n 40").stdout
                time.sleep(0.2)

    def removed(self):
        """What purging leaves: the data. What it takes: the settings."""
        host = self.hosts[3]
        before = sorted(path.name for path in host.disk("/disks/1").iterdir())
        said = host.run("dpkg", "--purge", "apus").stdout
        assert "/var/lib/apus and the datanode's volumes are kept" in said, said
        assert sorted(path.name for path in host.disk("/disks/1").iterdir()) == before
        assert not (host.root / "etc/apus/cluster.json").exists()
        assert not (host.root / "usr/bin/apus").exists()
        assert not list((host.root / "etc/systemd/system").glob("apus-*.service.d/*"))
        assert (host.root / "var/lib/apus/datanode/datanode.id").exists()

    def run(self):
        self.check("the package is installed", self.installed)
        self.check("init writes one file, by flags and by questions", self.init)
        self.check("each host finds its own section", self.sees_itself)
        self.check("directories are made for the roles' user", self.prepare)
        self.check("three hosts check each other", self.check_all)
        self.check("a port that another program has", self.port_taken)
        self.check("a volume with foreign files", self.foreign_files)
        self.check("addresses that are not the host's", self.wrong_address)
        self.check("a role started by root", self.wrong_user)
        self.check("another file, and a link of one way", self.others_settings)
        self.check("a clock that is wrong", self.wrong_clock)
        self.check("the units start", self.first_start)
        self.check("the cluster is well", self.status)
        self.check("the watchdog hears of the roles", self.watched)
        self.check("the first user", self.first_user)
        self.check("stored and read through all hosts", self.store)
        self.check("a host cut off and back", self.cut_off)
        self.check("a disk that is not mounted", self.unmounted)
        self.check("a disk that was replaced", self.replaced)
        self.check("a disk of another datanode", self.another_cluster)
        self.check("the units stop", self.stop)
        self.check("the units under systemd", self.under_systemd)
        self.check("the package is removed", self.removed)
        print(f"{self.passed} passed, {self.failed} failed")
        return self.failed


def package():
    found = sorted((hosts.ROOT / ".build").glob("apus_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit("there is no .build/apus_*.deb; run make deb first")
    return pathlib.Path(os.environ.get("APUS_PACKAGE", found[-1]))


if __name__ == "__main__":
    with hosts.Hosts(package()) as cluster:
        failed = Run(cluster).run()
    sys.exit(1 if failed else 0)
