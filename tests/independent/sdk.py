#!/usr/bin/env python3
"""Huawei's own SDK against the real program, where the SDK is installed; else it says so.

The SDK is no requirement of the project: pip install huaweicloudsdkcts to have this run.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from server import PROJECT, Failure, Server

SCRIPT = Path(__file__).resolve().parents[1] / "sdk" / "list_traces.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/trailproof")
    binary = Path(parser.parse_args().binary).resolve()
    if importlib.util.find_spec("huaweicloudsdkcts") is None:
        print("sdk: NOT RUN: huaweicloudsdkcts is not installed (pip install huaweicloudsdkcts)")
        return 0
    try:
        with tempfile.TemporaryDirectory() as home, Server(binary, home) as server:
            command = [sys.executable, str(SCRIPT), server.url, PROJECT]
            return subprocess.run(command, check=False, timeout=120).returncode
    except Failure as failure:
        print(f"sdk: FAILED: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
