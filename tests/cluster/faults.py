#!/usr/bin/env python3
"""Exactly once on a real Kafka, whatever happens to instances and broker.

Traces flow into eight partitions while instances of one group are killed, paused beyond their
session, added and removed, and the broker is killed. Afterwards an independent reader compares the
topic with files, digests and notifications; then a group of its own does the same job without
faults, and the files must be the same.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from broker import Broker, Failure, poll
from instance import ACCOUNTS, Instance, configuration, passphrase
from outcome import check_files, check_notifications, compare, listed, sent_traces, stored
from traffic import Traffic

PAUSE_S = 12  # beyond the session (6 s) and the transaction (10 s)


class Cluster:
    """Instances of one group, and what was done to them."""

    def __init__(self, binary, home, config, chance):
        self.binary, self.home, self.config, self.chance = binary, home, config, chance
        self.instances, self.retired, self.made = [], [], 0
        self.done = {}

    def add(self):
        """A new instance: on an empty folder, or on one that an earlier instance left."""
        if self.retired and self.chance.random() < 0.5:
            instance = self.retired.pop()
        else:
            instance = Instance(self.binary, f"instance-{self.made}", self.home, self.config)
            self.made += 1
        instance.start()
        self.instances.append(instance)
        return instance

    def one(self):
        return self.chance.choice(self.instances)

    def kill(self):
        instance = self.one()
        instance.kill()
        time.sleep(self.chance.uniform(0.2, 3))
        instance.start()

    def pause(self):
        instance = self.one()
        instance.pause()
        time.sleep(PAUSE_S)
        instance.resume()

    def remove(self):
        instance = self.one()
        # Before it serves, SIGTERM ends it as it ends any process.
        instance.wait_ready()
        self.instances.remove(instance)
        instance.terminate()
        self.retired.append(instance)

    def count(self, fault):
        self.done[fault] = self.done.get(fault, 0) + 1

    def end(self):
        for instance in self.instances:
            instance.end()


def inject(cluster, broker, each, broker_kills, traffic):
    """Every fault as often as wanted, in random order, with work in between."""
    chance = cluster.chance
    faults = ["kill"] * each + ["pause"] * each + ["change"] * each + ["broker"] * broker_kills
    chance.shuffle(faults)
    for number, fault in enumerate(faults):
        if fault == "broker":
            broker.kill()
            time.sleep(chance.uniform(0.5, 5))
            broker.start()
            cluster.count("broker killed")
        elif fault == "change":
            # One comes, one goes, in either order.
            for step in chance.sample(["add", "remove"], 2):
                getattr(cluster, step)()
                cluster.count(f"instance {'added' if step == 'add' else 'removed'}")
        else:
            getattr(cluster, fault)()
            cluster.count(f"instance {fault}{'ed' if fault == 'kill' else 'd'}")
        for instance in cluster.instances:
            if not instance.supervise():
                said = instance.log.read_text(errors="replace")[-3000:]
                raise Failure(f"{instance.name} ended by itself after {fault}:\n{said}")
        time.sleep(chance.uniform(0.5, 4))
        sent = traffic.acknowledged
        print(f"faults: {number + 1}/{len(faults)} {fault}; {sent} sent", flush=True)


def wait_until_listed(folder, wanted, seconds):
    def look():
        found = listed(folder) if Path(folder).exists() else 0
        if found > wanted:
            raise Failure(f"the digests list {found} traces of {wanted}")
        return True if found == wanted else None

    poll(f"the digests list {wanted} traces", look, seconds)


def produce_cloudtrail(cluster, folder):
    """Real events, where somebody has them: through an instance's own HTTP endpoint."""
    total = 0
    for path in sorted(Path(folder).glob("*.json")):
        instance = cluster.one()
        done = subprocess.run(
            [instance.binary, "produce", "--server", instance.url, "--json",
             "--format", "cloudtrail", "--account", ACCOUNTS[0], str(path)],
            capture_output=True, check=False, timeout=120, text=True,
        )
        if done.returncode != 0:
            raise Failure(f"{path.name}: {done.stdout}{done.stderr}")
        total += 1
    print(f"faults: {total} files of real events produced")


def settle(cluster, broker, objects, keys, seconds):
    """Waits until everything is filed and listed; then what was sent must be what there is."""
    for instance in cluster.instances:
        instance.wait_ready()
    sent = sent_traces(broker.address)
    begun = time.monotonic()
    wait_until_listed(objects, len(sent), seconds)
    print(f"faults: all listed {time.monotonic() - begun:.0f} s after the last fault")
    for instance in cluster.instances:
        instance.terminate()
    print("faults:", check_files(objects, keys, sent))
    print("faults:", check_notifications(broker.address, sent))
    return sent


def undisturbed(options, home, broker, sent, objects, keys):
    """The same topic, another group on empty folders, no faults: the same files."""
    again, config = home / "again", home / "again.toml"
    configuration(config, brokers=broker.address, group="again", keys=keys,
                  objects=f'url = "file://{again}"')
    cluster = Cluster(options.binary, home, config, random.Random(0))
    try:
        for _ in range(3):
            instance = Instance(options.binary, f"again-{cluster.made}", home, config)
            cluster.made += 1
            instance.start()
            cluster.instances.append(instance)
        wanted = len(stored(objects))
        poll("the undisturbed group has written as many files",
             lambda: True if again.exists() and len(stored(again)) >= wanted else None, 600)
        print("faults:", compare(objects, again))
    finally:
        cluster.end()


def run(options, home):
    objects, keys, config = home / "objects", home / "keys", home / "trailproof.toml"
    chance = random.Random(options.seed)
    passphrase(keys)
    with Broker(home / "kafka") as broker:
        configuration(config, brokers=broker.address, group="trailproof", keys=keys,
                      objects=f'url = "file://{objects}"')
        cluster = Cluster(options.binary, home, config, chance)
        try:
            cluster.add().wait_ready()
            for _ in range(2):
                cluster.add()
            for instance in cluster.instances:
                instance.wait_ready()
            if options.cloudtrail:
                produce_cloudtrail(cluster, options.cloudtrail)
            traffic = Traffic(broker.address, options.seed, options.traces, options.rate,
                              list(range(8)))
            traffic.start()
            inject(cluster, broker, options.faults, options.broker_kills, traffic)
            traffic.finish()
            print(f"faults: done {cluster.done}")
            sent = settle(cluster, broker, objects, keys, 600)
        finally:
            cluster.end()
        undisturbed(options, home, broker, sent, objects, keys)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/trailproof")
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=250, help="traces a second")
    parser.add_argument("--faults", type=int, default=10, help="of each kind")
    parser.add_argument("--broker-kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cloudtrail", help="folder of CloudTrail files to produce first")
    parser.add_argument("--keep", help="folder to work in, kept afterwards")
    options = parser.parse_args()
    options.binary = Path(options.binary).resolve()
    home = Path(options.keep or tempfile.mkdtemp(prefix="trailproof-faults-"))
    home.mkdir(parents=True, exist_ok=True)
    try:
        run(options, home)
    except Failure as failure:
        print(f"faults: FAILED (seed {options.seed}, left in {home}): {failure}", file=sys.stderr)
        return 1
    if not options.keep:
        shutil.rmtree(home)
    print("faults: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
