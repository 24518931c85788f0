"""Checks digest chains: signatures, links, coverage, checkpoints, and every file they list."""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from formats import Problem, inflate, merkle_root, sha256, split_traces

COUNTS = ("filed", "duplicate", "unselected", "dead_lettered")


class Archive:
    """Every chain of a folder of objects. `problems` collects what does not hold."""

    def __init__(self, objects, keys):
        self.objects = objects
        self.keys = keys
        self.problems = []
        self.chains = {}
        self.traces = {}
        self.file_of_chain = {}

    def check(self):
        for name in self.objects.digests():
            self._attempt(self._read_digest, name)
        for chain in self.chains.values():
            chain.sort(key=lambda entry: entry["digest"]["sequence"])
            self._check_chain(chain)
        self._check_files()
        self._check_ledger()
        return self.problems

    def _attempt(self, step, *arguments):
        try:
            return step(*arguments)
        except (Problem, KeyError, ValueError, TypeError) as problem:
            text = str(problem) if isinstance(problem, Problem) else repr(problem)
            self.problems.append(f"{arguments[0]}: {text}" if arguments else text)
            return None

    def _wrong(self, name, text):
        self.problems.append(f"{name}: {text}")

    # Digests

    def _read_digest(self, name):
        content = inflate(name, self.objects.bytes(name))
        digest = json.loads(content)
        if name != f"{digest['digest_bucket']}/{digest['digest_object']}":
            raise Problem("is not where it says it is")
        signature = self.objects.metadata(name).get("meta-signature", "")
        message = "\n".join(
            (digest["digest_end_time"], name, sha256(content), digest["previous_digest_signature"])
        )
        key_id = digest["key_ids"]["rsa"]
        if not self.keys.check_rsa(key_id, message.encode(), bytes.fromhex(signature)):
            raise Problem("RSA signature does not fit")
        key = (digest["account"], digest["tracker"])
        entry = {"name": name, "digest": digest, "content": content, "signature": signature}
        self.chains.setdefault(key, []).append(entry)

    def _check_chain(self, chain):
        covered, contents = {}, []
        for place, entry in enumerate(chain):
            name, digest = entry["name"], entry["digest"]
            if digest["sequence"] != place:
                self._wrong(name, f"has sequence {digest['sequence']}, expected {place}")
                return
            self._check_link(chain[place - 1] if place else None, entry)
            self._check_coverage(name, digest, covered)
            contents.append(entry["content"])
            self._attempt(self._check_note, name, digest, contents)

    def _check_link(self, before, entry):
        name, digest = entry["name"], entry["digest"]
        said = tuple(
            digest[f"previous_digest_{part}"]
            for part in ("bucket", "object", "hash_value", "hash_algorithm", "signature")
        )
        if before is None:
            if any(said) or not digest["starting"]:
                self._wrong(name, "is first and no starting digest")
            return
        last = before["digest"]
        true = (
            last["digest_bucket"],
            last["digest_object"],
            sha256(before["content"]),
            "SHA256",
            before["signature"],
        )
        if said != true or digest["starting"]:
            self._wrong(name, "does not name its predecessor by object, hash and signature")
        if digest["previous_digest_end"] != last["digest_end"]:
            self._wrong(name, "is wrong about whether its predecessor ended the chain")
        meets = digest["interval_start_ms"] == last["interval_end_ms"]
        if not meets and not last["digest_end"]:
            self._wrong(name, "does not begin where its predecessor ended")

    def _check_coverage(self, name, digest, covered):
        ledger = digest["tracker"] == "_ledger"
        filed = {}
        for file in digest["log_files"]:
            filed[file["partition"]] = filed.get(file["partition"], 0) + file["count"]
        for part in digest["coverage"]:
            partition, start, end = part["partition"], part["from"], part["to"]
            follows = partition in covered and not digest["previous_digest_end"]
            if follows and covered[partition] != start:
                self._wrong(name, f"partition {partition}: {covered[partition]} to {start} missing")
            covered[partition] = end
            if ledger:
                parts = ("ticks", "marks", "dead_lettered", "accounts_in")
                others = part.get("absent", 0) + part.get("lost", 0)
                if end - start != sum(part[count] for count in parts) + others:
                    self._wrong(name, f"partition {partition}: offsets do not add up: {part}")
                continue
            if part["in"] != sum(part[count] for count in COUNTS):
                self._wrong(name, f"partition {partition}: counts do not add up: {part}")
            if part["filed"] != filed.pop(partition, 0):
                self._wrong(name, f"partition {partition}: files hold another number: {part}")
        if any(filed.values()) and not ledger:
            self._wrong(name, f"lists files of partitions it does not cover: {sorted(filed)}")

    def _check_note(self, name, digest, contents):
        """A C2SP checkpoint over the digests so far."""
        note = self.objects.bytes(name.removesuffix(".json.gz") + ".note").decode()
        text, signatures = note.split("\n\n", 1)
        origin, size, root = text.split("\n")[:3]
        if int(size) != len(contents):
            raise Problem(f"the note says {size} digests of {len(contents)}")
        if base64.b64decode(root) != merkle_root(contents):
            raise Problem("the note's root is not that of the digests")
        parts = [digest["installation"]]
        parts += [digest["account"]] if digest["account"] else []
        if origin != "/".join([*parts, digest["tracker_name"]]):
            raise Problem(f"the note is of {origin}")
        _, signer, encoded = signatures.strip().split(" ")
        signed = base64.b64decode(encoded)
        key_id = digest["key_ids"]["ed25519"]
        raw = self.keys.ed25519_raw(key_id)
        if signed[:4] != hashlib.sha256(signer.encode() + b"\n\x01" + raw).digest()[:4]:
            raise Problem("the note's key hash does not fit its key")
        if not self.keys.check_ed25519(key_id, (text + "\n").encode(), signed[4:]):
            raise Problem("the note's signature does not fit")

    # Trace files

    def _listed(self):
        for key, chain in self.chains.items():
            for entry in chain:
                for file in entry["digest"]["log_files"]:
                    yield key, entry["name"], file

    def _check_files(self):
        listed = list(self._listed())
        for key, _, file in listed:
            name = f"{file['bucket']}/{file['object']}"
            if name in self.file_of_chain:
                self._wrong(name, "is listed twice")
            self.file_of_chain[name] = key
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda one: self._attempt(self._check_file, one[1], one[2]), listed))
        for name in self.objects.trace_files():
            if name not in self.file_of_chain:
                self._wrong(name, "is in no digest")

    def _check_file(self, digest_name, file):
        name = f"{file['bucket']}/{file['object']}"
        stored = self.objects.bytes(name)
        if (sha256(stored), len(stored)) != (file["log_hash_value"], file["bytes"]):
            raise Problem(f"{name}: is not as {digest_name} lists it")
        text = inflate(name, stored)
        if len(text) != file["raw_bytes"]:
            raise Problem(f"{name}: has {len(text)} bytes inflated")
        if "content_sha256" in file and sha256(text) != file["content_sha256"]:
            raise Problem(f"{name}: has another content hash")
        traces = split_traces(name, text)
        if len(traces) != file["count"] or merkle_root(traces).hex() != file["root"]:
            raise Problem(f"{name}: has another Merkle root or count")
        self._check_metadata(name, file)
        self.traces[name] = traces

    def _check_metadata(self, name, file):
        metadata = self.objects.metadata(name)
        for member, label in (
            ("root", "merkle-root"),
            ("log_hash_value", "sha256"),
            ("partition", "partition"),
            ("first_offset", "first-offset"),
            ("last_offset", "last-offset"),
            ("count", "count"),
        ):
            if str(metadata.get(label)) != str(file[member]):
                raise Problem(f"{name}: metadata {label} is {metadata.get(label)}")

    # All chains together

    def _check_ledger(self):
        """An account's records, told by any one of its chains, are no more than the ledger's."""
        totals = {}
        for (account, tracker), chain in self.chains.items():
            for entry in chain:
                for part in entry["digest"]["coverage"]:
                    key = (account, tracker, part["partition"])
                    count = part["accounts_in"] if tracker == "_ledger" else part["in"]
                    totals[key] = totals.get(key, 0) + count
        for partition in {key[2] for key in totals}:
            most = {}
            for (account, tracker, where), count in totals.items():
                if where == partition and tracker != "_ledger":
                    most[account] = max(most.get(account, 0), count)
            ledger = totals.get(("", "_ledger", partition))
            if ledger is None or sum(most.values()) > ledger:
                self._wrong("ledger", f"partition {partition}: {ledger} for accounts of {most}")

    def filed(self):
        """How many traces all digests list, over the chains of trackers."""
        return sum(file["count"] for _, _, file in self._listed())
