"""Several hosts on one machine, for tests: network namespaces on a bridge, each with a name, an
address, a root of its own with the package installed, and disks.

Everything lives in namespaces of the test itself (network, mounts, processes): whatever happens to
it, nothing of it stays on the machine but one temporary directory."""

import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
INSIDE = "APUS_HOSTS_INSIDE"
NEEDED = ["ip", "unshare", "nsenter", "setpriv", "chroot", "dpkg", "mount"]


def enter():
    """Starts this program again in namespaces of its own. Where that cannot be, says why and ends
    with 0: the tests are skipped, not failed."""
    if os.environ.get(INSIDE):
        return
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if not shutil.which(name)]
    if os.geteuid() != 0:
        skip("it needs root, for namespaces")
    if missing:
        skip("it needs " + " ".join(missing))
    wrapper = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL",
               "--mount-proc", "--propagation", "private"]
    trial = subprocess.run([*wrapper, "sh", "-c",
                            "ip link add apus0 type bridge && ip link add va type veth peer name vb"],
                           capture_output=True, text=True)
    if trial.returncode != 0:
        skip("namespaces with bridge and veth cannot be had: " + trial.stderr.strip())
    os.environ[INSIDE] = "1"
    code = subprocess.run([*wrapper, sys.executable, *sys.argv]).returncode
    sys.exit(code)


def skip(reason):
    print(f"SKIPPED {pathlib.Path(sys.argv[0]).name}: {reason}")
    sys.exit(0)


def run(*command, check=True, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if check and result.returncode != 0:
        raise AssertionError(
            f"{command} ended with {result.returncode}: {result.stdout[-1500:]}{result.stderr[-1500:]}")
    return result


class Role:
    """A process that a unit describes, started as systemd would start it."""

    def __init__(self, host, unit, process, notify):
        self.host, self.unit, self.process, self.notify = host, unit, process, notify
        self.told = []

    def listen(self, seconds):
        """Takes what the process tells its manager, for so long at most; returns the lines."""
        self.notify.settimeout(max(seconds, 0.001))
        with contextlib.suppress(socket.timeout):
            self.told += self.notify.recv(4096).decode().split("\n")
        return self.told

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while "READY=1" not in self.told:
            assert self.process.poll() is None, \
                f"{self.unit} on {self.host.name} ended: {self.host.log(self.unit)[-1500:]}"
            assert time.monotonic() < end, \
                f"{self.unit} on {self.host.name} is not ready: {self.told} {self.host.log(self.unit)[-1500:]}"
            self.listen(0.2)
        return self

    def stop(self):
        """As systemctl stop. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < end, f"{self.unit} on {self.host.name} does not end"
            self.listen(0.1)
        code = self.process.returncode
        told = None
        while told != len(self.told):
            told = len(self.told)
            self.listen(0.05)
        self.host.roles.pop(self.unit, None)
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.host.roles.pop(self.unit, None)


class Host:
    def __init__(self, rig, number, disks):
        self.rig, self.number, self.name = rig, number, f"host{number}"
        self.address = f"{rig.network}.{number}"
        self.root = rig.dir / self.name / "root"
        self.link = f"veth{number}"
        self.roles = {}
        # Its namespaces live as long as this process.
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", "echo up; exec sleep infinity"],
            stdout=subprocess.PIPE, text=True)
        self.holder.stdout.readline()
        self.enter = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net",
                      f"--uts=/proc/{self.holder.pid}/ns/uts"]
        self._connect()
        self._make_root(disks)

    def _connect(self):
        pid = str(self.holder.pid)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", self.link, "master", "apus0", "up")
        run(*self.enter, "hostname", self.name)
        run(*self.enter, "ip", "link", "set", "lo", "up")
        run(*self.enter, "ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        run(*self.enter, "ip", "link", "set", "eth0", "up")

    def _make_root(self, disks):
        self.rig.overlay(self.root, self.rig.layers / self.name, [self.rig.layers / "installed" / "upper"])
        self.mount(self.rig.dir / self.name / "apus", "/var/lib/apus")
        self.disks = [f"/disks/{index + 1}" for index in range(disks)]
        for path in self.disks:
            self.mount(self.disk(path), path)
        hosts = "127.0.0.1 localhost\n"
        for index in range(1, self.rig.count + 1):
            hosts += f"{self.rig.network}.{index} host{index}\n"
        (self.root / "etc/hosts").write_text(hosts)
        (self.root / "etc/hostname").write_text(self.name + "\n")

    def disk(self, path):
        """Where the bytes of a disk of this host really lie."""
        return self.rig.dir / self.name / path.strip("/").replace("/", "-")

    def mount(self, source, path):
        target = self.root / path.lstrip("/")
        if not source.exists():
            source.mkdir(parents=True)
            if path == "/var/lib/apus":
                owner = target.stat()
                os.chown(source, owner.st_uid, owner.st_gid)
                source.chmod(0o750)
        target.mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", str(source), str(target))

    def unmount(self, path):
        run("umount", str(self.root / path.lstrip("/")))

    # Commands and roles

    def run(self, *command, check=True, user=None, environment=None, **options):
        """A command in the host; `user`: as whom, else as root."""
        options.setdefault("timeout", 120)
        return run(*self._command(command, user), check=check, env=self._environment(environment),
                   **options)

    def begin(self, *command, **options):
        """A command in the host that goes on meanwhile."""
        return subprocess.Popen(self._command(command, None), env=self._environment(None),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)

    def apus(self, *arguments, **options):
        return self.run("/usr/bin/apus", *arguments, **options)

    def _command(self, command, user):
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        return [*self.enter, "chroot", str(self.root), *as_user, *command]

    def _environment(self, more):
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
        return {**clean, **(more or {})}

    def unit(self, name):
        """What a unit says: each setting with its last value, `%i` replaced."""
        template = re.sub("@.*", "@", name)
        instance = name.partition("@")[2]
        text = (self.root / f"usr/lib/systemd/system/{template}.service").read_text()
        settings = dict(line.split("=", 1) for line in text.splitlines()
                        if "=" in line and not line.startswith("#"))
        return {key: value.replace("%i", instance) for key, value in settings.items()}

    def start(self, name, wait=True):
        """Starts a unit as systemd would: its command, user and limits, with a socket for its
        notifications, which tell when it is ready."""
        unit = self.unit(name)
        path = f"run/notify-{name}"
        with contextlib.suppress(FileNotFoundError):
            (self.root / path).unlink()
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # A path of at most 107 bytes.
        notify.bind(f"/proc/self/fd/{self._folder(notify)}/notify-{name}")
        (self.root / path).chmod(0o666)
        # Within what this process may give: root in a container may not raise its own.
        files = min(int(unit["LimitNOFILE"]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        command = ["prlimit", f"--nofile={files}", "setpriv", f"--reuid={unit['User']}",
                   f"--regid={unit['Group']}", "--init-groups", "--no-new-privs",
                   *unit["ExecStart"].split()]
        environment = self._environment(
            {"NOTIFY_SOCKET": "/" + path, "WATCHDOG_USEC": "2000000"})
        with open(self.rig.dir / self.name / f"{name}.log", "a") as log:
            process = subprocess.Popen(
                self._command(command, None), env=environment, stdout=log, stderr=log)
        role = Role(self, name, process, notify)
        self.roles[name] = role
        return role.wait_ready() if wait else role

    def _folder(self, _):
        if not hasattr(self, "_run_folder"):
            self._run_folder = os.open(self.root / "run", os.O_RDONLY | os.O_DIRECTORY)
        return self._run_folder

    def log(self, unit):
        path = self.rig.dir / self.name / f"{unit}.log"
        return path.read_text() if path.exists() else ""

    # The network

    def cut(self):
        """Takes the host's cable out."""
        run("ip", "link", "set", self.link, "down")

    def heal(self):
        run("ip", "link", "set", self.link, "up")
        run(*self.enter, "ip", "neigh", "flush", "all", check=False)

    def cut_towards(self, other):
        """What this host sends to `other` gets lost; what comes from there arrives."""
        run(*self.enter, "ip", "neigh", "replace", other.address, "lladdr", "02:00:00:00:00:01",
            "dev", "eth0", "nud", "permanent")

    def heal_towards(self, other):
        run(*self.enter, "ip", "neigh", "del", other.address, "dev", "eth0")

    def delay(self, milliseconds):
        """Delays what the host sends; 0 ends it. False where the kernel has no netem."""
        if milliseconds == 0:
            return run(*self.enter, "tc", "qdisc", "del", "dev", "eth0", "root", check=False).returncode == 0
        return run(*self.enter, "tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "delay",
                   f"{milliseconds}ms", check=False).returncode == 0


class Hosts:
    """`with Hosts(package) as hosts`: host1, host2… with the package installed in each."""

    def __init__(self, package, count=3, disks=2, network="10.77.0"):
        self.package, self.count, self.network = pathlib.Path(package), count, network
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="apus-hosts-", dir=os.environ.get("APUS_TEST_TMP")))
        # What differs from the machine's own root: no layer may lie below that.
        self.layers = self.dir / "layers"
        self.disks = disks
        self.hosts = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _start(self):
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "apus0", "type", "bridge")
        run("ip", "address", "add", f"{self.network}.254/24", "dev", "apus0")
        run("ip", "link", "set", "apus0", "up")
        self.layers.mkdir()
        run("mount", "-t", "tmpfs", "apus-layers", str(self.layers))
        self._install()
        for number in range(1, self.count + 1):
            self.hosts.append(Host(self, number, self.disks))

    def overlay(self, root, layer, below):
        """Mounts a root whose changes go to `layer`."""
        upper, work = layer / "upper", layer / "work"
        for path in [root, upper, work]:
            path.mkdir(parents=True)
        lower = ":".join([*map(str, below), "/"])
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir={lower},upperdir={upper},workdir={work}", str(root))
        for name, options in [("proc", ["--rbind"]), ("dev", ["--rbind"]), ("sys", ["--rbind"])]:
            run("mount", *options, f"/{name}", str(root / name))
        for name in ["run", "tmp"]:
            run("mount", "-t", "tmpfs", "apus-" + name, str(root / name))
        (root / "tmp").chmod(0o1777)

    def _install(self):
        """Installs the package, as dpkg does, into a layer that all hosts share."""
        root = self.dir / "installing"
        self.overlay(root, self.layers / "installed", [])
        # What the machine itself may have of an earlier installation is not the hosts'.
        for path in ["etc/apus", "var/lib/apus"]:
            shutil.rmtree(root / path, ignore_errors=True)
        shutil.copy(self.package, root / "tmp/apus.deb")
        self.installed = run("chroot", str(root), "dpkg", "--force-unsafe-io", "-i", "/tmp/apus.deb",
                             env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}).stdout
        run("umount", "--recursive", str(root))

    def __exit__(self, *_):
        for host in self.hosts:
            for role in list(host.roles.values()):
                role.kill()
            host.holder.kill()
            host.holder.wait()
        for path in [*(host.root for host in self.hosts), self.dir / "installing", self.layers]:
            subprocess.run(["umount", "--recursive", "--lazy", str(path)], capture_output=True)
        mounted = any(str(self.dir) in line for line in open("/proc/self/mounts"))
        if not os.environ.get("APUS_TEST_KEEP") and not mounted:
            shutil.rmtree(self.dir, ignore_errors=True)

    def __getitem__(self, number):
        """host1 is number 1."""
        return self.hosts[number - 1]

    def __iter__(self):
        return iter(self.hosts)
