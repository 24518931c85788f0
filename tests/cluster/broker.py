"""A real Apache Kafka broker in a scratch folder, by `.ci/kafka`; it survives kill -9."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/independent"))

from confluent_kafka import KafkaException  # noqa: E402
from confluent_kafka.admin import AdminClient  # noqa: E402
from server import Failure, free_port, poll  # noqa: E402


class Broker:
    """Starts with `with`, which also ends it; killed, it can be started again on its folder."""

    def __init__(self, home):
        self.home = Path(home)
        self.port, self.controller = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [str(ROOT / ".ci/kafka"), "run", str(self.home), str(self.port), str(self.controller)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )
        poll("the broker answers", self._answers, seconds=120)

    def _answers(self):
        if self.process.poll() is not None:
            raise Failure(f"the broker ended with {self.process.returncode}")
        try:
            client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
            return True if client.list_topics(timeout=2).brokers else None
        except KafkaException:
            return None

    def kill(self):
        """SIGKILL, as a crash; the script that watches over it then ends by itself."""
        os.kill(int((self.home / "pid").read_text()), signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process is not None and self.process.poll() is None:
            self.kill()
