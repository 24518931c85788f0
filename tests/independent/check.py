#!/usr/bin/env python3
"""Verifies a folder of Trailproof's objects, and what was sent against it.

Shares no code with Trailproof. Exit status: 0 all holds, 1 something does not (each named on
stdout), 2 the check could not run.
"""

import argparse
import json
import sys
import urllib.error
import urllib.parse
import urllib.request

from chain import Archive
from formats import DECODER, Objects, Problem, PublicKeys

PAGE_MAX = 200
TIME_MAX_MS = 9_999_999_999_999


def read_journal(path):
    """NDJSON of what was sent and acknowledged: trace id to trace."""
    sent = {}
    with open(path, "rb") as lines:
        for line in lines:
            if line.strip():
                trace = DECODER.decode(line.decode())
                sent[trace["trace_id"]] = trace
    return sent


def holds(stored, sent):
    """Whether a stored trace has every member of the sent one, unchanged."""
    return all(member in stored and stored[member] == value for member, value in sent.items())


def check_journal(archive, sent):
    """Each sent trace is in exactly one file of each chain, exactly once."""
    problems, seen = [], {}
    for name, traces in archive.traces.items():
        chain = archive.file_of_chain[name]
        for raw in traces:
            stored = DECODER.decode(raw.decode())
            key = (chain, stored["trace_id"])
            if key in seen:
                problems.append(f"{name}: trace {key[1]} is also in {seen[key]}")
            seen[key] = name
            if stored["trace_id"] in sent and not holds(stored, sent[stored["trace_id"]]):
                problems.append(f"{name}: trace {stored['trace_id']} is not as it was sent")
    found = {trace_id for _, trace_id in seen}
    problems += [f"trace {trace_id} is in no file" for trace_id in sent if trace_id not in found]
    return problems


def get(server, path, **query):
    url = f"{server}{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Problem(f"{url}: {error.code} {error.read().decode(errors='replace')}") from error


def pages(server, project, **query):
    """Every trace of a query, page by page, as Terraform pages."""
    marker = {}
    while True:
        answer = get(server, f"/v3/{project}/traces", limit=PAGE_MAX, **query, **marker)
        traces = answer.get("traces") or []
        yield from traces
        following = (answer.get("meta_data") or {}).get("marker")
        if not following or not traces:
            return
        marker = {"next": following}


def check_api(server, project, sent):
    """Every sent trace is found by paging once, and by its id."""
    problems, seen = [], {}
    for trace in pages(server, project, **{"from": 1, "to": TIME_MAX_MS}):
        seen[trace["trace_id"]] = seen.get(trace["trace_id"], 0) + 1
    problems += [f"API: trace {i} is paged {n} times" for i, n in seen.items() if n > 1]
    problems += [f"API: trace {i} is on no page" for i in sent if i not in seen]
    for trace_id, trace in sent.items():
        found = get(server, f"/v3/{project}/traces", trace_id=trace_id).get("traces") or []
        if [one["trace_id"] for one in found] != [trace_id]:
            problems.append(f"API: trace {trace_id} by its id: {len(found)} traces")
        elif found[0]["trace_name"] != trace["trace_name"]:
            problems.append(f"API: trace {trace_id} has another name")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects", help="folder of objects: <bucket>/<key>")
    parser.add_argument("--keys", required=True, help="folder with public keys in PEM")
    parser.add_argument("--journal", action="append", default=[], help="NDJSON that was sent")
    parser.add_argument("--server", help="also ask this server, as in http://127.0.0.1:8473")
    parser.add_argument("--project", default="00000000000000000000000000000001")
    options = parser.parse_args()
    archive = Archive(Objects(options.objects), PublicKeys.in_folder(options.keys))
    problems = archive.check()
    sent = {}
    for journal in options.journal:
        sent.update(read_journal(journal))
    if sent:
        problems += check_journal(archive, sent)
    if options.server:
        problems += check_api(options.server, options.project, sent)
    for problem in problems:
        print(problem)
    digests = sum(len(chain) for chain in archive.chains.values())
    print(
        f"{len(archive.chains)} chains, {digests} digests, {len(archive.traces)} files,"
        f" {archive.filed()} traces listed, {len(sent)} sent, {len(problems)} problems"
    )
    return 1 if problems or not digests else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, Problem) as error:
        print(f"check: {error}", file=sys.stderr)
        sys.exit(2)
