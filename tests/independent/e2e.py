#!/usr/bin/env python3
"""The main job from end to end: the real binary, checked by a program that shares no code with it.

Produces traces while the server is killed and started again, waits until digests list all of them,
checks every file, digest and answer, then tampers with copies and expects `verify` to say so.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from chain import Archive
from check import TIME_MAX_MS, check_api, check_journal, pages, read_journal
from formats import Objects, Problem, PublicKeys, inflate
from server import ACCOUNT, PROJECT, Failure, Server, poll

# Real events, where somebody has put them beside the project.
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data" / "cloudtrail"
CLOUDTRAIL = Path(os.environ.get("CLOUDTRAIL_EVENTS", BESIDE))
SERVICES = ["ECS", "IAM", "OBS", "VPC", "EVS", "RDS"]
SETTINGS = ["cycle=2s", "digest_interval=6s", "partitions=2"]


def generate(path, seed, count):
    """Traces of every spelling and of awkward content; the seed makes them repeatable."""
    chance = random.Random(seed)
    with open(path, "w", encoding="utf-8") as lines:
        for number in range(count):
            trace = {
                "trace_id": f"{seed:08x}-0000-4000-8000-{number:012x}",
                "time": 1700000000000 + number,
                "record_time": 1700000000500 + number,
                "service_type": chance.choice(SERVICES),
                "resource_type": "server",
                "trace_name": chance.choice(["createServer", "deleteServer", "listServers"]),
                chance.choice(["trace_rating", "trace_status"]): "normal",
                "trace_type": "ApiCall",
                "user": {"id": "u1", "name": "Zo\u00eb", "domain": {"id": ACCOUNT, "name": "dev"}},
                "request": chance.choice(["{}", {"deep": [{"a": None}]}, "\u0000\n],["]),
                "code": chance.choice(["200", 404]),
                "unknown_member": {"kept": [1, 2.50, 1e3]},
            }
            if chance.random() < 0.5:
                trace["domain_id"] = ACCOUNT
            escape = chance.random() < 0.5
            lines.write(json.dumps(trace, ensure_ascii=escape) + "\n")


def listed(folder):
    """How many traces the digests list so far, and how many digests the tracker has."""
    objects = Objects(folder)
    digests = [json.loads(inflate(name, objects.bytes(name))) for name in objects.digests()]
    count = sum(file["count"] for digest in digests for file in digest["log_files"])
    return count, sum(digest["tracker"] != "_ledger" for digest in digests)


def wait_until_listed(server, wanted):
    def look():
        found, digests = listed(server.data / "objects")
        if found > wanted:
            raise Failure(f"digests list {found} traces of {wanted}")
        # Three, so that one from the middle of the chain can be taken away.
        return found if found == wanted and digests >= 3 else None

    poll(f"digests list {wanted} traces", look, seconds=90)


def expect(condition, text):
    if not condition:
        raise Failure(text)


def produce_all(home, binary):
    """Runs the server through a crash and a stop; returns the ids that must be found."""
    home, sent = Path(home), {}
    first, second = home / "first.ndjson", home / "second.ndjson"
    generate(first, 1, 300)
    generate(second, 2, 200)
    with Server(binary, home, *SETTINGS) as server:
        expect(server.produce(first) == (300, 0), "300 accepted")
        server.kill()
    with Server(binary, home, *SETTINGS) as server:
        expect(server.produce(second) == (200, 0), "200 accepted")
        expect(server.produce(second) == (200, 0), "a resend is accepted again")
        sent.update(read_journal(first))
        sent.update(read_journal(second))
        total = len(sent)
        if CLOUDTRAIL.is_dir():
            total += produce_cloudtrail(server, len(sent))
        wait_until_listed(server, total)
        problems = check_api(server.url, PROJECT, sent)
        expect(not problems, "\n".join(problems[:20]))
        expect(server.terminate() == 0, "SIGTERM ends with 0")
    return sent, total


def produce_cloudtrail(server, before):
    """Real events beside the project, where they are."""
    files = sorted(CLOUDTRAIL.glob("*.json"))
    records = sum(len(json.loads(path.read_bytes())["Records"]) for path in files)
    accepted = 0
    for path in files:
        good, bad = server.produce(path, "--format", "cloudtrail")
        expect(bad == 0, f"{path.name}: {bad} rejected")
        accepted += good
    expect(accepted == records, f"{accepted} of {records} CloudTrail events accepted")
    window = {"from": 1, "to": TIME_MAX_MS}
    found = poll(
        "the API shows every CloudTrail event",
        lambda: (lambda all_of: all_of if len(all_of) == before + records else None)(
            list(pages(server.url, PROJECT, **window))
        ),
    )
    expect(len({trace["trace_id"] for trace in found}) == len(found), "ids are unique")
    print(f"e2e: {records} real CloudTrail events accepted and found again")
    return records


def check_archive(data, sent, total):
    archive = Archive(Objects(data / "objects"), PublicKeys.in_folder(data / "keys"))
    problems = archive.check() + check_journal(archive, sent)
    expect(not problems, "\n".join(problems[:20]))
    expect(archive.filed() == total, f"{archive.filed()} traces filed of {total}")
    digests = sum(len(chain) for chain in archive.chains.values())
    print(f"e2e: {total} traces in {len(archive.traces)} files of {digests} digests, all sound")


def verify(binary, objects, data):
    """`trailproof verify` on a folder: exit status and report."""
    command = [str(binary), "verify", str(objects), "--json"]
    for _, path, _ in sum(PublicKeys.in_folder(data / "keys").paths.values(), []):
        command += ["--public-key", str(path)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def flip_a_byte(root):
    path = next(path for path in sorted(root.rglob("CloudTrace_*.zst")))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    return path.name


def delete_a_digest(root):
    paths = sorted(root.glob("cts-0*/**/Digest/*.json.gz"))
    path = paths[len(paths) // 2]
    path.unlink()
    return path.name


def add_a_file(root):
    path = next(path for path in sorted(root.rglob("CloudTrace_*.zst")))
    added = path.with_name(path.name.replace(".json.zst", "")[:-4] + "beef.json.zst")
    shutil.copy(path, added)
    return added.name


def check_tampering(binary, data, home):
    status, report = verify(binary, data / "objects", data)
    expect(status == 0, f"verify of the sound archive: exit {status}\n{report[-3000:]}")
    for tamper in (flip_a_byte, delete_a_digest, add_a_file):
        copy = Path(home, tamper.__name__)
        shutil.copytree(data / "objects", copy)
        name = tamper(copy)
        status, report = verify(binary, copy, data)
        expect(status == 1, f"{tamper.__name__}: verify exits {status}\n{report[-3000:]}")
        expect(name in report, f"{tamper.__name__}: verify does not name {name}\n{report[-3000:]}")
        print(f"e2e: verify names it: {tamper.__name__.replace('_', ' ')}: {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/trailproof")
    binary = Path(parser.parse_args().binary).resolve()
    with tempfile.TemporaryDirectory(prefix="trailproof-e2e-") as home:
        data = Path(home, "data")
        try:
            sent, total = produce_all(home, binary)
            check_archive(data, sent, total)
            check_tampering(binary, data, home)
        except (Failure, Problem) as failure:
            print(f"e2e: FAILED: {failure}", file=sys.stderr)
            log = Path(home, "log")
            if log.exists():
                print("e2e: the server's log ends:", log.read_text()[-3000:], file=sys.stderr)
            return 1
    print("e2e: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
