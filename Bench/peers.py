"""The yardsticks that are servers of their own: nginx."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from measure import children


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Nginx:
    """nginx over plain HTTP on one directory: GET by sendfile, PUT by WebDAV.

    One worker a core, no access log, otherwise as it comes. A PUT goes to a temporary file on
    the same file system and is renamed; nothing is synced."""

    CONFIGURATION = """
{user}daemon off;
worker_processes auto;
error_log {root}/error.log warn;
pid {root}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 300;
    keepalive_requests 1000000;
    client_max_body_size 0;
    client_body_temp_path {root}/temp;
    proxy_temp_path {root}/unused; fastcgi_temp_path {root}/unused;
    uwsgi_temp_path {root}/unused; scgi_temp_path {root}/unused;
    server {{
        listen 127.0.0.1:{port};
        root {root}/files;
        location / {{ dav_methods PUT DELETE; }}
    }}
}}
"""

    def __init__(self):
        if shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") is None:
            raise RuntimeError("nginx is missing (Debian: nginx-light)")
        self.root = tempfile.mkdtemp(prefix="apus-nginx-", dir=os.environ.get("APUS_TEST_TMP"))
        os.chmod(self.root, 0o755)
        os.mkdir(f"{self.root}/files")
        self.port = free_port()
        user = "user root;\n" if os.getuid() == 0 else ""
        config = pathlib.Path(self.root, "nginx.conf")
        config.write_text(self.CONFIGURATION.format(root=self.root, port=self.port, user=user))
        path = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        self.process = subprocess.Popen(
            [path, "-c", str(config), "-p", self.root], stderr=subprocess.PIPE, text=True)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError("nginx: " + self.process.stderr.read()[-600:]) from None
                time.sleep(0.05)
        time.sleep(0.2)

    @property
    def processes(self):
        ids = [self.process.pid, *children(self.process.pid)]
        return {f"nginx{index}": pid for index, pid in enumerate(ids)}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)
        shutil.rmtree(self.root, ignore_errors=True)
