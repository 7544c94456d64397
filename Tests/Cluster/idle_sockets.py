"""Sockets that say nothing, and few descriptors: nobody from outside uses up a process's descriptors.

`apus up` with all roles in one process and 256 descriptors, and 300 idle sockets to each port that it
listens on. Then S3 still answers, the command line still reaches OM, and both go on afterwards.
"""

import os
import pathlib
import resource
import socket
import sys
import time
import urllib.parse

from rig import Cluster

DESCRIPTORS = 256
SOCKETS = 300


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def ports(process):
    """The TCP ports that the process listens on."""
    mine = set()
    for name in os.listdir(f"/proc/{process.pid}/fd"):
        try:
            link = os.readlink(f"/proc/{process.pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if link.startswith("socket:["):
            mine.add(link[8:-1])
    found = set()
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in mine:
            found.add(int(fields[1].split(":")[1], 16))
    return sorted(found)


def connect(port, count):
    held = []
    for _ in range(count):
        one = socket.socket()
        one.settimeout(5)
        try:
            one.connect(("127.0.0.1", port))
        except OSError:
            one.close()
            continue
        held.append(one)
    return held


def works(cluster, what):
    """S3 and the command line, each within some tries: a connection may just give way."""
    deadline = time.monotonic() + 60
    while True:
        try:
            client = cluster.client(connect_timeout=5, read_timeout=20)
            client.put_object(Bucket="held", Key=what, Body=what.encode() * 1000)
            body = client.get_object(Bucket="held", Key=what)["Body"].read()
            assert body == what.encode() * 1000
            cluster.apus("bucket", "list", "s3v")
            return
        except Exception:
            assert cluster.process.poll() is None, "apus ended: " + cluster.tail("up.err")
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cluster = Cluster(separate=False)
    cluster.command = ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", *cluster.command]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        cluster.start()
        cluster.client().create_bucket(Bucket="held")
        works(cluster, "before")
        print("descriptors at rest:", descriptors(cluster.process), flush=True)
        s3 = urllib.parse.urlsplit(cluster.endpoint).port
        held = connect(s3, SOCKETS)
        works(cluster, "s3-held")
        print("with idle sockets to S3:", descriptors(cluster.process), flush=True)
        for one in held:
            one.close()
        for port in ports(cluster.process):
            held = connect(port, SOCKETS)
            works(cluster, f"port-{port}")
            print(f"with idle sockets to port {port}:", descriptors(cluster.process), flush=True)
            for one in held:
                one.close()
        works(cluster, "after")
        cluster.stop()
        assert "Fatal error" not in cluster.tail("up.err"), cluster.tail("up.err")
    finally:
        cluster.destroy()
    print("idle sockets: ok")


if __name__ == "__main__":
    sys.exit(main())
