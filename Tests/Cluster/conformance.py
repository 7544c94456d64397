#!/usr/bin/env python3
"""Runs the S3 conformance checks of Tests/Conformance against a cluster of its own."""

import configparser
import json
import os
import pathlib
import subprocess
import sys

from rig import Cluster

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "Conformance" / "s3_conformance.py"


def main():
    cluster = Cluster(separate=False)
    try:
        cluster.start()
        second = json.loads(cluster.apus("user", "create", "second", "--json").stdout)
        access, secret = cluster.keys()
        parser = configparser.ConfigParser(interpolation=None)
        parser["default"] = {"aws_access_key_id": access, "aws_secret_access_key": secret}
        parser["second"] = {
            "aws_access_key_id": second["accessKeyID"],
            "aws_secret_access_key": second["secretAccessKey"]}
        first = json.loads(cluster.apus("user", "create", "first", "--json").stdout)
        # The administrator may do everything, so ownership is tried with two plain users.
        parser["default"] = {
            "aws_access_key_id": first["accessKeyID"],
            "aws_secret_access_key": first["secretAccessKey"]}
        path = pathlib.Path(cluster.dir, "users")
        with open(path, "w") as file:
            parser.write(file)
        environment = dict(
            cluster.environment(), APUS_S3_ENDPOINT=cluster.endpoint, APUS_S3_CREDENTIALS=str(path))
        return subprocess.run([sys.executable, str(SCRIPT), *sys.argv[1:]], env=environment).returncode
    finally:
        cluster.destroy()


if __name__ == "__main__":
    sys.exit(main())
