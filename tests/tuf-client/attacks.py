#!/usr/bin/env python3
"""Honest and hostile repositories, written by python-tuf, against the updater of a box.

    python3 attacks.py target/debug/tuf-client        # needs `pip install tuf==7.0.0 cryptography`

Each case begins a client with the repository's first root, does something, and says PASS or FAIL. Exit code 1 if any
failed.
"""

import datetime
import http.server
import os
import subprocess
import sys
import tempfile
import threading
import time

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

CLIENT = os.path.abspath(sys.argv[1])
DAY = datetime.timedelta(days=1)


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


class Repository:
    """A repository in memory: `publish` signs what its roles say into `files`."""

    def __init__(self, targets_keys=1, targets_threshold=1):
        self.keys = {role: [CryptoSigner.generate_ed25519()] for role in ("root", "timestamp", "snapshot", "models")}
        self.keys["targets"] = [CryptoSigner.generate_ed25519() for _ in range(targets_keys)]
        self.files = {}
        self.targets_files = {}
        self.root = Root(version=1, expires=now() + 30 * DAY, consistent_snapshot=True)
        for role in ("root", "timestamp", "snapshot", "targets"):
            for key in self.keys[role]:
                self.root.add_key(key.public_key, role)
        self.root.roles["targets"].threshold = targets_threshold
        self.timestamp = Timestamp(version=1, expires=now() + DAY)
        self.snapshot = Snapshot(version=1, expires=now() + DAY)
        self.targets = Targets(version=1, expires=now() + 30 * DAY)
        models = self.keys["models"][0].public_key
        role = DelegatedRole("models", [models.keyid], 1, True, paths=["manifest/*"])
        self.targets.delegations = Delegations({models.keyid: models}, {"models": role})
        self.models = Targets(version=1, expires=now() + 30 * DAY)
        self.publish_root()
        self.publish()

    def signed(self, role, payload, signers=None):
        metadata = Metadata(payload)
        for signer in signers or self.keys[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def publish_root(self, more_signers=()):
        data = self.signed("root", self.root, [*self.keys["root"], *more_signers])
        self.files[f"{self.root.version}.root.json"] = data
        return data

    def publish_targets(self, signers=None):
        targets = self.signed("targets", self.targets, signers)
        models = self.signed("models", self.models)
        self.files[f"{self.targets.version}.targets.json"] = targets
        self.files[f"{self.models.version}.models.json"] = models
        self.snapshot.meta["targets.json"] = meta(self.targets.version, targets)
        self.snapshot.meta["models.json"] = meta(self.models.version, models)

    def publish_snapshot(self, signers=None):
        data = self.signed("snapshot", self.snapshot, signers)
        self.files[f"{self.snapshot.version}.snapshot.json"] = data
        self.timestamp.snapshot_meta = meta(self.snapshot.version, data)

    def publish_timestamp(self, signers=None):
        self.files["timestamp.json"] = self.signed("timestamp", self.timestamp, signers)

    def publish(self):
        self.publish_targets()
        self.publish_snapshot()
        self.publish_timestamp()

    def again(self):
        """The next version of everything online."""
        for role in (self.models, self.targets, self.snapshot, self.timestamp):
            role.version += 1
        self.publish()

    def add(self, path, data, role=None):
        role = role or self.models
        file = TargetFile.from_data(path, data, ["sha256"])
        role.targets[path] = file
        folder, _, name = path.rpartition("/")
        self.targets_files[f"{folder}/{file.hashes['sha256']}.{name}"] = data


def meta(version, data):
    return MetaFile.from_data(version, data, ["sha256"])


class Server:
    """Serves `files` as they are, and for some paths something else: a function that gets the open connection."""

    def __init__(self):
        self.repository = None
        self.tricks = {}
        self.sent = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = self.path.lstrip("/")
                kind, _, name = path.partition("/")
                files = outer.repository.files if kind == "metadata" else outer.repository.targets_files
                if name in outer.tricks:
                    self.close_connection = True
                    try:
                        outer.tricks[name](self)
                    except OSError:
                        pass
                    return
                data = files.get(name)
                self.send_response(404 if data is None else 200)
                self.send_header("content-length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def endless(self, handler):
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        for _ in range(4096):
            handler.wfile.write(b" " * 65536)
            self.sent += 65536

    def drip(self, handler):
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(1)


class Box:
    """The client under test, with a folder of its own."""

    def __init__(self, server, repository):
        self.server = server
        server.repository = repository
        server.tricks = {}
        server.sent = 0
        self.folder = tempfile.TemporaryDirectory()
        root = os.path.join(self.folder.name, "given.json")
        with open(root, "wb") as file:
            file.write(repository.files["1.root.json"])
        self.metadata = os.path.join(self.folder.name, "metadata")
        os.mkdir(self.metadata)
        assert self.run("init", root), "a root is taken"

    def run(self, *arguments):
        command = [CLIENT, "--metadata-dir", self.metadata, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        self.said = done.stderr.strip()
        return done.returncode == 0

    def refresh(self):
        return self.run("--metadata-url", f"{self.server.url}/metadata", "refresh")

    def download(self, name):
        into = os.path.join(self.folder.name, "into")
        os.makedirs(into, exist_ok=True)
        done = self.run(
            "--metadata-url", f"{self.server.url}/metadata", "--target-name", name, "--target-base-url",
            f"{self.server.url}/targets", "--target-dir", into, "download",
        )
        path = os.path.join(into, name)
        self.got = open(path, "rb").read() if os.path.exists(path) else None
        return done


def honest(server):
    repository = Repository()
    repository.add("manifest/a.json", b"hello")
    repository.again()
    box = Box(server, repository)
    assert box.download("manifest/a.json"), box.said
    assert box.got == b"hello"
    repository.again()
    assert box.refresh(), box.said


def rollback_of_the_timestamp(server):
    repository = Repository()
    old = dict(repository.files)
    repository.again()
    box = Box(server, repository)
    assert box.refresh(), box.said
    repository.files.update(old)
    assert not box.refresh()
    assert "rollback" in box.said, box.said


def rollback_by_a_new_timestamp(server):
    repository = Repository()
    old = repository.files["1.snapshot.json"]
    repository.again()
    box = Box(server, repository)
    assert box.refresh(), box.said
    repository.timestamp.version += 1
    repository.timestamp.snapshot_meta = meta(1, old)
    repository.publish_timestamp()
    assert not box.refresh(), "an old snapshot under a new timestamp"


def rollback_of_models(server):
    repository = Repository()
    repository.again()
    box = Box(server, repository)
    assert box.refresh(), box.said
    repository.snapshot.version += 1
    repository.timestamp.version += 1
    repository.snapshot.meta["models.json"].version = 1
    repository.publish_snapshot()
    repository.publish_timestamp()
    assert not box.refresh(), "an old list of models under a new snapshot"


def freeze(server):
    repository = Repository()
    box = Box(server, repository)
    assert box.refresh(), box.said
    repository.timestamp.version += 1
    repository.timestamp.expires = now() - DAY
    repository.publish_timestamp()
    assert not box.refresh()
    assert "expired" in box.said, box.said


def fast_forward_and_the_way_back(server):
    repository = Repository()
    box = Box(server, repository)
    repository.timestamp.version = 2**53 - 1
    repository.snapshot.version = 2**53 - 1
    repository.publish()
    assert box.refresh(), box.said
    # The thief's versions; now the factory takes new keys and begins anew.
    repository.timestamp.version = 2
    repository.snapshot.version = 2
    repository.publish()
    assert not box.refresh(), "a lower version with the old keys"
    for role in ("timestamp", "snapshot"):
        repository.root.revoke_key(repository.keys[role][0].public_key.keyid, role)
        repository.keys[role] = [CryptoSigner.generate_ed25519()]
        repository.root.add_key(repository.keys[role][0].public_key, role)
    repository.root.version = 2
    repository.publish_root()
    repository.publish()
    assert box.refresh(), box.said


def mix_and_match(server):
    repository = Repository()
    repository.add("manifest/a.json", b"one")
    repository.again()
    other = dict(repository.files)
    repository.add("manifest/a.json", b"two")
    repository.again()
    box = Box(server, repository)
    # The models of another time under this snapshot.
    repository.files[f"{repository.models.version}.models.json"] = other[f"{repository.models.version - 1}.models.json"]
    assert not box.download("manifest/a.json")
    assert box.got is None


def endless_data(server):
    repository = Repository()
    box = Box(server, repository)
    for name in ("timestamp.json", "1.snapshot.json", "1.targets.json", "2.root.json"):
        server.tricks = {name: server.endless}
        server.sent = 0
        assert not box.refresh(), name
        assert server.sent < 64 << 20, f"{name}: {server.sent} bytes were taken"
        assert "goes on" in box.said, box.said


def slow_drip(server):
    repository = Repository()
    box = Box(server, repository)
    server.tricks = {"timestamp.json": server.drip}
    began = time.monotonic()
    assert not box.refresh()
    assert time.monotonic() - began < 40
    assert "bytes a second" in box.said, box.said


def other_bytes_of_a_target(server):
    repository = Repository()
    repository.add("manifest/a.json", b"hello")
    repository.again()
    box = Box(server, repository)
    name = next(iter(repository.targets_files))
    for bad in (b"hallo", b"hell", b"hello and more"):
        repository.targets_files[name] = bad
        assert not box.download("manifest/a.json"), bad
        assert box.got is None


def stolen_timestamp_key(server):
    repository = Repository()
    box = Box(server, repository)
    assert box.refresh(), box.said
    thief = [CryptoSigner.generate_ed25519()]
    repository.snapshot.version += 1
    repository.timestamp.version += 1
    repository.add("manifest/evil.json", b"evil")
    repository.models.version += 1
    repository.publish_targets()
    repository.publish_snapshot(thief)
    repository.publish_timestamp()
    assert not box.download("manifest/evil.json"), "a snapshot that nobody signed"
    assert box.got is None


def one_of_three_target_keys(server):
    repository = Repository(targets_keys=3, targets_threshold=2)
    box = Box(server, repository)
    assert box.refresh(), box.said
    stolen = repository.keys["targets"][0]
    repository.targets.version += 1
    repository.add("evil.json", b"evil", repository.targets)
    repository.publish_targets([stolen])
    repository.snapshot.version += 1
    repository.timestamp.version += 1
    repository.publish_snapshot()
    repository.publish_timestamp()
    assert not box.refresh()
    assert "threshold" in box.said, box.said
    # The owners notice, take the key away by a new root, and go on.
    repository.root.revoke_key(stolen.public_key.keyid, "targets")
    repository.keys["targets"].pop(0)
    del repository.targets.targets["evil.json"]
    repository.root.version += 1
    repository.publish_root()
    repository.targets.version += 1
    repository.again()
    assert box.refresh(), box.said


def a_role_beyond_its_paths(server):
    repository = Repository()
    repository.add("rollout/all.json", b"models may not say this")
    repository.again()
    box = Box(server, repository)
    assert not box.download("rollout/all.json")
    assert box.got is None


def ninety_days_offline(server):
    repository = Repository()
    repository.timestamp.expires = now() + datetime.timedelta(seconds=2)
    repository.publish()
    repository.again()
    box = Box(server, repository)
    assert box.refresh(), box.said
    old = dict(repository.files)
    time.sleep(3)
    assert not box.refresh(), "what it has is expired"
    # Meanwhile the factory has changed its root twice.
    for version in (2, 3):
        before = list(repository.keys["root"])
        repository.root.revoke_key(before[0].public_key.keyid, "root")
        repository.keys["root"] = [CryptoSigner.generate_ed25519()]
        repository.root.add_key(repository.keys["root"][0].public_key, "root")
        repository.root.version = version
        repository.publish_root(before)
    repository.timestamp.expires = now() + DAY
    repository.again()
    assert box.refresh(), box.said
    # And what it had before is a floor all the same.
    repository.files["timestamp.json"] = old["timestamp.json"]
    assert not box.refresh()


CASES = [
    honest, rollback_of_the_timestamp, rollback_by_a_new_timestamp, rollback_of_models, freeze,
    fast_forward_and_the_way_back, mix_and_match, endless_data, slow_drip, other_bytes_of_a_target,
    stolen_timestamp_key, one_of_three_target_keys, a_role_beyond_its_paths, ninety_days_offline,
]


def main():
    server = Server()
    failed = 0
    for case in CASES:
        try:
            case(server)
            print("PASS", case.__name__, flush=True)
        except Exception as error:  # noqa: BLE001 - whatever went wrong is a finding
            failed += 1
            print("FAIL", case.__name__, repr(error), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
