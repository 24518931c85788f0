#!/usr/bin/env python3
"""Half an hour of steady work on Kafka and S3, with what goes wrong in a month.

One partition stays idle throughout; the store hangs for five minutes, while notifications go on;
one instance runs on a small disk that is filled for a while. Memory is sampled. At the end an
independent reader compares the topic with files, digests and notifications.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from broker import Broker, Failure, poll
from instance import Instance, configuration, passphrase
from outcome import check_files, check_notifications, listed, sent_traces, wanted_notifications
from store import Store
from traffic import Traffic, read

IDLE = 7
DISK_MIB = 512


class SmallDisk:
    """A tmpfs for one instance's folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.ballast = self.folder / "ballast"

    def __enter__(self):
        self.folder.mkdir(parents=True)
        options = f"size={DISK_MIB}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def fill(self):
        with self.ballast.open("wb") as ballast:
            try:
                while True:
                    ballast.write(bytes(1 << 20))
                    ballast.flush()
            except OSError:
                pass

    def free(self):
        self.ballast.unlink()


class Memory(threading.Thread):
    """Samples the resident memory of each instance, in MiB."""

    def __init__(self, instances):
        super().__init__(daemon=True)
        self.instances, self.samples = instances, {one.name: [] for one in instances}

    def run(self):
        while True:
            for instance in self.instances:
                path = Path(f"/proc/{instance.process.pid}/status")
                try:
                    line = next(x for x in path.read_text().splitlines() if x.startswith("VmRSS"))
                except (OSError, StopIteration):
                    continue
                self.samples[instance.name].append(int(line.split()[1]) // 1024)
            time.sleep(1)

    def told(self):
        return {name: f"{max(all_of)} at most" for name, all_of in self.samples.items() if all_of}


def metric(instance, name):
    """Sum of a metric over its labels."""
    with urllib.request.urlopen(f"{instance.url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith((name + " ", name + "{")))


def pending(instances):
    return sum(metric(one, "trailproof_delivery_pending") for one in instances if one.running())


def outage(options, store, broker, instances):
    """The store hangs: files wait and show as pending, notifications go on."""
    store.pause()
    begun = time.monotonic()
    print("soak: the store hangs", flush=True)
    poll("what waits is visible", lambda: pending(instances) > 0 or None, 120)
    before = len(read(broker.address, "notifications"))
    poll("notifications go on during the outage",
         lambda: len(read(broker.address, "notifications")) > before + 20 or None, 120)
    time.sleep(max(0, options.outage - (time.monotonic() - begun)))
    most = pending(instances)
    store.resume()
    print(f"soak: the store is back; {most:.0f} effects waited", flush=True)
    poll("what waited is delivered", lambda: pending(instances) < most / 2 or None, 300)


def full_disk(options, disk, broker, sick):
    """One instance's disk is full for a while: it says so, and recovers by itself."""
    disk.fill()
    print("soak: one instance's disk is full", flush=True)
    time.sleep(options.full)
    disk.free()
    sick.wait_ready(300)
    print("soak: it has space again, and is ready", flush=True)


def settle(store, broker, folder, keys, instances):
    sent = sent_traces(broker.address)

    def look():
        store.download(folder)
        found = listed(folder)
        if found > len(sent):
            raise Failure(f"the digests list {found} traces of {len(sent)}")
        return True if found == len(sent) else None

    poll(f"the digests list {len(sent)} traces", look, 600)
    for instance in instances:
        instance.terminate()
    store.download(folder)
    print("soak:", check_files(folder, keys, sent))
    print("soak:", check_notifications(broker.address, sent))
    idle = [one for one in read(broker.address, "traces") if one[0] == IDLE]
    ticks = sum(headers.get("trailproof") == "tick" for _, _, headers, _ in idle)
    if not ticks:
        raise Failure("the idle partition has no tick")
    print(f"soak: the idle partition holds {ticks} ticks and no trace")
    if not wanted_notifications(sent):
        raise Failure("the run wanted no notification at all")


def run(options, home):
    keys, config = home / "keys", home / "trailproof.toml"
    passphrase(keys)
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    with (
        Broker(home / "kafka") as broker,
        Store(home) as store,
        SmallDisk(home / "instance-2") as disk,
    ):
        configuration(config, brokers=broker.address, group="trailproof", keys=keys,
                      cycle="60s", interval="120s", objects=store.settings())
        instances = [
            Instance(options.binary, f"instance-{n}", home, config, environment) for n in range(3)
        ]
        try:
            for instance in instances:
                instance.start()
                instance.wait_ready()
            memory = Memory(instances)
            memory.start()
            partitions = [number for number in range(8) if number != IDLE]
            count = int(options.rate * options.seconds)
            traffic = Traffic(broker.address, options.seed, count, options.rate, partitions)
            traffic.start()
            time.sleep(options.seconds * 0.15)
            outage(options, store, broker, instances)
            time.sleep(options.seconds * 0.15)
            full_disk(options, disk, broker, instances[2])
            traffic.finish()
            print(f"soak: {count} traces in {options.seconds} s; MiB resident: {memory.told()}")
            settle(store, broker, home / "objects", keys, instances)
        finally:
            for instance in instances:
                instance.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/trailproof")
    parser.add_argument("--seconds", type=int, default=1_800)
    parser.add_argument("--outage", type=int, default=300, help="seconds the store hangs")
    parser.add_argument("--full", type=int, default=60, help="seconds the disk is full")
    parser.add_argument("--rate", type=float, default=300, help="traces a second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.binary = Path(options.binary).resolve()
    home = Path(tempfile.mkdtemp(prefix="trailproof-soak-"))
    try:
        run(options, home)
    except Failure as failure:
        print(f"soak: FAILED (seed {options.seed}, left in {home}): {failure}", file=sys.stderr)
        return 1
    shutil.rmtree(home)
    print("soak: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
