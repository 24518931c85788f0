"""What Trailproof writes, read with Python's standard library, openssl and zstd.

Written from docs/formats.md and RFC 6962, never from Trailproof's sources, and it must stay so: it
is the second opinion.
"""

import gzip
import hashlib
import json
import subprocess
import tempfile
import zlib
from pathlib import Path


class Problem(Exception):
    """Something that does not hold. The text names the object."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def merkle_root(leaves):
    """RFC 6962, section 2.1, as written there: split at the largest power of two below n."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    left, right = merkle_root(leaves[:split]), merkle_root(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def inflate(name, stored):
    """The text of a stored object, by the end of its name."""
    if name.endswith(".zst"):
        done = subprocess.run(["zstd", "-dcq"], input=stored, capture_output=True, check=False)
        if done.returncode != 0:
            raise Problem(f"{name}: zstd refuses it: {done.stderr.decode(errors='replace')}")
        return done.stdout
    if name.endswith(".gz"):
        try:
            return gzip.decompress(stored)
        except (OSError, EOFError, zlib.error) as error:
            raise Problem(f"{name}: gzip refuses it: {error}") from error
    return stored


# Numbers stay text: Python refuses very long ones, and none is computed with here.
DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
BLANKS = " \t\n\r"


def split_traces(name, text):
    """The stored bytes of each trace of a trace file."""
    try:
        text = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(f"{name}: not UTF-8: {error}") from error
    if not text.startswith("[\n") or not text.endswith("\n]\n"):
        raise Problem(f"{name}: does not begin with [ and end with ]")
    end = len(text) - 3
    at, traces = 2, []
    while True:
        start = at
        while text[at] in BLANKS:
            at += 1
        try:
            _, at = DECODER.raw_decode(text, at)
        except ValueError as error:
            raise Problem(f"{name}: trace {len(traces)} is not JSON: {error}") from error
        while at < end and text[at] in BLANKS:
            at += 1
        traces.append(text[start:at].encode())
        if at == end:
            return traces
        if text[at : at + 2] != ",\n":
            raise Problem(f"{name}: no separator after trace {len(traces) - 1}")
        at += 2


class Objects:
    """A folder of objects: <root>/<bucket>/<key>, metadata beside in <key>.meta.json."""

    def __init__(self, root):
        self.root = Path(root)
        self.names = sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if path.is_file()
            and not path.name.endswith(".meta.json")
            and path.relative_to(self.root).parts[0] != ".tmp"
        )

    def bytes(self, name):
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise Problem(f"{name}: missing: {error.strerror}") from error

    def metadata(self, name):
        path = self.root / (name + ".meta.json")
        return json.loads(path.read_text()) if path.exists() else {}

    def digests(self):
        return [n for n in self.names if "/Digest/" in n and n.endswith(".json.gz")]

    def trace_files(self):
        """Everything else under CloudTraces that is neither digest nor note."""
        return [
            name
            for name in self.names
            if name.split("/")[1] == "CloudTraces" and "/Digest/" not in name
        ]


class PublicKeys:
    """Public keys in PEM, checked by openssl."""

    def __init__(self, paths):
        self.paths = {"rsa": [], "ed25519": []}
        for path in paths:
            text = self._openssl("pkey", "-pubin", "-in", str(path), "-noout", "-text").decode()
            kind = "ed25519" if "ED25519" in text.upper().split("\n")[0] else "rsa"
            der = self._openssl("pkey", "-pubin", "-in", str(path), "-outform", "DER")
            self.paths[kind].append((hashlib.sha256(der).hexdigest()[:32], path, der))

    @staticmethod
    def in_folder(folder):
        """Every file of a folder that is a public key in PEM."""
        found = []
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and path.read_bytes().startswith(b"-----BEGIN PUBLIC KEY"):
                found.append(path)
        return PublicKeys(found)

    @staticmethod
    def _openssl(*arguments):
        return subprocess.run(["openssl", *arguments], capture_output=True, check=True).stdout

    def _key(self, kind, key_id):
        for known, path, _ in self.paths[kind]:
            if known == key_id:
                return str(path)
        raise Problem(f"no public {kind} key with id {key_id}")

    def check_rsa(self, key_id, message, signature):
        """RSASSA-PKCS1-v1_5 with SHA-256."""
        key = self._key("rsa", key_id)
        return self._verify(["dgst", "-sha256", "-verify", key], "-signature", message, signature)

    def check_ed25519(self, key_id, message, signature):
        key = self._key("ed25519", key_id)
        verify = ["pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in"]
        return self._verify(verify, "-sigfile", message, signature)

    def ed25519_raw(self, key_id):
        """The 32 bytes of a key: the end of its DER."""
        self._key("ed25519", key_id)
        return next(der for known, _, der in self.paths["ed25519"] if known == key_id)[-32:]

    @staticmethod
    def _verify(command, signature_option, message, signature):
        with tempfile.TemporaryDirectory() as folder:
            said, signed = Path(folder, "message"), Path(folder, "signature")
            said.write_bytes(message)
            signed.write_bytes(signature)
            if command[0] == "dgst":
                command = [*command, signature_option, str(signed), str(said)]
            else:
                command = [*command, str(said), signature_option, str(signed)]
            done = subprocess.run(["openssl", *command], capture_output=True, check=False)
            return done.returncode == 0
