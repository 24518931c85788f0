#!/usr/bin/env python3
"""The program on S3: run against moto, read back with boto3, checked, broken and verified.

Runs in the environment that .ci/venv makes of moto.txt. The server is asked for encryption with
a key; every object must have been put with it. The store is stopped for a while; what waits must
show in the metrics and arrive afterwards. What boto3 reads back must satisfy the same checks as a
folder, and `verify` must name what is changed in the bucket.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import boto3
import botocore.config
import botocore.exceptions
from e2e import SETTINGS, check_archive, expect, generate, listed
from check import read_journal
from formats import Problem, PublicKeys
from server import Failure, Server, free_port, poll

BUCKET, PREFIX = "audit", "in/here"
KEY = "arn:aws:kms:eu-test-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "moto", "AWS_SECRET_ACCESS_KEY": "no secret"}


class Moto:
    """A moto server; `with` ends it."""

    def __init__(self, home):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = Path(home, "moto.log")
        program = Path(sys.executable).with_name("moto_server")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(program), "-H", "127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        config = botocore.config.Config(
            s3={"addressing_style": "path"}, retries={"max_attempts": 1}
        )
        self.s3 = boto3.client(
            "s3", endpoint_url=self.url, region_name="eu-test-1", config=config,
            aws_access_key_id="moto", aws_secret_access_key="no secret",
        )

    def __enter__(self):
        def create():
            if self.process.poll() is not None:
                raise Failure(f"moto ended at once:\n{self.log.read_text()[-2000:]}")
            try:
                region = {"LocationConstraint": "eu-test-1"}
                self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=region)
            except botocore.exceptions.EndpointConnectionError:
                return None
            return True

        poll("moto makes a bucket", create)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def keys(self):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def copy_to(self, folder):
        """Everything in the bucket as a folder, metadata beside each object."""
        for key in self.keys():
            expect(key.startswith(f"{PREFIX}/"), f"{key} is under {PREFIX}/")
            inner = key.removeprefix(f"{PREFIX}/")
            path = Path(folder, inner)
            if inner.startswith(".tmp/") or path.exists():
                continue
            found = self.s3.get_object(Bucket=BUCKET, Key=key)
            path.parent.mkdir(parents=True, exist_ok=True)
            side = path.with_name(path.name + ".meta.json")
            side.write_text(json.dumps(found["Metadata"], sort_keys=True))
            path.write_bytes(found["Body"].read())


def metric(server, name):
    """The sum of a metric over its labels; None where it is not shown yet."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found) if found else None


def run_server(home, binary, moto, settings):
    """Produces before, during and after an outage; returns what must be found."""
    sent = {}
    names = ["before", "during", "after"]
    for number, name in enumerate(names):
        generate(Path(home, name), number + 11, 150)
        sent.update(read_journal(Path(home, name)))
    with Server(binary, home, *SETTINGS, *settings, environment=CREDENTIALS) as server:
        expect(server.produce(Path(home, "before")) == (150, 0), "150 accepted")
        objects = Path(home, "data", "objects")

        def all_listed(wanted):
            def look():
                moto.copy_to(objects)
                found, digests = listed(objects)
                expect(found <= wanted, f"digests list {found} traces of {wanted}")
                return True if found == wanted and digests >= 3 else None

            poll(f"digests list {wanted} traces", look, seconds=90)

        all_listed(150)
        os.kill(moto.process.pid, signal.SIGSTOP)
        expect(server.produce(Path(home, "during")) == (150, 0), "150 accepted, store down")
        poll("files wait", lambda: (metric(server, "trailproof_files_pending") or 0) > 0 or None)
        faults = "trailproof_object_faults_total"
        poll("faults are counted", lambda: (metric(server, faults) or 0) > 2 or None)
        os.kill(moto.process.pid, signal.SIGCONT)
        expect(server.produce(Path(home, "after")) == (150, 0), "150 accepted")
        all_listed(450)
        expect(server.terminate() == 0, "SIGTERM ends with 0")
        moto.copy_to(objects)
    print("s3: an outage delayed files and lost none")
    return sent


def check_encryption(moto):
    keys = [key for key in moto.keys() if "/.tmp/" not in key]
    for key in keys:
        head = moto.s3.head_object(Bucket=BUCKET, Key=key)
        said = (head.get("ServerSideEncryption"), head.get("SSEKMSKeyId"))
        expect(said == ("aws:kms", KEY), f"{key} is encrypted with {said}")
    expect(len(keys) > 10, f"{len(keys)} objects")
    print(f"s3: {len(keys)} objects, each put with its key")


def auditor(home):
    """The environment of one whose keys and region are in a profile of their own."""
    folder = Path(home, "auditor", ".aws")
    folder.mkdir(parents=True, exist_ok=True)
    keys = "aws_access_key_id = moto\naws_secret_access_key = no secret\n"
    Path(folder, "credentials").write_text(f"[audit]\n{keys}")
    Path(folder, "config").write_text("[profile audit]\nregion = eu-test-1\n")
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**others, "HOME": str(folder.parent), "AWS_PROFILE": "audit"}


def verify(binary, moto, keys, environment):
    """`trailproof verify s3://…`, by flags: exit status and report."""
    command = [str(binary), "verify", f"s3://{BUCKET}/{PREFIX}", "--json"]
    command += ["--endpoint", moto.url, "--path-style", "true"]
    for _, path, _ in sum(PublicKeys.in_folder(keys).paths.values(), []):
        command += ["--public-key", str(path)]
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=120, env=environment
    )
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def check_tampering(binary, moto, keys, environment):
    status, report = verify(binary, moto, keys, environment)
    expect(status == 0, f"verify of the sound bucket: exit {status}\n{report[-3000:]}")
    files = [key for key in moto.keys() if key.endswith(".json.zst")]
    digests = [key for key in moto.keys() if "/cts-0" in key and "/Digest/" in key]
    digests = [key for key in digests if key.endswith(".json.gz")]

    def change(key):
        found = moto.s3.get_object(Bucket=BUCKET, Key=key)
        content = bytearray(found["Body"].read())
        content[len(content) // 2] ^= 1
        moto.s3.put_object(
            Bucket=BUCKET, Key=key, Body=bytes(content), Metadata=found["Metadata"]
        )

    def metadata(key):
        found = moto.s3.get_object(Bucket=BUCKET, Key=key)
        changed = {**found["Metadata"], "merkle-root": "0" * 64}
        moto.s3.put_object(Bucket=BUCKET, Key=key, Body=found["Body"].read(), Metadata=changed)

    def delete(key):
        moto.s3.delete_object(Bucket=BUCKET, Key=key)

    def plant(key):
        moto.s3.put_object(Bucket=BUCKET, Key=key, Body=b"[\n{}\n]\n")

    planted = files[0].replace(".json.zst", "")[:-4] + "beef.json.zst"
    tampers = [(change, files[1]), (metadata, files[2]), (delete, files[3])]
    for tamper, key in [*tampers, (delete, digests[len(digests) // 2]), (plant, planted)]:
        before = moto.s3.get_object(Bucket=BUCKET, Key=key) if key != planted else None
        body = before["Body"].read() if before else b""
        tamper(key)
        status, report = verify(binary, moto, keys, environment)
        name = f"{tamper.__name__} {key.rsplit('/', 1)[1]}"
        expect(status == 1, f"{name}: verify exits {status}\n{report[-3000:]}")
        named = key.rsplit("/", 1)[1] in report
        expect(named, f"{name}: verify does not name it\n{report[-3000:]}")
        if before:
            own = before["Metadata"]
            moto.s3.put_object(Bucket=BUCKET, Key=key, Body=body, Metadata=own)
        else:
            moto.s3.delete_object(Bucket=BUCKET, Key=key)
        print(f"s3: verify names it: {name}")
    status, report = verify(binary, moto, keys, environment)
    expect(status == 0, f"verify of the mended bucket: exit {status}\n{report[-3000:]}")


def check_describe(binary, settings):
    command = [str(binary), "describe", "objects"]
    for setting in settings:
        command += ["--set", setting]
    environment = {**os.environ, **CREDENTIALS}
    text = subprocess.run(
        command, capture_output=True, check=True, timeout=60, env=environment
    ).stdout.decode()
    expect("conditional create" in text and "aws:kms" in text, f"describe says:\n{text}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/trailproof")
    binary = Path(parser.parse_args().binary).resolve()
    with tempfile.TemporaryDirectory(prefix="trailproof-s3-") as home:
        data = Path(home, "data")
        try:
            with Moto(home) as moto:
                settings = [
                    f"objects.url=s3://{BUCKET}/{PREFIX}", f"objects.endpoint={moto.url}",
                    "objects.region=eu-test-1", f"objects.sse_kms_key={KEY}", "objects.timeout=2s",
                ]
                sent = run_server(home, binary, moto, settings)
                check_encryption(moto)
                check_archive(data, sent, len(sent))
                check_describe(binary, settings)
                check_tampering(binary, moto, data / "keys", auditor(home))
        except (Failure, Problem) as failure:
            print(f"s3: FAILED: {failure}", file=sys.stderr)
            log = Path(home, "log")
            if log.exists():
                print("s3: the server's log ends:", log.read_text()[-3000:], file=sys.stderr)
            return 1
    print("s3: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
