"""An S3 server for the runs: moto, paused to make an outage, read back object by object."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree
from pathlib import Path

from broker import Failure, free_port, poll

SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
BUCKET = "audit"
# moto refuses whoever signs nothing, and checks no signature.
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=any"
}


def get(url):
    """An answer to a signed GET, as a context."""
    return urllib.request.urlopen(urllib.request.Request(url, headers=SIGNED), timeout=30)


class Store:
    """One bucket. moto keeps objects in memory and checks no signature."""

    def __init__(self, home):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = Path(home, "store.log")
        self.process = None

    def __enter__(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        poll("the store answers", self._make_bucket)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def _make_bucket(self):
        if self.process.poll() is not None:
            raise Failure(f"the store ended:\n{self.log.read_text()[-2000:]}")
        try:
            request = urllib.request.Request(
                f"{self.url}/{BUCKET}", method="PUT", headers=SIGNED
            )
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status == 200 or None
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def settings(self):
        """Lines of section [objects]."""
        return (
            f'url = "s3://{BUCKET}/trail"\nendpoint = "{self.url}"\nregion = "us-east-1"\n'
            "path_style = true"
        )

    def _keys(self):
        token = None
        while True:
            query = {"list-type": "2", "prefix": "trail/"}
            if token:
                query["continuation-token"] = token
            url = f"{self.url}/{BUCKET}?{urllib.parse.urlencode(query)}"
            with get(url) as answer:
                page = xml.etree.ElementTree.fromstring(answer.read())
            for entry in page.iter(f"{SPACE}Contents"):
                yield entry.find(f"{SPACE}Key").text
            token = page.findtext(f"{SPACE}NextContinuationToken")
            if not token:
                return

    def download(self, folder):
        """Copies every new object into a folder as the local store lays it out."""
        for key in self._keys():
            path = Path(folder, key.removeprefix("trail/"))
            if path.exists() or not key.split("/")[1].startswith("cts-"):
                continue
            url = f"{self.url}/{BUCKET}/{urllib.parse.quote(key)}"
            with get(url) as answer:
                content = answer.read()
                metadata = {
                    name.lower().removeprefix("x-amz-meta-"): value
                    for name, value in answer.headers.items()
                    if name.lower().startswith("x-amz-meta-")
                }
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(f"{path}.meta.json").write_text(json.dumps(metadata))
            path.write_bytes(content)
