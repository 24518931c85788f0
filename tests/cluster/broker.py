"""A real Apache Kafka broker in KRaft mode, in a scratch folder; it survives kill -9."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "independent"))

from server import Failure, free_port, poll  # noqa: E402

PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={home}/kafka-data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
log.segment.bytes=134217728
"""
LOGGING = """\
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=OUT
"""


class Broker:
    """Formats its folder, starts at once; `with` ends it."""

    def __init__(self, jars, home):
        self.jars, self.home = Path(jars), Path(home)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = None
        self.home.mkdir(parents=True)
        text = PROPERTIES.format(port=self.port, controller=free_port(), home=self.home)
        (self.home / "server.properties").write_text(text)
        (self.home / "log4j2.properties").write_text(LOGGING)
        tool = "kafka.tools.StorageTool"
        made = subprocess.run(
            self._java(tool, "random-uuid"), capture_output=True, check=True, text=True
        )
        subprocess.run(
            self._java(tool, "format", "--standalone", "-t", made.stdout.strip(),
                       "-c", str(self.home / "server.properties")),
            capture_output=True, check=True,
        )

    def _java(self, main, *arguments):
        return [
            "java", "-Xms256m", "-Xmx1g", "-XX:+UseG1GC", "-Djava.awt.headless=true",
            f"-Dkafka.logs.dir={self.home}/logs",
            f"-Dlog4j2.configurationFile={self.home}/log4j2.properties",
            "-cp", f"{self.jars}/*", main, *arguments,
        ]

    def start(self):
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._java("kafka.Kafka", str(self.home / "server.properties")),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        poll("the broker answers", self._answers, seconds=120)

    def _answers(self):
        if self.process.poll() is not None:
            said = (self.home / "log").read_text()[-3000:]
            raise Failure(f"the broker ended with {self.process.returncode}:\n{said}")
        try:
            client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
            return True if client.list_topics(timeout=2).brokers else None
        except KafkaException:
            return None

    def kill(self):
        """SIGKILL, as a crash."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def jars():
    """The folder that `.ci/kafka fetch` filled."""
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    tools = os.environ.get("TRAILPROOF_TOOLS", f"{cache}/trailproof-tools")
    return Path(os.environ.get("KAFKA_JARS", f"{tools}/kafka-4.3.1/lib"))
