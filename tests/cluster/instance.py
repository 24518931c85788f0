"""Instances of `trailproof run` that share a Kafka broker, a store and the signing keys."""

import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from broker import Failure, free_port, poll

ACCOUNTS = [f"{number:032x}" for number in range(2, 7)]
RULE = "deletions"

# How a start ends that finds no broker; whoever supervises the process starts it again.
NO_BROKER = "cannot start: cannot use the log: the log is not available"

SETTINGS = """\
log = "kafka"
partitions = {partitions}
cycle = "{cycle}"
digest_interval = "{interval}"

[kafka]
brokers = "{brokers}"
group = "{group}"
"session.timeout.ms" = "6000"
"heartbeat.interval.ms" = "1500"

[objects]
{objects}

[keys]
dir = "{keys}"
passphrase_file = "{keys}.passphrase"
"""
ACCOUNT = """
[[accounts]]
id = "{id}"
name = "acme{number}"
projects = [{{ id = "{project:032x}", name = "local" }}]

[[accounts.rules]]
name = "{rule}"
operations = [
  {{ service_type = "ECS", resource_type = "server", trace_names = ["deleteServer"] }},
]
"""


def configuration(path, **values):
    """Writes a configuration file that every instance of a group uses."""
    values.setdefault("partitions", 8)
    values.setdefault("cycle", "5s")
    values.setdefault("interval", "15s")
    text = SETTINGS.format(**values)
    for number, account in enumerate(ACCOUNTS):
        text += ACCOUNT.format(id=account, number=number, project=100 + number, rule=RULE)
    Path(path).write_text(text)


def passphrase(keys):
    """Writes the passphrase of the shared keys, for nobody else to read."""
    path = Path(f"{keys}.passphrase")
    path.touch(mode=0o600)
    path.write_text("of this run only\n")


class Instance:
    """One process on a folder of its own; killed and started again it keeps the folder."""

    def __init__(self, binary, name, home, config, environment=None):
        self.binary, self.name, self.config = str(binary), name, config
        self.data = Path(home, name)
        self.log = Path(home, f"{name}.log")
        self.environment = environment
        self.process, self.port, self.said = None, None, 0
        self.paused = False

    def start(self):
        self.port = free_port()
        self.paused = False
        self.said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "run", "--data", str(self.data), "--config", str(self.config),
                 "--listen", f"127.0.0.1:{self.port}", "--set", f"kafka.instance={self.name}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment,
            )

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def running(self):
        return self.process is not None and self.process.poll() is None

    def supervise(self):
        """Starts it again where its start found no broker; whether it runs."""
        if not self.running():
            with self.log.open(errors="replace") as log:
                log.seek(self.said)
                if NO_BROKER in log.read():
                    self.start()
        return self.running()

    def ready(self):
        """True once it serves; None while it does not."""
        if not self.supervise():
            code = self.process.returncode
            raise Failure(f"{self.name} ended with {code}:\n{self.log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return answer.status == 200 or None
        except (urllib.error.URLError, ConnectionError, TimeoutError, OSError):
            return None

    def wait_ready(self, seconds=120):
        try:
            poll(f"{self.name} is ready", self.ready, seconds)
        except Failure as failure:
            said = self.log.read_text(errors="replace")[-3000:]
            raise Failure(f"{failure}\n{said}") from None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def terminate(self, seconds=60):
        """SIGTERM; it must leave with 0."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=seconds)
        if status != 0:
            said = self.log.read_text(errors="replace")[-3000:]
            raise Failure(f"{self.name} left with {status} after SIGTERM\n{said}")

    def end(self):
        if self.running():
            self.process.kill()
            self.process.wait()
