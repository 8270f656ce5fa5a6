#!/usr/bin/env python3
"""The image of a box in an emulated machine: it boots to READY, answers over QUIC, and survives what happens to boxes.

  boot.py --image dist/outstation.img --bin target/debug [--ssh dist/outstation.raucb] [--keep]

The image is copied, its seed partition gets a configuration, certificates and a code, and a factory waits on this machine.
  1  first boot to READY; an answer over QUIC; enrolled; a model's download is under way: the plug is pulled
  2  second boot: the download went on where it was, and the model is committed; people ask, each answer only
     counts once its record is on the disk: the plug is pulled while they do
  3  third boot: the factory has every acknowledged record, once; then blocks of the running root are overwritten, and the plug
  4  the damaged root is tried three times, and the other one comes up, READY, with the committed model
  5  with --ssh: the bundle is installed over the damaged root, which then starts and is called good
QEMU emulates the processor in software, so no time here is one of a real box. Everything listens on loopback. Needs
qemu-system-x86, ovmf, mtools and openssl. Prints a line for each check, and ends with 1 at the first that fails.
"""
import argparse, http.client, json, pathlib, random, re, shutil, socket, ssl, subprocess, sys, tempfile, threading, time

HERE = "127.0.0.1"
HOST = "10.0.2.2"  # this machine, as QEMU's own network shows it to the guest
SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
PATIENCE = 300  # seconds for anything: the emulated processor is some twenty times slower


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind((HERE, 0))
        return s.getsockname()[1]


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"FAIL {command}: {done.stderr or done.stdout}")
    return done.stdout


def until(what, check, patience=PATIENCE, instead=lambda: ""):
    """Waits until `check` says something true, and gives it back; if it never does, ends with what is there `instead`."""
    started, last = time.monotonic(), None
    while time.monotonic() - started < patience:
        try:
            last = check()
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, subprocess.TimeoutExpired):
            last = None
        if last:
            return last
        time.sleep(0.5)
    sys.exit(f"FAIL not {what} after {patience} s {instead()}")


def passed(what):
    print(f"PASS {what}", flush=True)


class Partitions:
    """Where what lies in an image."""

    def __init__(self, image):
        self.image = image
        table = json.loads(run("sfdisk", "--json", image))["partitiontable"]["partitions"]
        self.at = {p["name"]: (p["start"] * 512, p["size"] * 512) for p in table}

    def fat(self, name):
        return f"{self.image}@@{self.at[name][0]}"

    def grub(self):
        """GRUB's variables."""
        text = run("mtype", "-i", self.fat("esp"), "::/grub/grubenv")
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def damage(self, name, seed):
        """Random bytes over blocks all over a squashfs, and over its end, which each start reads first."""
        rng = random.Random(seed)
        start, _ = self.at[name]
        with open(self.image, "r+b") as f:
            f.seek(start + 40)
            used = int.from_bytes(f.read(8), "little")  # `bytes_used` of its superblock
            for at in [rng.randrange(used) for _ in range(100)] + [used - 4096]:
                f.seek(start + at // 4096 * 4096)
                f.write(rng.randbytes(4096))


class Machine:
    """An emulated machine. Dropping it is pulling the plug."""

    def __init__(self, image, folder, ports):
        self.folder, self.ports = folder, ports
        self.serial = folder / f"serial-{len(list(folder.glob('serial-*')))}.log"
        forwards = ",".join([f"hostfwd=udp:{HERE}:{ports['quic']}-:4433", f"hostfwd=tcp:{HERE}:{ports['http']}-:8080",
                             f"hostfwd=tcp:{HERE}:{ports['ssh']}-:22"])
        code = "/usr/share/OVMF/OVMF_CODE.fd"
        variables = folder / "vars.fd"
        if not variables.exists():
            shutil.copy("/usr/share/OVMF/OVMF_VARS.fd", variables)
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048",
             "-display", "none", "-monitor", "none", "-serial", f"file:{self.serial}", "-nic", f"user,model=virtio-net-pci,{forwards}",
             "-drive", f"if=pflash,format=raw,readonly=on,file={code}", "-drive", f"if=pflash,format=raw,file={variables}",
             "-drive", f"if=virtio,format=raw,file={image}", "-device", "virtio-rng-pci"])

    def said(self):
        text = self.serial.read_text(errors="replace") if self.serial.exists() else ""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def ready(self, what):
        """READY, as the unit says it on the serial console once systemd heard it."""
        def look():
            if self.process.poll() is not None:
                sys.exit("FAIL QEMU ended")
            return "outstation: READY" in self.said()
        until(f"READY ({what})", look, 600)
        took = time.monotonic() - self.started
        passed(f"{what}: READY on the serial console {took:.0f} s after power on, emulated")
        return took

    def unplug(self):
        self.process.kill()
        self.process.wait()


class Site:
    """A factory here, a box in the machine, and somebody who asks."""

    def __init__(self, a, folder):
        self.a, self.folder = a, folder
        self.ports = {"quic": free_port(socket.SOCK_DGRAM), "http": free_port(socket.SOCK_STREAM),
                      "ssh": free_port(socket.SOCK_STREAM)}
        self.link, self.web = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        self.stored = ["--store", folder / "store"]
        self.keyed = ["--keys", folder / "keys"]
        self.certificates()

    def program(self, name, *arguments, **more):
        return run(self.a.bin / name, *arguments, cwd=self.folder, **more)

    def certificates(self):
        f = self.folder
        for name in ("servers", "clients"):
            run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650",
                "-subj", f"/CN={name}", "-keyout", f / f"{name}.key", "-out", f / f"{name}.pem")
        for name, authority, more in (("box", "servers", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
                                      ("hall-3", "clients", "extendedKeyUsage=clientAuth")):
            run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f / f"{name}.key", "-out", f / f"{name}.csr")
            (f / f"{name}.ext").write_text(f"basicConstraints=CA:FALSE\n{more}\n")
            run("openssl", "x509", "-req", "-in", f / f"{name}.csr", "-CA", f / f"{authority}.pem", "-CAkey",
                f / f"{authority}.key", "-CAcreateserial", "-days", "365", "-extfile", f / f"{name}.ext", "-out", f / f"{name}.pem")

    def start_factory(self):
        log = open(self.folder / "factory.log", "w")
        self.factory = subprocess.Popen(
            [self.a.bin / "outstation-factory", "serve", *self.stored, *self.keyed, "--listen", f"{HERE}:{self.link}",
             "--http", f"{HERE}:{self.web}", "--compact-interval", "1s"], stdout=log, stderr=log, cwd=self.folder)
        def answers():
            connection = http.client.HTTPConnection(HERE, self.web, timeout=5)
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        until("a factory", answers, 60)

    def releases(self):
        """A model in the store of releases, on its way to everybody."""
        for role in ("root", "targets", "models", "rollout", "snapshot", "timestamp"):
            self.program("outstation-factory", "keys", "make", "--role", role, "--out", f"{role}.pem")
        self.program("outstation-factory", "keys", "root", *self.stored, "--threshold", "1", "--root", "root.pem.pub", "--targets",
                     "targets.pem.pub", "--models", "models.pem.pub", "--models-threshold", "1", "--rollout", "rollout.pem.pub",
                     "--snapshot", "snapshot.pem.pub", "--timestamp", "timestamp.pem.pub", "--key", "root.pem", "--key", "targets.pem")
        online = ["--key", "snapshot.pem", "--key", "timestamp.pem"]
        self.program("outstation-factory", "keys", "commit", *self.stored, *online)
        shutil.copy(self.a.model, self.folder / "site.gguf")
        (self.folder / "prompts.txt").write_text("the antenna\n")
        golden = self.program("outstation", "golden", "--model", "site.gguf", "--prompts", "prompts.txt")
        (self.folder / "golden.json").write_text(golden)
        self.program("outstation-factory", "publish", "site.gguf", *self.stored, "--name", "site", "--hardware", "cpu",
                     "--golden", "golden.json", "--key", "models.pem", *online)
        self.program("outstation-factory", "rollout", *self.stored, "--ring", "all", "--manifest", "site@1", "--soak", "1s",
                     "--key", "rollout.pem", *online)

    def seed(self, parts):
        """What somebody with a laptop puts on the seed partition."""
        made = self.program("outstation-factory", "devices", "add", "--name", "mast-1", *self.stored, *self.keyed)
        code = re.search(r"(?:[0-9A-Z]{6}-){6}[0-9A-Z]{6}", made).group(0)
        tree = self.folder / "seed"
        etc = tree / "etc/outstation"
        etc.mkdir(parents=True)
        (tree / "enrol.env").write_text(f"ENROL_FACTORY={HOST}:{self.link}\nENROL_CODE={code}\n")
        for name in ("box.pem", "box.key", "clients.pem"):
            shutil.copy(self.folder / name, etc / name)
        shutil.copy(self.folder / "store/ota/metadata/1.root.json", etc / "root.json")
        (etc / "outstation.toml").write_text(
            '[memory]\nlimit = "1500MiB"\n[access]\nkeys = "/etc/outstation/keys.json"\n'
            'certificate = "/etc/outstation/box.pem"\nprivate_key = "/etc/outstation/box.key"\n'
            'client_authority = "/etc/outstation/clients.pem"\n'
            '[log]\ncontent_tenants = ["*"]\ncontent_share = 1.0\ndurability = "sync"\n'
            '[models]\nring = "all"\nroot = "/etc/outstation/root.json"\ninterval_s = 2\nbytes_per_s_max = "20KiB"\n'
            # An emulated processor is no measure of a model.
            '[serving.interactive]\nttft_ms = 60000\nitl_ms = 10000\n')
        key = self.program("outstation", "keys", "add", "boot", "--tenant", "boot", "--config", etc / "outstation.toml",
                           env={"OUTSTATION_ACCESS__KEYS": str(etc / "keys.json")})
        self.key = re.search(r"osk-\S+", key).group(0)
        drop_in = tree / "etc/systemd/system/outstation.socket.d/ports.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text("[Socket]\nListenDatagram=\nListenStream=\nListenDatagram=[::]:4433\nListenStream=[::]:8080\n")
        if self.a.ssh:
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "login")
            shutil.copy(self.folder / "login.pub", tree / "authorized_keys")
        run("mcopy", "-s", "-i", parts.fat("seed"), *[f for f in tree.iterdir()], "::/")

    def get(self, method, path, body=None, timeout=60):
        context = ssl.create_default_context(cafile=self.folder / "servers.pem")
        connection = http.client.HTTPSConnection(HERE, self.ports["http"], timeout=timeout, context=context)
        connection.request(method, path, body, {"authorization": f"Bearer {self.key}", "content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text)

    def models(self):
        status, body = self.get("GET", "/models")
        return body if status == 200 else None

    def ask_quic(self, what):
        f = self.folder
        def asked():
            return subprocess.run(
                [self.a.bin / "outstation", "ask", "--url", f"quic://{HERE}:{self.ports['quic']}", "--ca", f / "servers.pem",
                 "--certificate", f / "hall-3.pem", "--key", f / "hall-3.key", "--tokens", "8", "the antenna"],
                capture_output=True, text=True, timeout=60).stdout.strip()
        text = until(f"an answer over QUIC ({what})", asked)
        passed(f"{what}: an answer over QUIC: {text[:60]!r}")

    def ssh(self, *command, **more):
        return subprocess.run(
            ["ssh", "-q", "-i", str(self.folder / "login"), "-p", str(self.ports["ssh"]), "-o", "StrictHostKeyChecking=no",
             "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=30", f"root@{HERE}", *command],
            capture_output=True, text=True, timeout=600, **more)


class People(threading.Thread):
    """Ask without pause, and keep what was answered to the end."""

    def __init__(self, site, name):
        super().__init__(daemon=True)
        self.site, self.name_, self.acked, self.stopped = site, name, [], False

    def run(self):
        number = 0
        while not self.stopped:
            number += 1
            text = f"{self.name_} asks {number}"
            # An answer that ends at its first token is empty, and `export` leaves it out.
            body = json.dumps({"model": "default", "max_tokens": 8, "ignore_eos": True,
                               "messages": [{"role": "user", "content": text}]})
            try:
                if self.site.get("POST", "/v1/chat/completions", body)[0] == 200:
                    self.acked.append(text)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.2)


def exported(site):
    """How often the factory has each prompt."""
    lines = site.program("outstation-factory", "export", *site.stored, "--duplicates", "--format", "chat-jsonl").splitlines()
    texts = [m["content"] for line in lines for m in json.loads(line)["messages"] if m["role"] == "user"]
    return {text: texts.count(text) for text in texts}


class Trial:
    """One machine through all that happens to it."""

    def __init__(self, a, folder):
        self.a, self.folder = a, folder
        self.image = folder / "disk.img"
        run("cp", "--sparse=always", a.image, self.image)
        run("truncate", "-s", "4G", self.image)  # a disk that is larger than the image, as all are
        self.parts = Partitions(self.image)
        self.site = Site(a, folder)
        self.machine = None

    def start(self, what):
        self.machine = Machine(self.image, self.folder, self.site.ports)
        return self.machine.ready(what)

    def serves_what_was_committed(self):
        committed = until("the models", self.site.models)["committed"]
        if committed != "site@1":
            sys.exit(f"FAIL it serves {committed}")

    def a_fresh_image_boots_to_ready_and_joins_its_fleet(self):
        self.site.start_factory()
        self.site.releases()
        self.site.seed(self.parts)
        took = self.start("first boot")
        if took > self.a.ready_max:
            sys.exit(f"FAIL first boot took {took:.0f} s, {self.a.ready_max:.0f} are allowed")
        self.site.ask_quic("first boot")

    def a_download_goes_on_after_a_power_cut(self):
        def under_way():
            candidate = (self.site.models() or {}).get("candidate") or {}
            there, whole = candidate.get("bytes_there", 0), candidate.get("bytes", 0)
            if there and there == whole:
                sys.exit("FAIL the download was over before anybody looked: lower bytes_per_s_max")
            return there and candidate
        before = until("a download under way", under_way)
        self.machine.unplug()
        passed(f"pulled the plug in the middle of a download, at {before['bytes_there']} bytes of {before['bytes']}")
        left = run("mdir", "-b", "-i", self.parts.fat("seed"), "::/").split()
        if [f for f in left if "README" not in f.upper()]:
            sys.exit(f"FAIL the seed partition still has {left}")
        passed("the seed was taken over, and removed")
        self.start("second boot")
        def going_on():
            models = self.site.models() or {}
            if models.get("committed") == "site@1":
                sys.exit("FAIL the download was over before anybody looked: lower bytes_per_s_max")
            return (models.get("candidate") or {}).get("bytes_there")
        there = until("the download going on", going_on)
        if there < before["bytes_there"]:
            sys.exit(f"FAIL the download began anew: at {there} bytes, after {before}")
        until("committed", lambda: self.site.models()["committed"] == "site@1")
        passed(f"the download went on, at {there} bytes when first seen, and the model is committed")

    def acknowledged_records_outlive_a_power_cut(self):
        people = [People(self.site, name) for name in ("ada", "bob", "cy")]
        for person in people:
            person.start()
        until("thirty answers", lambda: sum(len(p.acked) for p in people) >= 30)
        self.machine.unplug()
        for person in people:
            person.stopped = True
        for person in people:
            person.join()
        acked = [text for person in people for text in person.acked]
        passed(f"pulled the plug while people asked, after {len(acked)} answers")
        self.start("third boot")
        self.site.ask_quic("third boot")
        self.serves_what_was_committed()
        def missing():
            have = exported(self.site)
            return f"missing {sorted(set(acked) - set(have))} of {sorted(have)}; the box: {self.site.get('GET', '/status')}"
        have = until("every record", lambda: (lambda h: set(acked) <= set(h) and h)(exported(self.site)), instead=missing)
        doubled = {text: n for text, n in have.items() if n > 1 and text in acked}
        if doubled:
            sys.exit(f"FAIL more than once: {doubled}")
        passed(f"the factory has all {len(acked)} acknowledged records, each once")

    def a_damaged_root_falls_back(self):
        until("called good", lambda: self.parts.grub().get("A_TRY") == "0", 300)
        passed("the root was read to its end and called good")
        self.machine.unplug()
        self.parts.damage("root-a", 7)
        self.start("with the first root damaged")
        said = self.machine.said()
        tries = [n for n in (1, 2, 3) if f"slot A, try {n} of 3" in said]
        if tries != [1, 2, 3] or "slot B, try 1 of 3" not in said:
            sys.exit(f"FAIL tries of A: {tries}; see {self.machine.serial}")
        self.site.ask_quic("from the second root")
        self.serves_what_was_committed()
        passed("the damaged root was tried three times, then the other one came up with the committed model")

    def a_bundle_mends_a_root(self):
        until("called good", lambda: self.parts.grub().get("B_TRY") == "0", 300)
        with open(self.a.ssh, "rb") as f:
            sent = self.site.ssh("cat >/var/tmp/new.raucb", stdin=f)
        if sent.returncode:
            sys.exit(f"FAIL the bundle did not get there: {sent.stderr}")
        done = self.site.ssh("rauc install /var/tmp/new.raucb 2>&1 && rm /var/tmp/new.raucb && sync && systemctl reboot")
        if "succeeded" not in done.stdout:
            sys.exit(f"FAIL rauc install: {done.stdout} {done.stderr}")
        passed("rauc installed the bundle over the damaged root")
        until("started from A", lambda: "slot A, try 1 of 3" in self.machine.said().rsplit("slot B", 1)[-1])
        until("called good", lambda: self.parts.grub().get("A_TRY") == "0" and self.parts.grub().get("ORDER", "").startswith("A"), 420)
        self.site.ask_quic("from the new root")
        passed("the new root started and was called good")

    def end(self):
        for process in [self.machine and self.machine.process, getattr(self.site, "factory", None)]:
            if process and process.poll() is None:
                process.kill()
                process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=pathlib.Path, required=True)
    parser.add_argument("--bin", type=lambda p: pathlib.Path(p).resolve(), required=True, help="folder of both programs")
    parser.add_argument("--model", type=pathlib.Path, default=SHARED / "golden/llama.BF16.gguf", help="what is released")
    parser.add_argument("--ssh", type=pathlib.Path, metavar="BUNDLE", help="also install this")
    parser.add_argument("--ready-max", type=float, default=180, help="seconds of emulation to READY at the first boot")
    parser.add_argument("--keep", action="store_true", help="leave the folder with image and logs")
    a = parser.parse_args()
    if not a.model.exists():
        print(f"SKIP: there is no {a.model}; say --model FILE.gguf")
        return
    folder = pathlib.Path(tempfile.mkdtemp(prefix="boot-"))
    trial = Trial(a, folder)
    try:
        trial.a_fresh_image_boots_to_ready_and_joins_its_fleet()
        trial.a_download_goes_on_after_a_power_cut()
        trial.acknowledged_records_outlive_a_power_cut()
        trial.a_damaged_root_falls_back()
        if a.ssh:
            trial.a_bundle_mends_a_root()
        trial.machine.unplug()
        print("all checks passed")
    finally:
        trial.end()
        if a.keep:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
