#!/usr/bin/env python3
"""Runs the README tour: each console block under `<!-- run -->`, in one shell and scratch folder.

Lines that begin with `$ ` are commands; the others must appear in what they print, in order, where
`…` stands for anything.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from server import free_port

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"<!-- run -->\n```console\n(.*?)```", re.DOTALL)
PORT = "8473"


def steps(text):
    """Commands, each with the lines it should print."""
    found = []
    for block in BLOCK.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def pattern(line):
    return ".*".join(re.escape(part) for part in line.split("\u2026"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/trailproof")
    binary = Path(parser.parse_args().binary).resolve()
    tour = steps(README.read_text(encoding="utf-8"))
    if len(tour) < 8:
        print(f"tour: README.md has only {len(tour)} commands", file=sys.stderr)
        return 1
    port = str(free_port())
    script = [f"PATH={binary.parent}:$PATH", "set -m", "trap 'kill %1 2>/dev/null' EXIT"]
    for number, (command, _) in enumerate(tour):
        script.append(f"echo; echo '@@ {number}'")
        script.append(command.replace(PORT, port))
        script.append(f"status=$?; [ $status -eq 0 ] || {{ echo '@@ failed '$status; exit 1; }}")
    with tempfile.TemporaryDirectory(prefix="trailproof-tour-") as home:
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)], cwd=home, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300,
        )
        log = Path(home, "server.log")
        server_log = log.read_text() if log.exists() else ""
    said = done.stdout.decode(errors="replace")
    problems = []
    parts = re.split(r"^@@ (\d+)\n", said, flags=re.MULTILINE)
    printed = {int(parts[at]): parts[at + 1] for at in range(1, len(parts), 2)}
    for number, (command, expected) in enumerate(tour):
        wanted = ".*".join(pattern(line) for line in expected)
        if number not in printed:
            problems.append(f"not reached: {command}")
        elif "@@ failed" in printed[number]:
            problems.append(f"failed: {command}\n{printed[number]}")
        elif not re.search(wanted, printed[number], re.DOTALL):
            problems.append(f"{command}\n expected {expected}\n printed {printed[number][:2000]}")
    for problem in problems:
        print(f"tour: {problem}", file=sys.stderr)
    if problems:
        print(f"tour: the server's log ends:\n{server_log[-2000:]}", file=sys.stderr)
        return 1
    print(f"tour: {len(tour)} commands of README.md do what it says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
