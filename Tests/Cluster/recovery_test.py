"""Losing the majority of OM and of SCM for good: one member of each goes on alone, and the groups grow
to three again, by the steps of docs/guides/high-availability.md."""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time

from rig import APUS, Cluster

KEYS = 200


class Run:
    def __init__(self, cluster, verbose):
        self.cluster, self.verbose = cluster, verbose

    def command(self, name, *arguments):
        """A command of the role `name` on its directory."""
        role = name.rstrip("0123456789")
        command = [APUS, role, "--config", f"{self.cluster.dir}/etc/{name}.json", *arguments]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if self.verbose:
            print(f"$ apus {role} --config etc/{name}.json {' '.join(arguments)}\n"
                  f"{found.stdout}{found.stderr}(exit {found.returncode})")
        return found

    def survey(self, name):
        """What the member has: term and index of its last entry."""
        found = self.command(name, "--recover-alone")
        assert found.returncode == 1, found
        assert "Nothing was changed" in found.stdout, found.stdout
        term, index = re.search(r"last entry:\s+term (\d+), index (\d+)", found.stdout).groups()
        return int(term), int(index)

    def path(self, name):
        return pathlib.Path(self.cluster.dir, name)

    def body(self, number):
        return f"value of {number}".encode() * 50

    def write(self, client, numbers):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: client.put_object(
                Bucket="kept", Key=f"key-{number}", Body=self.body(number)), numbers))

    def check(self, client, numbers):
        for number in numbers:
            found = client.get_object(Bucket="kept", Key=f"key-{number}")["Body"].read()
            assert found == self.body(number), number

    def until_three_vote(self, noun):
        for _ in range(300):
            rows = self.cluster.roles(noun)
            if sorted(row["id"] for row in rows if row["role"] != "learner") == [
                    f"{noun}{number}" for number in (1, 2, 3)]:
                return rows
            time.sleep(0.2)
        raise AssertionError(f"{noun}: {rows}")

    def recover(self, noun):
        """As an operator would: compares the members, goes on with the one that has most. Those that
        are lost are kept aside."""
        names = [f"{noun}{number}" for number in (1, 2, 3)]
        surveys = {name: self.survey(name) for name in names}
        best = max(names, key=surveys.get)
        for name in names:
            if name != best:
                self.path(name).rename(self.path(name + ".lost"))
        done = self.command(best, "--recover-alone", "--accept-loss")
        assert done.returncode == 0 and "only member of a new group" in done.stdout, done
        again = self.command(best, "--recover-alone", "--accept-loss")
        assert again.returncode != 0 and "only member of its group already" in again.stderr, again
        return best

    def old_member(self, noun, best):
        """A lost member that comes back with its files hears of the new group, and stops."""
        name = next(f"{noun}{number}" for number in (1, 2, 3) if f"{noun}{number}" != best)
        self.cluster.kill(name)
        self.path(name).rename(self.path(name + ".new"))
        self.path(name + ".lost").rename(self.path(name))
        child = self.cluster.restart(name, noun)
        log = self.path("log") / f"{name}.again.log"
        for _ in range(100):
            if "was given up when its majority was lost" in log.read_text():
                break
            time.sleep(0.1)
        assert "was given up when its majority was lost" in log.read_text(), log.read_text()[-2000:]
        status = self.cluster.apus("admin", "status", check=False)
        assert status.returncode != 0 and name in status.stdout, status.stdout
        if self.verbose:
            print(status.stdout)
        child.kill()
        child.wait()
        self.path(name).rename(self.path(name + ".lost"))
        self.path(name + ".new").rename(self.path(name))
        self.cluster.restart(name, noun)

    def run(self):
        client = self.cluster.client()
        client.create_bucket(Bucket="kept")
        self.write(client, range(KEYS))
        running = self.command("om1", "--recover-alone", "--accept-loss")
        assert running.returncode != 0 and "in use by another process" in running.stderr, running
        self.write(client, range(KEYS, 2 * KEYS))
        self.cluster.kill("om1")
        refused = self.command("om1", "--recover-alone", "--accept-loss")
        assert refused.returncode != 0, refused
        assert "the group has not lost its majority: om2" in refused.stderr, refused
        self.cluster.restart("om1", "om")
        self.until_three_vote("om")
        self.write(client, range(2 * KEYS, 2 * KEYS + 5))
        print("  om1 is not let go on alone while om2 and om3 are there, and starts as before")
        self.cluster.kill_all()
        best = {noun: self.recover(noun) for noun in ["om", "scm"]}
        print(f"  {best['om']} and {best['scm']} go on alone")
        began = time.monotonic()
        self.cluster.start()
        for noun in ["om", "scm"]:
            self.until_three_vote(noun)
        print(f"  three of each vote {time.monotonic() - began:.1f} s after the start")
        client = self.cluster.client()
        self.check(client, range(2 * KEYS))
        self.write(client, range(2 * KEYS, 3 * KEYS))
        for noun in ["om", "scm"]:
            self.old_member(noun, best[noun])
        self.check(client, range(3 * KEYS))
        for _ in range(150):
            status = self.cluster.apus("admin", "status", check=False)
            if status.returncode == 0:
                break
            time.sleep(0.2)
        assert status.returncode == 0, status.stdout
        print("  a lost member that came back has stopped; all keys are there; the cluster is well")


def main():
    print("the majority of OM and SCM is lost for good", flush=True)
    cluster = Cluster(options=["--oms", "3", "--scms", "3"])
    try:
        cluster.start()
        Run(cluster, "--verbose" in sys.argv).run()
        print("passed")
    finally:
        if os.environ.get("APUS_TEST_KEEP"):
            print(cluster.dir)
        cluster.destroy()


if __name__ == "__main__":
    main()
