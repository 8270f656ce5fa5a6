#!/usr/bin/env python3
"""kill -9 of box, factory and both, under load, with an oracle of what was acknowledged.

  kill.py --outstation target/release/outstation --factory target/release/outstation-factory --kills 1000 [--seed 1]

A factory and a box that belongs to it are started in a folder of their own. The box keeps everything with its words, and
an answer is complete only when its record is on the disk (`log.durability = "sync"`). Users ask without pause; a request
counts as acknowledged when its whole answer came. Again and again box, factory or both are killed and started anew. At
the end everything is sent and compacted, and the Parquet files that the commits name are read with pyarrow: every
acknowledged request is there once, none is there twice, and none was never asked. Needs Python with pyarrow.
With --release FILE.gguf the box first follows a ring to that model, and after each start it must be what is committed.
Prints one JSON line; ends with 1 if a record was lost or doubled.
"""
import argparse, collections, http.client, json, pathlib, random, re, socket, subprocess, sys, tempfile, threading, time

WORDS = "signal tower fibre packet relay switch antenna carrier channel uplink beam sector handover latency".split()


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Site:
    """A factory and a box, and how to start them."""

    def __init__(self, a, folder):
        self.a, self.folder = a, folder
        self.link, self.web = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        self.quic, self.http = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        self.box = self.factory = None
        (folder / "box.toml").write_text(
            f'[state]\nfolder = "{folder}/state"\n[listen]\nquic = "127.0.0.1:{self.quic}"\nhttp = "127.0.0.1:{self.http}"\n'
            '[log]\ncontent_tenants = ["*"]\ncontent_share = 1.0\ndurability = "sync"\n[spool]\nbytes_max = "256MiB"\n'
            + (f'[models]\nring = "all"\nroot = "{folder}/store/ota/metadata/1.root.json"\ninterval_s = 1\n' if a.release else ""))

    def store(self):
        return ["--store", self.folder / "store"]

    def keys(self):
        return ["--keys", self.folder / "keys"]

    def start_factory(self):
        log = open(self.folder / "factory.log", "a")
        self.factory = subprocess.Popen(
            [self.a.factory, "serve", *self.store(), *self.keys(), "--listen", f"127.0.0.1:{self.link}",
             "--http", f"127.0.0.1:{self.web}", "--compact-interval", "1s"], stdout=log, stderr=log)
        self.wait("factory", self.web, "/ready", self.factory)

    def start_box(self):
        log = open(self.folder / "box.log", "a")
        model = ["--model", self.a.model] if self.a.model else []
        self.box = subprocess.Popen([self.a.outstation, "serve", "--config", self.folder / "box.toml", *model],
                                    stdout=log, stderr=log)
        self.wait("box", self.http, "/ready", self.box)

    def wait(self, name, port, path, process):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if process.poll() is not None:
                sys.exit(f"the {name} ended with {process.returncode}: see {self.folder}/{name}.log")
            if self.get(port, path)[0] == 200:
                return
            time.sleep(0.02)
        sys.exit(f"the {name} is not ready after a minute: see {self.folder}/{name}.log")

    def get(self, port, path):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""

    def enrol(self):
        made = subprocess.run([self.a.factory, "devices", "add", "--name", "box", *self.store(), *self.keys()],
                              capture_output=True, text=True, check=True)
        code = re.search(r"(?:[0-9A-Z]{6}-){6}[0-9A-Z]{6}", made.stdout)
        subprocess.run([self.a.outstation, "enrol", "--factory", f"127.0.0.1:{self.link}", code.group(0),
                        "--state", self.folder / "state"], check=True, stdout=subprocess.DEVNULL)

    def release(self):
        """A model in the store of releases, for everybody."""
        def factory(*words):
            subprocess.run([self.a.factory, *words], check=True, cwd=self.folder, stdout=subprocess.DEVNULL)
        for role in ("root", "targets", "models", "rollout", "snapshot", "timestamp"):
            factory("keys", "make", "--role", role, "--out", f"{role}.pem")
        roles = [w for r in ("root", "targets", "models", "rollout", "snapshot", "timestamp") for w in (f"--{r}", f"{r}.pem.pub")]
        online = ["--key", "snapshot.pem", "--key", "timestamp.pem"]
        factory("keys", "root", *self.store(), "--threshold", "1", "--models-threshold", "1", *roles, "--key", "root.pem",
                "--key", "targets.pem")
        factory("keys", "commit", *self.store(), *online)
        (self.folder / "prompts.txt").write_text("the antenna\n")
        golden = subprocess.run([self.a.outstation, "golden", "--model", self.a.release, "--prompts", self.folder / "prompts.txt"],
                                check=True, capture_output=True).stdout
        (self.folder / "golden.json").write_bytes(golden)
        factory("publish", self.a.release, *self.store(), "--name", "site", "--hardware", "cpu", "--golden", "golden.json",
                "--key", "models.pem", *online)
        factory("rollout", *self.store(), "--ring", "all", "--manifest", "site@1", "--soak", "1s", "--key", "rollout.pem", *online)

    def committed(self):
        return json.loads(self.get(self.http, "/models")[1] or "{}").get("committed")

    def serves(self):
        return json.loads(self.get(self.http, "/v1/models")[1])["data"][0]["id"]

    def spooled(self):
        status, body = self.get(self.http, "/status")
        return sum(json.loads(body)["log"]["spool_segments"]) if status == 200 else None


class Users(threading.Thread):
    """Asks without pause. What came whole is acknowledged."""

    def __init__(self, site, seed, issued, acked):
        super().__init__(daemon=True)
        self.site, self.rng, self.issued, self.acked, self.stopped = site, random.Random(seed), issued, acked, False

    def run(self):
        while not self.stopped:
            try:
                self.ask()
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)

    def ask(self):
        words = " ".join(self.rng.choice(WORDS) for _ in range(self.rng.randrange(3, 40)))
        body = json.dumps({"messages": [{"role": "user", "content": words}], "max_tokens": self.rng.randrange(1, 12),
                           "temperature": 1, "ignore_eos": True, "service_tier": "default"})
        connection = http.client.HTTPConnection("127.0.0.1", self.site.http, timeout=20)
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        whole = answer.read()
        if answer.status == 200:
            self.acked.append(json.loads(whole)["id"])


def read_rows(store):
    """Response ids of every committed row."""
    import pyarrow.parquet as pq
    live = {}
    for commit in sorted((store / "commits").glob("[0-9]*.json")):
        said = json.loads(commit.read_text())
        for output in said.get("outputs", []):
            live[output["key"]] = output
        for key in said.get("removed", []):
            live.pop(key, None)
    ids = collections.Counter()
    for key in live:
        table = pq.ParquetFile(store / key).read()
        if "gen_ai_response_id" in table.column_names and "gen_ai_operation_name" in table.column_names:
            ids.update(i for i in table.column("gen_ai_response_id").to_pylist() if i)
    return ids


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--outstation", required=True)
    p.add_argument("--factory", required=True)
    p.add_argument("--model", help="GGUF file; the demo model without it")
    p.add_argument("--release", type=lambda f: pathlib.Path(f).resolve(), help="GGUF file that the box gets over the air first")
    p.add_argument("--kills", type=int, default=20)
    p.add_argument("--users", type=int, default=4)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--folder", help="kept; a temporary one without it")
    a = p.parse_args()
    temporary = None if a.folder else tempfile.TemporaryDirectory(prefix="outstation-kill-")
    folder = pathlib.Path(a.folder or temporary.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    site, rng, acked = Site(a, folder), random.Random(a.seed), []
    site.start_factory()
    site.enrol()
    if a.release:
        site.release()
    site.start_box()
    deadline = time.monotonic() + 60
    while a.release and site.committed() != "site@1":
        if time.monotonic() > deadline:
            sys.exit(f"the release was not committed within a minute: see {folder}/box.log")
        time.sleep(0.1)
    committed, uncommitted = site.serves(), 0
    users = [Users(site, a.seed * 1000 + n, None, acked) for n in range(a.users)]
    for user in users:
        user.start()
    killed = collections.Counter()
    began = time.monotonic()
    try:
        for n in range(a.kills):
            time.sleep(rng.uniform(0.02, 0.4))
            what = rng.choice(("box", "factory", "both"))
            killed[what] += 1
            for name in ("box", "factory") if what == "both" else (what,):
                process = getattr(site, name)
                process.kill()
                process.wait()
            if what != "box":
                site.start_factory()
            if what != "factory":
                site.start_box()
                uncommitted += bool(a.release) and site.serves() != committed
            if n % 50 == 49:
                print(f"{n + 1} kills, {len(acked)} answers, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        for user in users:
            user.stopped = True
        for user in users:
            user.join(timeout=30)
        # The end of a box seals what is open; the next start sends it.
        site.box.terminate()
        site.box.wait()
        site.start_box()
        deadline = time.monotonic() + 120
        while site.spooled() != 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        left = site.spooled()
        subprocess.run([a.factory, "compact", *site.store(), *site.keys()], check=True, stdout=subprocess.DEVNULL)
    finally:
        for process in (site.box, site.factory):
            if process and process.poll() is None:
                process.kill()
                process.wait()
    rows = read_rows(folder / "store")
    lost = [i for i in acked if i not in rows]
    doubled = [i for i, count in rows.items() if count > 1]
    print(json.dumps({"kills": sum(killed.values()), **{f"killed_{k}": v for k, v in sorted(killed.items())},
                      "acknowledged": len(acked), "rows": sum(rows.values()), "lost": len(lost), "doubled": len(doubled),
                      "segments_left": left, "starts_without_the_release": uncommitted, "seconds": round(time.monotonic() - began)}))
    if lost or doubled or left or uncommitted:
        print(f"lost {lost[:5]} doubled {doubled[:5]}, see {folder}", file=sys.stderr)
        sys.exit(1)


main()
