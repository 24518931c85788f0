#!/usr/bin/env python3
"""The checker's own test: a sound archive passes, and every planted fault is named."""

import gzip
import json
import shutil
import tempfile
import unittest
from pathlib import Path

from chain import Archive
from check import check_journal
from formats import DECODER, Objects, Problem, PublicKeys, inflate, merkle_root, split_traces
from sample import Signer, Writer


def trace(number, **members):
    """A stored trace; blanks around some, since they are kept as they came."""
    text = json.dumps({"trace_id": f"t{number}", "trace_name": "createServer", **members})
    return (text + ("\n " if number % 3 == 0 else "")).encode()


class Sample(unittest.TestCase):
    """One sound archive for all cases; each case works on its own copy."""

    @classmethod
    def setUpClass(cls):
        cls.home = tempfile.TemporaryDirectory()
        home = Path(cls.home.name)
        signer = Signer(home / "keys")
        writer = Writer(home / "objects", signer)
        cls.sent = [trace(number) for number in range(9)]
        writer.interval(cls.sent[:4])
        writer.interval([], dead=2)
        writer.interval(cls.sent[4:])
        cls.keys = PublicKeys.in_folder(home / "keys")
        Writer(home / "other", Signer(home / "strangers"))
        cls.strangers = PublicKeys.in_folder(home / "strangers")

    @classmethod
    def tearDownClass(cls):
        cls.home.cleanup()

    def setUp(self):
        self.root = Path(self.home.name, f"copy-{self.id()}")
        shutil.copytree(Path(self.home.name, "objects"), self.root)

    def archive(self, keys=None):
        archive = Archive(Objects(self.root), keys or self.keys)
        archive.check()
        return archive

    def one(self, pattern, number=0):
        return sorted(self.root.rglob(pattern))[number]

    def assert_named(self, text):
        problems = self.archive().problems
        self.assertTrue(any(text in problem for problem in problems), problems)

    def flip(self, path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))

    def test_sound_archive_passes(self):
        archive = self.archive()
        self.assertEqual(archive.problems, [])
        self.assertEqual(archive.filed(), 9)
        sent = {DECODER.decode(raw.decode())["trace_id"]: json.loads(raw) for raw in self.sent}
        self.assertEqual(check_journal(archive, sent), [])

    def test_flipped_byte_of_a_file(self):
        path = self.one("CloudTrace_*.zst")
        self.flip(path)
        self.assert_named(f"{path.relative_to(self.root)}: is not as")

    def test_flipped_byte_of_a_digest(self):
        path = self.one("cts-a/**/Digest/*.gz", 1)
        self.flip(path)
        self.assert_named(str(path.relative_to(self.root)))

    def test_missing_file(self):
        path = self.one("CloudTrace_*.zst")
        path.unlink()
        self.assert_named(f"{path.relative_to(self.root)}: missing")

    def test_missing_digest(self):
        self.one("cts-a/**/Digest/*.gz", 1).unlink()
        self.assert_named("has sequence 2, expected 1")

    def test_added_file(self):
        path = self.one("CloudTrace_*.zst")
        shutil.copy(path, path.with_name("CloudTrace_added.json.zst"))
        self.assert_named("CloudTrace_added.json.zst: is in no digest")

    def test_moved_digest(self):
        path = self.one("cts-a/**/Digest/*.gz", 2)
        path.rename(path.with_name("CloudTrace-Digest_9.json.gz"))
        self.assert_named("is not where it says it is")

    def test_signature_of_another(self):
        first, second = (self.one("cts-a/**/Digest/*.meta.json", number) for number in (0, 1))
        shutil.copy(first, second)
        self.assert_named("RSA signature does not fit")

    def test_unknown_key(self):
        problems = self.archive(self.strangers).problems
        self.assertTrue(any("no public rsa key" in problem for problem in problems), problems)

    def test_note_of_another(self):
        shutil.copy(self.one("cts-a/**/*.note", 0), self.one("cts-a/**/*.note", 2))
        self.assert_named("the note says 1 digests of 3")

    def test_forged_note(self):
        path = self.one("cts-a/**/*.note", 1)
        text, signatures = path.read_text().split("\n\n")
        path.write_text(f"{text}\nextension\n\n{signatures}")
        self.assert_named("the note's signature does not fit")

    def test_changed_metadata(self):
        path = self.one("CloudTrace_*.zst.meta.json")
        path.write_text(path.read_text().replace('"count": "4"', '"count": "5"'))
        self.assert_named("metadata count is 5")

    def test_resent_and_lost_traces(self):
        archive = self.archive()
        problems = check_journal(archive, {"t99": {"trace_id": "t99"}})
        self.assertEqual(problems, ["trace t99 is in no file"])
        changed = check_journal(archive, {"t1": {"trace_id": "t1", "trace_name": "other"}})
        self.assertEqual(len(changed), 1)
        name = next(iter(archive.traces))
        archive.traces[name].append(archive.traces[name][0])
        self.assertEqual(len(check_journal(archive, {})), 1)


class Formats(unittest.TestCase):
    def test_no_flipped_bit_of_a_gzip_member_gets_through(self):
        content = b'{"sequence": 1, "files": []}' * 20
        stored = gzip.compress(content, mtime=0)
        refused = 0
        # Behind magic and method: flags, time, level and system say nothing of the content.
        for bit in range(8 * 10, 8 * len(stored)):
            changed = bytearray(stored)
            changed[bit // 8] ^= 1 << bit % 8
            try:
                # Bits that fill up the last byte of a block say nothing either.
                self.assertEqual(inflate("d.gz", bytes(changed)), content, f"bit {bit}")
            except Problem:
                refused += 1
        self.assertGreater(refused, 8 * len(stored) - 8 * 10 - 8)

    def test_merkle_root_of_rfc_6962(self):
        # The test vectors of certificate-transparency: leaves and roots of the first trees.
        leaves = [b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31"]
        roots = {
            0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        }
        for size, root in roots.items():
            self.assertEqual(merkle_root(leaves[:size]).hex(), root)

    def test_traces_are_split_where_they_were_joined(self):
        for traces in ([b"{}"], [b' {"a":"],\\n["} ', b"{}\n", b'\n{"b":[1e999]}'], [b"{}"] * 5):
            text = b"[\n" + b",\n".join(traces) + b"\n]\n"
            self.assertEqual(split_traces("x", text), traces)
        for text in (b"[]", b"[\n{}]\n", b"[\n{},{}\n]\n", b"[\n{}\n}\n]\n", b"[\n\xff\n]\n"):
            with self.assertRaises(Problem, msg=text):
                split_traces("x", text)


if __name__ == "__main__":
    unittest.main()
