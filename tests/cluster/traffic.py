"""What goes into `traces`, and what is read back: a producer and a consumer of their own."""

import json
import random
import threading
import time

from broker import Failure
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from instance import ACCOUNTS

SERVICES = ["ECS", "IAM", "OBS", "VPC", "EVS", "RDS", "CTS", "SMN", "KMS", "DCS", "CCE", "ELB"]
OPERATIONS = ["createServer", "deleteServer", "listServers", "updateServer"]
FILLER = "".join(chr(97 + at % 26) for at in range(300))


def trace(seed, number):
    """One trace with all that is filed as it came: an id and a record time of its own."""
    chance = random.Random(seed * 1_000_003 + number)
    time_ms = 1_760_000_000_000 + number
    return json.dumps({
        "trace_id": f"{seed:08x}-0000-4000-8000-{number:012x}",
        "time": time_ms,
        "record_time": time_ms + 120,
        "service_type": chance.choice(SERVICES),
        "resource_type": "server",
        "resource_id": f"{chance.randrange(5000):08x}",
        "trace_name": chance.choice(OPERATIONS),
        "trace_rating": chance.choice(["normal", "normal", "warning", "incident"]),
        "trace_type": "ApiCall",
        "user": {"id": f"u{chance.randrange(200)}", "name": "Zo\u00eb"},
        "domain_id": chance.choice(ACCOUNTS),
        "source_ip": f"10.0.{chance.randrange(64)}.{chance.randrange(256)}",
        "request": json.dumps({"text": FILLER[: chance.randrange(300)]}),
        "code": chance.choice(["200", "403"]),
    }).encode()


class Traffic(threading.Thread):
    """Sends `count` traces at `rate` a second to the partitions given; acknowledged ones are
    remembered, and any that is refused fails the run."""

    def __init__(self, address, seed, count, rate, partitions):
        super().__init__(daemon=True)
        self.seed, self.count, self.rate, self.partitions = seed, count, rate, partitions
        self.acknowledged, self.refused, self.halted = 0, [], threading.Event()
        self.producer = Producer({
            "bootstrap.servers": address, "enable.idempotence": True, "acks": "all",
            "linger.ms": 20, "compression.type": "zstd", "message.timeout.ms": 600_000,
            "log_level": 0,
        })

    def _told(self, error, _message):
        if error is None:
            self.acknowledged += 1
        else:
            self.refused.append(str(error))

    def run(self):
        begun = time.monotonic()
        for number in range(self.count):
            if self.halted.is_set():
                self.count = number
                break
            due = begun + number / self.rate
            while True:
                self.producer.poll(0)
                ahead = due - time.monotonic()
                if ahead <= 0:
                    break
                time.sleep(min(ahead, 0.05))
            partition = self.partitions[number % len(self.partitions)]
            while True:
                try:
                    self.producer.produce(
                        "traces", trace(self.seed, number), partition=partition,
                        on_delivery=self._told,
                    )
                    break
                except BufferError:
                    self.producer.poll(0.1)
        self.producer.flush(600)

    def finish(self):
        self.join(900)
        if self.is_alive() or self.refused or self.acknowledged != self.count:
            raise Failure(
                f"{self.acknowledged} of {self.count} traces acknowledged; {self.refused[:3]}"
            )


def read(address, topic):
    """Every committed record of a topic: (partition, offset, headers, value)."""
    consumer = Consumer({
        "bootstrap.servers": address, "group.id": "independent-reader",
        "isolation.level": "read_committed", "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0,
    })
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        ended, records = set(), []
        deadline = time.monotonic() + 300
        while len(ended) < len(partitions):
            if time.monotonic() > deadline:
                raise Failure(f"{topic} could not be read to its end within 300 s")
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
                continue
            if error is not None:
                raise Failure(f"{topic}: {error}")
            headers = {name: value.decode() for name, value in message.headers() or []}
            records.append((message.partition(), message.offset(), headers, message.value()))
        return records
    finally:
        consumer.close()
