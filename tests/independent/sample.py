"""Writes a small archive in Trailproof's formats, for testing the checker itself."""

import base64
import gzip
import hashlib
import json
import subprocess
from pathlib import Path

from formats import merkle_root, sha256

ACCOUNT = "00000000000000000000000000000002"
TRACKER = "6f1c2b1e-0000-4000-8000-000000000001"
CYCLE_MS = 2000


def openssl(*arguments, **options):
    command = ["openssl", *arguments]
    return subprocess.run(command, check=True, capture_output=True, **options).stdout


class Signer:
    """Keys made for one test."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir()
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048",
                "-out", str(self.folder / "rsa.key"))
        openssl("genpkey", "-algorithm", "ED25519", "-out", str(self.folder / "ed25519.key"))
        self.ids, self.raw = {}, None
        for kind in ("rsa", "ed25519"):
            private, public = self.folder / f"{kind}.key", self.folder / f"{kind}.pub.pem"
            openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
            der = openssl("pkey", "-pubin", "-in", str(public), "-outform", "DER")
            self.ids[kind] = hashlib.sha256(der).hexdigest()[:32]
            self.raw = der[-32:]

    def rsa(self, message):
        key = str(self.folder / "rsa.key")
        return openssl("dgst", "-sha256", "-sign", key, input=message).hex()

    def ed25519(self, message):
        path = self.folder / "message"
        path.write_bytes(message)
        return openssl("pkeyutl", "-sign", "-inkey", str(self.folder / "ed25519.key"),
                       "-rawin", "-in", str(path))


class Writer:
    """One chain of a tracker and one ledger chain, interval after interval."""

    def __init__(self, root, signer):
        self.root, self.signer = Path(root), signer
        self.chains = {TRACKER: [], "_ledger": []}
        self.offset = 0

    def put(self, name, stored, metadata=None):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored)
        if metadata:
            Path(f"{path}.meta.json").write_text(json.dumps(metadata))

    def trace_file(self, traces, end_ms):
        text = b"[\n" + b",\n".join(traces) + b"\n]\n"
        done = subprocess.run(["zstd", "-qc"], input=text, capture_output=True, check=True)
        stored = done.stdout
        unique = hashlib.sha256(f"trailproof/file/v1\n0/{self.offset}".encode()).hexdigest()[:16]
        name = f"CloudTraces/local/2026/1/2/system/ECS/CloudTrace_local_{end_ms}_{unique}.json.zst"
        file = {
            "bucket": "cts-a", "object": name, "log_hash_value": sha256(stored),
            "log_hash_algorithm": "SHA256", "root": merkle_root(traces).hex(),
            "count": len(traces), "partition": 0, "first_offset": self.offset,
            "last_offset": self.offset + len(traces) - 1, "bytes": len(stored),
            "raw_bytes": len(text), "time_min_ms": 0, "time_max_ms": 0,
        }
        self.put(f"cts-a/{name}", stored, {
            "merkle-root": file["root"], "sha256": file["log_hash_value"], "partition": "0",
            "first-offset": str(file["first_offset"]), "last-offset": str(file["last_offset"]),
            "count": str(len(traces)), "format": "trailproof/file/v1",
        })
        return file

    def interval(self, traces, dead=0):
        """Files the traces and writes the digests of both chains."""
        number = len(self.chains[TRACKER])
        start, end = number * CYCLE_MS, (number + 1) * CYCLE_MS
        files = [self.trace_file(traces, end)] if traces else []
        records = len(traces) + dead
        stretch = {"partition": 0, "from": self.offset, "to": self.offset + records + 1}
        self.digest(TRACKER, (start, end), files, {
            **stretch, "in": records, "filed": len(traces), "duplicate": 0, "unselected": 0,
            "dead_lettered": dead, "conflicts": 0,
        })
        ledger = {**stretch, "ticks": 1, "marks": 0, "dead_lettered": 0, "accounts_in": records}
        self.digest("_ledger", (start, end), [], ledger)
        self.offset += records + 1

    def digest(self, tracker, interval, files, coverage):
        chain = self.chains[tracker]
        bucket = "cts-ledger" if tracker == "_ledger" else "cts-a"
        label = "_ledger" if tracker == "_ledger" else "system"
        name = f"CloudTraces/local/2026/1/2/{label}/Digest/CloudTrace-Digest_{interval[1]}.json.gz"
        last = chain[-1] if chain else {}
        digest = {
            "version": "trailproof/digest/v1", "project_id": "", "digest_bucket": bucket,
            "digest_start_time": str(interval[0]), "digest_end_time": str(interval[1]),
            "digest_object": name, "digest_signature_algorithm": "SHA256withRSA",
            "digest_end": False, "previous_digest_bucket": last.get("bucket", ""),
            "previous_digest_object": last.get("object", ""),
            "previous_digest_hash_value": last.get("hash", ""),
            "previous_digest_hash_algorithm": "SHA256" if chain else "",
            "previous_digest_signature": last.get("signature", ""), "previous_digest_end": False,
            "installation": "trailproof", "account": "" if label == "_ledger" else ACCOUNT,
            "tracker": tracker, "tracker_name": label, "sequence": len(chain),
            "starting": not chain, "interval_start_ms": interval[0],
            "interval_end_ms": interval[1], "key_ids": self.signer.ids,
            "coverage": [coverage], "log_files": files,
        }
        content = json.dumps(digest).encode()
        message = "\n".join((digest["digest_end_time"], f"{bucket}/{name}", sha256(content),
                             digest["previous_digest_signature"]))
        signature = self.signer.rsa(message.encode())
        self.put(f"{bucket}/{name}", gzip.compress(content), {"meta-signature": signature})
        chain.append({"bucket": bucket, "object": name, "hash": sha256(content),
                      "signature": signature, "content": content})
        self.put(f"{bucket}/{name.removesuffix('.json.gz')}.note", self.note(digest, chain))

    def note(self, digest, chain):
        origin = ["trailproof", *([digest["account"]] if digest["account"] else []),
                  digest["tracker_name"]]
        root = base64.b64encode(merkle_root([entry["content"] for entry in chain])).decode()
        text = f"{'/'.join(origin)}\n{len(chain)}\n{root}\n"
        key_hash = hashlib.sha256(b"trailproof\n\x01" + self.signer.raw).digest()[:4]
        signed = base64.b64encode(key_hash + self.signer.ed25519(text.encode())).decode()
        return f"{text}\n\u2014 trailproof {signed}\n".encode()
