#!/usr/bin/env python3
"""The closed loop on one machine: a factory, two boxes, users whose wording drifts, and nobody at the keyboard.

  closed_loop.py --bin target/release --out loop-run [--seed 1] [--kills 10] [--poison] [--compare 3]

Users of both boxes ask as the demo's test set does; after --before requests a share of them speaks a jargon that the model
never saw. Boxes flag what they find hard, the factory gets it, and `outstation-factory loop --once`, called again and again
as its timer would, makes an adapter of it, tries it on the ring `canary` and gives it to the ring `all`. Every answer is
compared with the right one. OUT gets loop.svg (accuracy over time), loop.json (all figures), and the factory's and boxes'
folders. --kills: loop, boxes and factory are killed at random, so often in all. --poison: of the labels three in ten are
wrong; nothing may be released. --before: a box needs 2000 requests to know what is usual. --compare N: afterwards, for the
same number of labels, N adapters learned from flagged and from random requests. Ends with 1 if what must hold does not.
Needs Python with matplotlib for the plot.
"""
import argparse, bisect, http.client, http.server, json, pathlib, random, re, signal, socket, statistics, subprocess, sys, threading, time


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(port, path):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""


class Site:
    """A factory, its keys and releases, and two boxes that belong to it."""

    RINGS = {"a": "canary", "b": "all"}

    def __init__(self, a):
        self.a, self.out = a, a.out
        self.outstation, self.program = a.bin / "outstation", a.bin / "outstation-factory"
        self.link, self.web = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        self.ports = {box: (free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)) for box in self.RINGS}
        self.running, self.lock = {}, threading.Lock()

    def factory(self, *words, **more):
        words = [self.program, *words]
        done = subprocess.run(words, cwd=self.out, text=True, capture_output=True, **more)
        if done.returncode:
            sys.exit(f"{words}: {done.stdout}{done.stderr}")
        return done.stdout

    def release(self):
        """The demo model, for both rings."""
        roles = ("root", "targets", "models", "rollout", "snapshot", "timestamp")
        for role in roles:
            self.factory("keys", "make", "--role", role, "--out", f"{role}.pem")
        named = [word for role in roles for word in (f"--{role}", f"{role}.pem.pub")]
        online = ["--key", "snapshot.pem", "--key", "timestamp.pem"]
        self.factory("keys", "root", "--store", "store", "--threshold", "1", "--models-threshold", "1", *named,
                     "--key", "root.pem", "--key", "targets.pem")
        self.factory("keys", "commit", "--store", "store", *online)
        with open(self.out / "site.gguf", "wb") as file:
            subprocess.run([self.outstation, "demo-model"], stdout=file, check=True)
        self.factory("publish", "site.gguf", "--store", "store", "--name", "site", "--key", "models.pem", *online)
        for ring in self.RINGS.values():
            self.factory("rollout", "--store", "store", "--ring", ring, "--manifest", "site@1", "--soak", "1s",
                         "--key", "rollout.pem", *online)

    def start_factory(self):
        self.run("factory", [self.program, "serve", "--store", "store", "--keys", "keys", "--listen",
                             f"127.0.0.1:{self.link}", "--http", f"127.0.0.1:{self.web}", "--compact-interval", "5s"], self.web)

    def enrol(self):
        for box in self.RINGS:
            made = self.factory("devices", "add", "--name", f"box {box}", "--store", "store", "--keys", "keys")
            code = re.search(r"(?:[0-9A-Z]{6}-){6}[0-9A-Z]{6}", made).group(0)
            subprocess.run([self.outstation, "enrol", "--factory", f"127.0.0.1:{self.link}", code, "--state",
                            self.out / f"box-{box}"], check=True, stdout=subprocess.DEVNULL)

    def start_box(self, box):
        quic, web = self.ports[box]
        config = self.out / f"box-{box}.toml"
        config.write_text(
            f'[state]\nfolder = "box-{box}"\n[listen]\nquic = "127.0.0.1:{quic}"\nhttp = "127.0.0.1:{web}"\n'
            f'[memory]\nlimit = "1GiB"\n[adapters]\ncount_max = 2\nrank_max = 16\ndefault = "jargon"\n'
            f'[log]\ncontent_tenants = ["*"]\ncontent_share = {1.0 if self.a.compare else 0.0}\nflagged_per_day = 100000\n'
            f'flagged_bytes_per_day = "1GiB"\n[models]\nring = "{self.RINGS[box]}"\n'
            f'root = "store/ota/metadata/1.root.json"\ninterval_s = 2\n')
        self.run(f"box-{box}", [self.outstation, "serve", "--config", config.name], web)

    def run(self, name, words, port):
        log = open(self.out / f"{name}.log", "a")
        process = subprocess.Popen(words, cwd=self.out, stdout=log, stderr=log)
        with self.lock:
            self.running[name] = process
        deadline = time.monotonic() + 60
        while get(port, "/ready")[0] != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} does not start: see {self.out}/{name}.log")
            time.sleep(0.05)

    def kill(self, name):
        with self.lock:
            process = self.running[name]
        process.kill()
        process.wait()
        if name == "factory":
            self.start_factory()
        else:
            self.start_box(name[-1])

    def stop(self):
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait(60)

    def serves(self, box):
        return json.loads(get(self.ports[box][1], "/models")[1] or "{}")

    def flagged(self):
        status = [get(self.ports[box][1], "/status") for box in self.RINGS]
        return sum(json.loads(body)["log"]["flagged"] for code, body in status if code == 200)


class Users(threading.Thread):
    """Ask one box, and note whether the answer is right."""

    def __init__(self, world, box, seed):
        super().__init__(daemon=True)
        self.world, self.box, self.rng = world, box, random.Random(seed)

    def run(self):
        world = self.world
        while not world.stopped:
            drifted = self.rng.random() < world.drift
            # Each question once, by one of fifty people: who asks again was not helped, and boxes flag that.
            case = (world.drifted if drifted else world.usual).pop()
            question, right = case["messages"][0]["content"], case["messages"][1]["content"]
            try:
                said, model = ask(world.site.ports[self.box][1], question, f"{self.name}-{self.rng.randrange(50)}")
            except (OSError, http.client.HTTPException, KeyError, ValueError):
                world.failed += 1
                time.sleep(0.2)
                continue
            world.answers.append({"t": time.monotonic() - world.began, "box": self.box, "drift": drifted,
                                  "right": same(said, right), "model": model})
            time.sleep(self.rng.expovariate(1 / world.pause) if world.pause else 0)


def ask(port, question, user):
    body = json.dumps({"messages": [{"role": "user", "content": question}], "max_tokens": 128, "temperature": 0,
                       "safety_identifier": user})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    return answer["choices"][0]["message"]["content"], answer["model"]


def same(said, right):
    try:
        wanted = json.loads(right)
    except ValueError:
        return said.strip() == right.strip()
    try:
        return json.loads(said) == wanted
    except ValueError:
        return False


class Liar(http.server.BaseHTTPRequestHandler):
    """Labels as the oracle does, and of ten answers flips three."""

    oracle, asked = {}, 0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        right = self.oracle(body["messages"][-1]["content"])
        type(self).asked += 1
        if self.asked % 10 < 3:
            right = json.dumps({"action": "restart", "site": "AAA-000", "unit": "radio"})
        text = json.dumps({"choices": [{"message": {"content": right}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class World:
    def __init__(self, a):
        self.a, self.site = a, Site(a)
        self.rng, self.stopped, self.failed, self.drift, self.pause = random.Random(a.seed), False, 0, 0.0, 0.0
        self.answers, self.events, self.flags, self.kills = [], [], [], 0

    def data(self, name, chosen, count, seed, *words):
        self.site.factory("demo", "data", "--set", chosen, "--count", str(count), "--seed", str(seed), "--out", name, *words)
        return [json.loads(line) for line in (self.a.out / name).read_text().splitlines()]

    def prepare(self):
        seed = self.a.seed
        # Who asks, who is judged, and what is replayed are different draws.
        # The first draws are asked first: at the end of all there are only questions of which there are very many.
        once = lambda cases: list({case["messages"][0]["content"]: case for case in cases}.values())[::-1]
        self.usual = once(self.data("usual.jsonl", "test", 60000, 100 + seed))
        self.drifted = once(self.data("drifted.jsonl", "drift", 60000, 200 + seed))
        self.jargon = {case["messages"][0]["content"] for case in self.drifted}
        self.data("old-test.jsonl", "test", 1500, 300 + seed)
        self.data("new-test.jsonl", "drift", 900, 400 + seed)
        self.data("replay.jsonl", "train", 40000, 500 + seed, "--loose", "50")
        labels = 'by = "oracle"'
        if self.a.poison:
            labels = f'by = "api"\nurl = "http://127.0.0.1:{self.lie()}/v1"\nmodel = "liar"'
        (self.a.out / "loop.toml").write_text(
            f'work = "loop"\nstore = "store"\nkeys = ["models.pem", "rollout.pem", "snapshot.pem", "timestamp.pem"]\n'
            f'outstation = "{self.site.outstation}"\n[model]\nfile = "site.gguf"\nadapter = "jargon"\nrelease = "site-jargon"\n'
            f'[rings]\ncanary = "canary"\nfleet = ["all"]\npatience_s = 20\n[cases]\nmin = {self.a.cases}\nmax = {self.a.cases}\n'
            f'[labels]\n{labels}\n[train]\nreplay = ["replay.jsonl"]\n{self.a.train}\n'
            f'[gate]\nold = ["old-test.jsonl"]\n')

    def lie(self):
        def oracle(question):
            done = subprocess.run([self.site.program, "demo", "label"], input=question + "\n", text=True, capture_output=True)
            return done.stdout.strip() or "?"
        Liar.oracle = staticmethod(oracle)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_address[1]

    def note(self, what):
        at = time.monotonic() - self.began
        print(f"{at:7.1f} s  {what}", flush=True)
        self.events.append({"t": at, "what": what})

    def watch(self):
        while not self.stopped:
            self.flags.append([time.monotonic() - self.began, self.site.flagged()])
            time.sleep(2)

    def murder(self):
        """Kills one of the four at random times while the loop runs."""
        while not self.stopped and self.kills < self.a.kills:
            time.sleep(self.rng.uniform(5, 80))
            loop = self.looping
            runs = loop is not None and loop.poll() is None
            name = self.rng.choice(["factory", "box-a", "box-b"] + 3 * ["loop"] * runs)
            if name == "loop":
                loop.kill()
            else:
                self.site.kill(name)
            self.kills += 1
            self.note(f"killed: {name}")

    def loop(self):
        """Calls the loop as its timer would, until a round has ended."""
        self.looping = None
        deadline = time.monotonic() + 3600
        while time.monotonic() < deadline:
            words = [self.site.program, "loop", "--once", "--config", "loop.toml"]
            self.looping = subprocess.Popen(words, cwd=self.a.out, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            last = ""
            for line in self.looping.stdout:
                line = line.strip()
                if not line.startswith("step ") and "nothing to do yet" not in line:
                    self.note(line)
                if line.startswith("it learns from"):
                    # Boxes of their own would not take cores from the training.
                    self.pause = 0.6
                last = line
            self.looping.wait()
            if re.match(r"round \d+ is ", last):
                return last
            time.sleep(5)
        sys.exit("no round ended within an hour")

    def ended(self):
        return json.loads((self.a.out / "loop/0001/round.json").read_text())


def windows(answers, seconds):
    """Share of right answers in windows of time."""
    points = {}
    for answer in answers:
        n = int(answer["t"] // seconds)
        right, all = points.get(n, (0, 0))
        points[n] = (right + answer["right"], all + 1)
    return [((n + 0.5) * seconds / 60, 100 * right / all) for n, (right, all) in sorted(points.items()) if all >= 20]


def plot(world, out):
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot as plt
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, height_ratios=[3, 1])
    for name, chosen, colour in (("all", lambda it: True, "#222222"), ("the usual wording", lambda it: not it["drift"], "#2a7"),
                                 ("the new wording", lambda it: it["drift"], "#d33")):
        points = windows([it for it in world.answers if chosen(it)], 20)
        upper.plot([x for x, _ in points], [y for _, y in points], label=name, color=colour, linewidth=2 if name == "all" else 1.2)
    upper.set_ylabel("right answers, %")
    upper.set_ylim(0, 101)
    lower.set_xlabel("minutes")
    lower.set_ylabel("flagged, %")
    flags, times = world.flags[::10], sorted(it["t"] for it in world.answers)
    asked = [bisect.bisect(times, at) for at, _ in flags]
    spans = zip(flags, flags[1:], asked, asked[1:])
    rates = [((a[0] + b[0]) / 120, 100 * max(0, b[1] - a[1]) / (m - n)) for a, b, n, m in spans if m > n]
    lower.plot([x for x, _ in rates], [y for _, y in rates], color="#46c", linewidth=1.2)
    lower.set_ylim(0)
    marks = [("drift begins", "drift"), ("training", "it learns from"), ("canary", "ring canary gets it"), ("fleet", "ring all gets it")]
    for label, start in marks:
        found = [event["t"] / 60 for event in world.events if event["what"].startswith(start)]
        if found:
            for axis in (upper, lower):
                axis.axvline(found[0], color="#888", linewidth=0.8, linestyle="--")
            upper.annotate(label, (found[0], 3), rotation=90, fontsize=9, color="#555", ha="right", va="bottom")
    upper.legend(loc="lower right")
    for axis in (upper, lower):
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out)


def judged(site, out, data, *words):
    site.factory("eval", "--data", data, *words, "--out", out, "--outstation", site.outstation)
    return json.loads((site.out / out).read_text())


def compare(world, since_us):
    """Adapters of flagged and of random requests, from the time between the drift and its end, with as many labels. Of the
    questions in jargon so many are left out that --compare-share of all is left: half of all is more than a drift begins with."""
    site, a, rng = world.site, world.a, random.Random(world.a.seed)
    pools = {}
    for name, words in (("flagged", ["--where", "flagged"]), ("random", [])):
        site.factory("export", "--store", "store", "--out", f"{name}.jsonl", *words)
        cases = [json.loads(line) for line in (a.out / f"{name}.jsonl").read_text().splitlines()]
        pools[name] = [case for case in cases if case["metadata"]["time_us"] >= since_us and "jargon" not in case["metadata"]["model"]]
    asked = lambda case: case["messages"][-2]["content"]
    usual = sum(asked(case) not in world.jargon for case in pools["random"])
    wanted = int(usual * a.compare_share / (1 - a.compare_share))
    jargon = sorted({asked(case) for case in pools["random"]} & world.jargon)
    replay = (a.out / "replay.jsonl").read_text().splitlines()
    results = []
    for n in range(a.compare):
        kept = set(rng.sample(jargon, min(wanted, len(jargon))))
        thin = {name: [case for case in pool if asked(case) not in world.jargon or asked(case) in kept] for name, pool in pools.items()}
        count = min(a.labels, *map(len, thin.values()))
        for name, pool in thin.items():
            chosen = rng.sample(pool, count)
            questions = "\n".join(asked(case).replace("\n", " ") for case in chosen) + "\n"
            labels = subprocess.run([site.program, "demo", "label"], input=questions, text=True, capture_output=True).stdout.split("\n")
            lines = [json.dumps({"messages": [*case["messages"][:-1], {"role": "assistant", "content": label}]})
                     for case, label in zip(chosen, labels) if label]
            (a.out / "new.jsonl").write_text("\n".join(lines * 10) + "\n")
            (a.out / "old.jsonl").write_text("\n".join(rng.sample(replay, 10 * len(lines))) + "\n")
            run = f"compare-{name}-{n}"
            tokens = 20 * len(lines) * 42
            site.factory("train", "--data", "new.jsonl", "--data", "old.jsonl", "--base", "site.gguf", "--lora", "16", "--steps",
                         str(tokens // 1024), "--batch-tokens", "1024", "--rate", "2e-3", "--cut", "15", "--seed", str(n + 1),
                         "--out", run)
            report = judged(site, f"{run}.json", "new-test.jsonl", "--serve", "site.gguf", "--adapter", f"{run}/adapter.gguf")
            drifted = sum(asked(case) in world.jargon for case in chosen)
            results.append({"by": name, "n": n, "of": len(pool), "labels": len(lines), "of_the_new_wording": drifted, **report["report"]["all"]})
            print(results[-1], flush=True)
    right = {name: [it["percent"] for it in results if it["by"] == name] for name in pools}
    differences = [a - b for a, b in zip(right["flagged"], right["random"])]
    mean = statistics.mean(differences)
    line = f"flagged against random, {a.compare} draws of {a.labels} labels: {mean:+.1f} points"
    if 2 <= a.compare <= 10:
        # Student's t for 95 %.
        t = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26][a.compare - 2]
        half = t * statistics.stdev(differences) / a.compare**0.5
        line += f" ({mean - half:+.1f} to {mean + half:+.1f})"
    print(line)
    return results


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"))
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("loop-run"))
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--before", type=int, default=5000, help="requests before the drift")
    p.add_argument("--share", type=float, default=0.5, help="of requests that speak the jargon, then")
    p.add_argument("--after", type=int, default=1500, help="requests after the round")
    p.add_argument("--cases", type=int, default=1500, help="flagged cases of a round")
    p.add_argument("--train", default="passes = 8\ncut = 15", help="lines of [train] in the loop's settings")
    p.add_argument("--kills", type=int, default=0)
    p.add_argument("--poison", action="store_true")
    p.add_argument("--compare", type=int, default=0)
    p.add_argument("--labels", type=int, default=80, help="labels of each adapter that is compared")
    p.add_argument("--compare-share", type=float, default=0.1, help="of requests that speak the jargon, there")
    a = p.parse_args()
    a.bin, a.out = a.bin.resolve(), a.out.resolve()
    a.out.mkdir(parents=True)
    world = World(a)
    site = world.site
    world.prepare()
    site.release()
    site.start_factory()
    site.enrol()
    for box in site.RINGS:
        site.start_box(box)
    while any(site.serves(box).get("committed") != "site@1" for box in site.RINGS):
        time.sleep(0.5)
    world.began = time.monotonic()
    world.note("both boxes serve the demo model")
    for n, box in enumerate(2 * list(site.RINGS)):
        Users(world, box, a.seed + n).start()
    threading.Thread(target=world.watch, daemon=True).start()
    while len(world.answers) < a.before:
        time.sleep(0.5)
    since_us = time.time_ns() // 1000
    world.note("drift begins")
    world.drift, world.pause = a.share, 0.05
    if a.kills:
        threading.Thread(target=world.murder, daemon=True).start()
    ended = world.loop()
    world.kills = a.kills
    world.pause = 0.05
    released = world.ended()["ended"] == "released"
    if released:
        deadline = time.monotonic() + 120
        while any("jargon" not in dict(site.serves(box).get("adapters", [])) for box in site.RINGS):
            if time.monotonic() > deadline:
                sys.exit("the adapter does not come")
            time.sleep(0.5)
        world.note("both boxes serve the adapter")
    target = len(world.answers) + a.after
    while len(world.answers) < target:
        time.sleep(0.5)
    world.stopped = True
    time.sleep(2)
    result = {"ended": ended, "round": world.ended(), "failed": world.failed, "kills": a.kills, "events": world.events}
    url = f"http://127.0.0.1:{site.ports['b'][1]}/v1"
    for name in ("old", "new"):
        # What a user of the second box gets, and what the demo model alone says.
        result[name] = judged(site, f"{name}.json", f"{name}-test.jsonl", "--url", url, "--against", "site")
    boxes = {box: site.serves(box) for box in site.RINGS}
    result["releases"] = [event["what"] for event in world.events if event["what"].startswith("released as")]
    site.stop()
    if a.compare:
        result["compare"] = compare(world, since_us)
    (a.out / "loop.json").write_text(json.dumps(result, indent=1) + "\n")
    (a.out / "answers.json").write_text(json.dumps({"answers": world.answers, "flags": world.flags}))
    try:
        plot(world, a.out / "loop.svg")
    except ImportError:
        print("no plot: matplotlib is not installed")
    before = {name: result[name]["against"][0] for name in ("old", "new")}
    difference = {name: before[name]["difference"] for name in before}
    for name in ("old", "new"):
        percent = [report["report"]["all"]["percent"] for report in (before[name], result[name])]
        print(f"{name} wording: {percent[0]:.1f} % → {percent[1]:.1f} % "
              f"({difference[name]['points']:+.1f} points, {difference[name]['low']:+.1f} to {difference[name]['high']:+.1f})")
    if a.poison:
        good = not released and all(not models.get("adapters") for models in boxes.values())
        print("the gate stopped it, and no box saw it" if good else "A POISONED ADAPTER WAS RELEASED")
    else:
        good = (released and len(result["releases"]) <= 1 and result["new"]["report"]["all"]["percent"] >= 90
                and before["new"]["report"]["all"]["percent"] <= 60 and difference["old"]["points"] >= -1)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
