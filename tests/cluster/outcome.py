"""What must hold after a run, told by programs that share no code with Trailproof."""

import json
import re

from broker import Failure
from chain import Archive
from formats import DECODER, Objects, PublicKeys, inflate, split_traces
from traffic import read


# A trace that came without a record time gets its append time in front (docs/formats.md).
STAMPED = re.compile(rb"^\{\"record_time\":\d+,")


def sent_traces(address):
    """The traces in the topic, by id: each as it was sent. Ticks and marks are not among them."""
    sent = {}
    for partition, offset, headers, value in read(address, "traces"):
        if "trailproof" in headers:
            continue
        trace_id = json.loads(value)["trace_id"]
        if trace_id in sent:
            raise Failure(f"the test itself sent {trace_id} twice: {partition}@{offset}")
        sent[trace_id] = value
    return sent


def listed(folder):
    """How many traces the digests of trackers list so far."""
    objects, count = Objects(folder), 0
    for name in objects.digests():
        digest = json.loads(inflate(name, objects.bytes(name)))
        if digest["tracker"] != "_ledger":
            count += sum(file["count"] for file in digest["log_files"])
    return count


def check_files(folder, keys, sent):
    """Each trace in exactly one file, byte for byte; every chain valid, coverage balanced."""
    archive = Archive(Objects(folder), PublicKeys.in_folder(keys))
    problems = archive.check()
    seen = {}
    for name, traces in archive.traces.items():
        for raw in traces:
            trace_id = DECODER.decode(raw.decode())["trace_id"]
            if trace_id in seen:
                problems.append(f"{trace_id} is in {seen[trace_id]} and in {name}")
            seen[trace_id] = name
            if STAMPED.sub(b"{", raw) != STAMPED.sub(b"{", sent.get(trace_id, b"")):
                problems.append(f"{name}: {trace_id} is not as it was sent")
    problems += [f"{trace_id} is in no file" for trace_id in sent if trace_id not in seen]
    if problems:
        raise Failure("\n".join(problems[:20]) + f"\n{len(problems)} problems")
    digests = sum(len(chain) for chain in archive.chains.values())
    return f"{len(seen)} traces in {len(archive.traces)} files, {digests} digests, all sound"


def wanted_notifications(sent):
    """Ids of the traces that the one rule of every account names."""
    wanted = set()
    for trace_id, value in sent.items():
        trace = json.loads(value)
        operation = (trace["service_type"], trace["resource_type"], trace["trace_name"])
        if operation == ("ECS", "server", "deleteServer"):
            wanted.add(trace_id)
    return wanted


def check_notifications(address, sent):
    """Every notification exactly once under read_committed."""
    wanted, found, problems = wanted_notifications(sent), set(), []
    for partition, offset, headers, value in read(address, "notifications"):
        trace_id = json.loads(value)["trace_id"]
        if trace_id in found:
            problems.append(f"{headers.get('ce_id')} again at {partition}@{offset}")
        found.add(trace_id)
    problems += [f"no notification of {one}" for one in sorted(wanted - found)]
    problems += [f"a notification nobody asked for: {one}" for one in sorted(found - wanted)]
    dead = read(address, "dead-letters")
    if dead:
        problems.append(f"{len(dead)} dead letters, the first: {dead[0]}")
    if problems:
        raise Failure("\n".join(problems[:20]) + f"\n{len(problems)} problems")
    return f"{len(found)} notifications, each once"


def stored(folder):
    """Name and stored bytes of every trace file."""
    objects = Objects(folder)
    return {name: objects.bytes(name) for name in objects.trace_files()}


def compare(one, other):
    """Two folders have the same trace files with the same contents."""
    first, second = stored(one), stored(other)
    problems = [f"only in one run: {name}" for name in sorted(first.keys() ^ second.keys())]
    for name in sorted(first.keys() & second.keys()):
        # The same bytes inflate to the same content; others may too.
        if first[name] == second[name]:
            continue
        texts = [inflate(name, each[name]) for each in (first, second)]
        if texts[0] != texts[1]:
            counts = [len(split_traces(name, text)) for text in texts]
            problems.append(f"{name} differs: {counts[0]} traces and {counts[1]}")
    if problems:
        raise Failure("\n".join(problems[:20]) + f"\n{len(problems)} problems")
    return f"{len(first)} files, the same in both runs"
