"""File systems of their own for directories of a cluster, on loop devices, and what befalls disks.

Whoever mounts does so in a mount namespace of its own: what is left goes with it, and the loop
devices with their mounts."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import time

# Room for a log's segments and tables, and little enough to be filled at once.
IMAGE = 768 << 20

# FS_IOC_SHUTDOWN, _IOR('X', 125, __u32): that of ext4 (EXT4_IOC_SHUTDOWN), XFS (XFS_IOC_GOINGDOWN)
# and F2FS. The argument: what was not written out is lost, the journal included.
SHUTDOWN = 0x8004587D
WITHOUT_FLUSH = 2

KINDS = ["ext4", "xfs"]


def kinds():
    """The file systems that this machine makes and mounts."""
    known = {line.split()[-1] for line in open("/proc/filesystems")}
    return [kind for kind in KINDS if kind in known and shutil.which(f"mkfs.{kind}")]


class Disk:
    """A file system for a directory, made of a sparse image beside it."""

    def __init__(self, path, size=IMAGE, kind="ext4"):
        self.path = pathlib.Path(path)
        self.size, self.kind = size, kind
        self.image = self.path.parent / f"{self.path.name}.image"
        self.filler = self.path / "filler"
        self.guard = None
        self.throttle = None
        self.path.mkdir(parents=True, exist_ok=True)
        self.make()
        self.mount()

    def make(self):
        """An empty file system, on a disk that holds nothing else."""
        self.image.unlink(missing_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(self.size)
        options = ["-q", "-m", "0"] if self.kind == "ext4" else ["-q"]
        subprocess.run([f"mkfs.{self.kind}", *options, str(self.image)], check=True,
                       timeout=60)

    def mount(self):
        found = subprocess.run(
            ["mount", "-t", self.kind, "-o", "loop", str(self.image), str(self.path)],
            capture_output=True, text=True, timeout=60, check=False)
        assert found.returncode == 0, f"{self.path} cannot be mounted: {found.stderr.strip()}"

    def unmount(self, seconds=5):
        """Whether it is not mounted any more: what a process still holds stays until that ends."""
        self.thaw()
        self.unthrottle()
        end = time.monotonic() + seconds
        while os.path.ismount(self.path):
            if subprocess.run(["umount", str(self.path)], capture_output=True,
                              check=False).returncode == 0:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def expect_mounted(self):
        """Else it would befall the disk of the machine itself."""
        assert os.path.ismount(self.path), f"{self.path} is not mounted"

    def vanish(self):
        """Is not there any more under its path, for whoever looks: `umount -l`. What is open stays so."""
        self.thaw()
        self.expect_mounted()
        subprocess.run(["umount", "-l", str(self.path)], check=True, timeout=60)

    # Full

    def fill(self, but=0):
        """Takes all room there is but so many bytes, to the last block where it is all, for as long
        as `free` is not called."""
        self.expect_mounted()
        with open(self.filler, "wb") as filler:
            if but:
                room = os.statvfs(self.path)
                os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_frsize - but)
                return
            for piece in [64 << 20, 1 << 20, 4096]:
                end = filler.seek(0, os.SEEK_END)
                while True:
                    try:
                        os.posix_fallocate(filler.fileno(), end, piece)
                    except OSError:
                        break
                    end += piece
        self.top_up()

    def top_up(self):
        """Takes what was freed since: segments of the log that went back."""
        with open(self.filler, "ab") as filler:
            while True:
                try:
                    end = filler.seek(0, os.SEEK_END)
                    os.posix_fallocate(filler.fileno(), end, 4096)
                except OSError:
                    return

    def free(self):
        # On a file system that went down meanwhile nothing can be removed, nor has to be.
        with contextlib.suppress(OSError):
            self.filler.unlink(missing_ok=True)

    # Hangs

    def freeze(self, seconds):
        """Hangs for so long. It goes on even if this process dies, else nothing that waits for the
        disk could ever be ended."""
        self.expect_mounted()
        self.guard = subprocess.Popen(
            ["sh", "-c", 'fsfreeze -f "$0" && sleep "$1"; fsfreeze -u "$0"', str(self.path),
             str(seconds)], start_new_session=True, stderr=subprocess.DEVNULL)

    def thaw(self):
        if self.guard:
            self.guard.wait()
            self.guard = None

    # Fails

    def shut_down(self):
        """As if its power had been cut: nothing more is written out, and every call fails with EIO.
        Mounted again it has what had been synced."""
        self.expect_mounted()
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(descriptor)

    def refuse_writes(self):
        """As after an error of its metadata: read-only from now on, EROFS for who writes."""
        self.expect_mounted()
        found = subprocess.run(["mount", "-o", "remount,abort", str(self.path)],
                               capture_output=True, text=True, timeout=60, check=False)
        if found.returncode != 0:
            raise OSError(errno.EOPNOTSUPP, f"remount,abort: {found.stderr.strip()}")

    def cut_short(self, share, for_good=False):
        """Loses the end of the device. It has to be made anew then.

        `for_good`: the device ends there, EIO for who reads or writes beyond. Otherwise whoever
        writes beyond it makes it as long as it was: EIO until then, zeros afterwards."""
        os.truncate(self.image, int(self.size * share) // 4096 * 4096)
        if for_good:
            found = subprocess.run(["losetup", "--noheadings", "--output", "NAME", "--associated",
                                    str(self.image)], capture_output=True, text=True, check=True)
            subprocess.run(["losetup", "--set-capacity", found.stdout.strip()], check=True)

    # Slow

    def device(self):
        """MAJOR:MINOR of its loop device."""
        number = os.stat(self.path).st_dev
        return f"{os.major(number)}:{os.minor(number)}"

    def slow_down(self, pid, bytes_per_second, operations_per_second):
        """Has what a process reads and writes there wait, until `unthrottle`."""
        self.throttle = Throttle(pid, self.device(), bytes_per_second, operations_per_second)

    def unthrottle(self):
        if self.throttle:
            self.throttle.end()
            self.throttle = None


class Throttle:
    """A control group in which a process has a slow disk. Version 1 (blkio) or 2 (io), whichever the
    machine has."""

    PREFIX = "apus-throttle-"

    @classmethod
    def folder(cls):
        """Where such groups are made; None where they cannot be."""
        for path in ["/sys/fs/cgroup/blkio", "/sys/fs/cgroup"]:
            folder = pathlib.Path(path)
            if (folder / "blkio.throttle.read_bps_device").exists():
                return folder
            with contextlib.suppress(OSError):
                if "io" in (folder / "cgroup.subtree_control").read_text().split():
                    return folder
        return None

    @classmethod
    def remove_lost(cls):
        """Removes the groups of tests that were killed: no process is in them."""
        folder = cls.folder()
        for group in folder.glob(cls.PREFIX + "*") if folder else []:
            with contextlib.suppress(OSError):
                group.rmdir()

    def __init__(self, pid, device, bytes_per_second, operations_per_second):
        folder = self.folder()
        self.group = folder / f"{self.PREFIX}{os.getpid()}-{time.monotonic_ns()}"
        self.group.mkdir()
        try:
            self._limit(device, bytes_per_second, operations_per_second)
            self.home = folder / "cgroup.procs"
            (self.group / "cgroup.procs").write_text(str(pid))
        except OSError:
            self.group.rmdir()
            raise

    def _limit(self, device, rate, operations):
        if (self.group / "io.max").exists():
            (self.group / "io.max").write_text(
                f"{device} rbps={rate} wbps={rate} riops={operations} wiops={operations}")
            return
        for name, limit in [("bps", rate), ("iops", operations)]:
            for way in ["read", "write"]:
                (self.group / f"blkio.throttle.{way}_{name}_device").write_text(
                    f"{device} {limit}")

    def end(self):
        for pid in (self.group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                self.home.write_text(pid)
        # One that has just been killed is in it for a moment more.
        for _ in range(100):
            with contextlib.suppress(OSError):
                self.group.rmdir()
                return
            time.sleep(0.05)
