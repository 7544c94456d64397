"""Several hosts on one machine, for tests: network namespaces on a bridge, each with a name, an
address, a root of its own with the package installed, and disks.

Everything lives in namespaces of the test itself (network, mounts, processes): whatever happens to
it, nothing of it stays on the machine but one temporary directory, and, where hosts run systemd, the
empty control groups of a test that was killed, which the next one removes."""

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

import namespaces

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
INSIDE = "APUS_HOSTS_INSIDE"
NEEDED = ["ip", "unshare", "nsenter", "setpriv", "chroot", "dpkg", "mount"]


def enter():
    """Starts this program again in namespaces of its own, or skips it."""
    reason = enter_if_possible()
    if reason:
        namespaces.skip(reason)


def enter_if_possible():
    """Starts this program again in namespaces of its own, or returns why that cannot be. None: it is
    there."""
    return namespaces.enter_if_possible(
        INSIDE, NEEDED,
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
         "--propagation", "private"],
        "ip link add apus0 type bridge; ip link add va type veth peer name vb",
        "namespaces with bridge and veth")


def run(*command, check=True, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if check and result.returncode != 0:
        raise AssertionError(
            f"{command} ended with {result.returncode}: {result.stdout[-1500:]}{result.stderr[-1500:]}")
    return result


# Makes `$0` the root of a mount namespace, with what systemd wants to find, and becomes systemd: of
# this host's units alone, in a group of processes of its own.
BOOT = r"""
set -e
mount --make-rprivate /
cd "$0"
mkdir -p old
pivot_root . old
mount -t proc proc /proc
umount -l /old
umount -l /sys
mount -t sysfs -o ro sysfs /sys
if [ "$1" = 2 ]; then
    mount -t cgroup2 cgroup /sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd,xattr cgroup /sys/fs/cgroup/systemd
fi
umount -l /dev
mount -t tmpfs -o mode=755 dev /dev
while read name major minor; do mknod -m 666 /dev/$name c $major $minor; done <<END
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
END
mkdir /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
exec /lib/systemd/systemd --system --unit=hosts.target --show-status=no
"""


GROUP_PREFIX = "apus-"


def control_groups():
    """Which version of control groups the machine has, and the folder of those of systemd."""
    if pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return "2", pathlib.Path("/sys/fs/cgroup")
    return "1", pathlib.Path("/sys/fs/cgroup/systemd")


def remove_group(group):
    """Removes a control group with those in it, if no process is in any; whether it is gone."""
    for path in [*sorted(group.rglob("*"), reverse=True), group]:
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
    return not group.exists()


def remove_lost_groups():
    """Removes what hosts have left of which nothing runs any more: of a test that was killed. They
    are the only thing that does not go with its namespaces."""
    for group in control_groups()[1].glob(GROUP_PREFIX + "apus-hosts-*"):
        with contextlib.suppress(OSError):
            in_use = any(path.read_text() for path in group.rglob("cgroup.procs"))
            # One that is just being made has nobody in it yet.
            if not in_use and time.time() - group.stat().st_mtime > 60:
                remove_group(group)


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
        self.system = self.group = None
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
        below = [self.rig.layers / "installed" / "upper"] if self.rig.package else []
        self.rig.overlay(self.root, self.rig.layers / self.name, below)
        if self.rig.package:
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

    # With systemd, which needs a moment more than starting the roles by hand

    def boot(self):
        """Starts systemd in the host. Returns why that cannot be; nothing if it runs."""
        if not (self.root / "lib/systemd/systemd").exists():
            return "systemd is not installed"
        kind, groups = control_groups()
        self.group = groups / f"{GROUP_PREFIX}{self.rig.dir.name}-{self.name}"
        try:
            self.group.mkdir()
        except OSError as error:
            return f"no control group can be made: {error}"
        self._only_own_units()
        inner = ["unshare", "--cgroup", "--mount", "--pid", "--ipc", "--fork", "--kill-child",
                 "sh", "-c", BOOT, str(self.root), kind]
        with open(self.rig.dir / self.name / "systemd.log", "w") as log:
            self.system = subprocess.Popen(
                [*self.enter, "sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.group), *inner],
                env=self._environment({"container": "lxc"}), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)
        end = time.monotonic() + 20
        while time.monotonic() < end and self.system.poll() is None:
            children = run("pgrep", "--parent", str(self.system.pid), check=False).stdout.split()
            if children:
                self.first = children[0]
                if self.shell("systemctl is-system-running", check=False).stdout.strip() in ["running", "degraded"]:
                    return None
            time.sleep(0.1)
        return "systemd does not start: " + (self.rig.dir / self.name / "systemd.log").read_text()[-500:]

    def _only_own_units(self):
        """Takes all units away that are the machine's own business."""
        library = self.root / "usr/lib/systemd/system"
        for target in ["sysinit", "basic", "timers", "sockets", "local-fs", "multi-user"]:
            shutil.rmtree(library / f"{target}.target.wants", ignore_errors=True)
        settings = self.root / "etc/systemd/system"
        for path in settings.iterdir():
            if not path.name.startswith("apus-"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.root / "etc/fstab").write_text("")
        (settings / "hosts.target").write_text(
            "[Unit]\nDefaultDependencies=no\nRequires=dbus.service systemd-journald.service\n"
            "After=dbus.service systemd-journald.service\n")

    def shell(self, command, check=True):
        """A command line in a host that runs systemd."""
        return run("nsenter", "--target", self.first, "--mount", "--pid", "--net", "--uts", "--ipc",
                   "--root", "--wd", "sh", "-c", command, check=check, timeout=120,
                   env=self._environment(None))

    def shut_down(self):
        if self.system:
            self.system.kill()
            self.system.wait(timeout=60)
            self.system = None
        # Its processes are gone with it, a moment later.
        for _ in range(100):
            if self.group is None or remove_group(self.group):
                self.group = None
                return
            time.sleep(0.05)

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


# Ways to cut a host off: both ways, or one.
CUTS = ["no cable", "sends into the void", "hears nothing"]


def cut(host, others, kind):
    """Cuts a host off from all (`no cable`), or in one direction from `others`; returns what heals
    it."""
    healing = contextlib.ExitStack()
    if kind == "no cable":
        host.cut()
        healing.callback(host.heal)
    for other in others:
        if kind == "sends into the void":
            host.cut_towards(other)
            healing.callback(host.heal_towards, other)
        elif kind == "hears nothing":
            other.cut_towards(host)
            healing.callback(other.heal_towards, host)
    return healing


class Hosts:
    """`with Hosts(package) as hosts`: host1, host2… with the package installed in each; None: bare."""

    def __init__(self, package, count=3, disks=2, network="10.77.0"):
        self.package, self.count, self.network = package, count, network
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
        remove_lost_groups()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "apus0", "type", "bridge")
        run("ip", "address", "add", f"{self.network}.254/24", "dev", "apus0")
        run("ip", "link", "set", "apus0", "up")
        self.layers.mkdir()
        run("mount", "-t", "tmpfs", "apus-layers", str(self.layers))
        if self.package:
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
        # What the machine itself may have of an earlier installation is not the hosts'.
        for path in ["etc/apus", "var/lib/apus"]:
            if not any((layer / path).exists() for layer in below):
                shutil.rmtree(root / path, ignore_errors=True)
        for name in ["run", "tmp"]:
            run("mount", "-t", "tmpfs", "apus-" + name, str(root / name))
        (root / "tmp").chmod(0o1777)

    def _install(self):
        """Installs the package, as dpkg does, into a layer that all hosts share."""
        root = self.dir / "installing"
        self.overlay(root, self.layers / "installed", [])
        shutil.copy(self.package, root / "tmp/apus.deb")
        self.installed = run("chroot", str(root), "dpkg", "--force-unsafe-io", "-i", "/tmp/apus.deb",
                             env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}).stdout
        run("umount", "--recursive", str(root))

    def __exit__(self, *_):
        for host in self.hosts:
            for role in list(host.roles.values()):
                role.kill()
            host.shut_down()
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
