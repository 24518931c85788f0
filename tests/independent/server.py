"""A running `trailproof run --dev` in a scratch folder."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

PROJECT = "00000000000000000000000000000001"
ACCOUNT = "00000000000000000000000000000002"


class Failure(Exception):
    """The check failed; the text says what was expected."""


def poll(what, look, seconds=60):
    """Looks until the answer is not None."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.1)
    raise Failure(f"not within {seconds} s: {what}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """Starts at once; `with` ends it. Its log goes to a file beside the data."""

    def __init__(self, binary, home, *settings, environment=None):
        self.binary, self.data = str(binary), Path(home, "data")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = Path(home, "log")
        command = [self.binary, "run", "--dev", "--data", str(self.data)]
        command += ["--listen", f"127.0.0.1:{self.port}"]
        for setting in settings:
            command += ["--set", setting]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self):
        try:
            poll("the server answers /readyz", self._ready)
        except Failure:
            self.process.kill()
            raise Failure(f"the server did not start:\n{self.log.read_text()[-3000:]}") from None
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _ready(self):
        if self.process.poll() is not None:
            raise Failure(f"exit {self.process.returncode}")
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return answer.status
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def terminate(self):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def kill(self):
        """SIGKILL, as a crash."""
        self.process.kill()
        self.process.wait()

    def command(self, *arguments, expect=0):
        """Runs another trailproof command; its stdout."""
        done = subprocess.run(
            [self.binary, *map(str, arguments)],
            stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120,
        )
        text = done.stdout.decode(errors="replace")
        if expect is not None and done.returncode != expect:
            said = done.stderr.decode(errors="replace")
            raise Failure(
                f"{' '.join(map(str, arguments))}: exit {done.returncode}, expected {expect}\n"
                f"{text[-2000:]}\n{said[-2000:]}"
            )
        return text

    def produce(self, path, *options):
        """Sends a file; how many were accepted and rejected."""
        text = self.command("produce", "--server", self.url, "--json", *options, path)
        answer = json.loads(text)
        return answer["accepted"], answer["rejected"]
