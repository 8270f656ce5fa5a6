#!/usr/bin/env python3
"""What writing everything down costs: the same load with the log off and on, in turn.

  logged.py --outstation BIN --factory BIN --model M.gguf [--rounds 6] [--seconds 20] [--users 4]

Two boxes serve the same model, one of them enrolled at a factory with every request kept with its words; only one is asked at a
time. Prints one JSON line: medians over the rounds of tokens/s, of the 50th and 99th percentile of TTFT, and of processor time
for each token (all threads of the box), off and on, and the median of the ratios of neighbours. Standard library only.
"""
import argparse, http.client, json, os, pathlib, random, re, socket, statistics, subprocess, sys, tempfile, threading, time

WORDS = "signal tower fibre packet relay switch antenna carrier channel uplink beam sector handover latency".split()


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(port):
    for _ in range(1200):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"nothing is ready at port {port}")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port, users, seconds, seed):
    """Closed loop: each user asks again as soon as the answer is there."""
    end, lock, ttfts, tokens = time.monotonic() + seconds, threading.Lock(), [], [0]

    def user(number):
        rng = random.Random(seed * 1000 + number)
        while time.monotonic() < end:
            words = " ".join(rng.choice(WORDS) for _ in range(60))
            body = json.dumps({"messages": [{"role": "user", "content": words}], "max_tokens": 48, "stream": True,
                               "temperature": 0.7, "seed": rng.randrange(1 << 30), "ignore_eos": True, "service_tier": "default"})
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            answer, first, count = connection.getresponse(), None, 0
            for line in answer:
                if line.startswith(b"data: {") and b'"content"' in line:
                    first = first or time.monotonic() - began
                    count += 1
            with lock:
                if first:
                    ttfts.append(first)
                tokens[0] += 48 if first else 0

    threads = [threading.Thread(target=user, args=(n,)) for n in range(users)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    ttfts.sort()
    return tokens[0], took, ttfts


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--outstation", required=True)
    p.add_argument("--factory", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--rounds", type=int, default=6)
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--users", type=int, default=4)
    a = p.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="outstation-logged-"))
    link, web = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
    where = ["--store", folder / "store", "--keys", folder / "keys"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen([a.factory, "serve", *where, "--listen", f"127.0.0.1:{link}", "--http", f"127.0.0.1:{web}"], **quiet)]
    try:
        wait(web)
        made = subprocess.run([a.factory, "devices", "add", "--name", "box", *where], capture_output=True, text=True, check=True)
        code = re.search(r"(?:[0-9A-Z]{6}-){6}[0-9A-Z]{6}", made.stdout).group(0)
        subprocess.run([a.outstation, "enrol", "--factory", f"127.0.0.1:{link}", code, "--state", folder / "state"], check=True, **quiet)
        boxes = {}
        for name in ("off", "on"):
            state = folder / "state" if name == "on" else folder / "nobody"
            quic, port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
            config = folder / f"{name}.toml"
            config.write_text(f'[state]\nfolder = "{state}"\n[log]\ncontent_tenants = ["*"]\ncontent_share = 1.0\n'
                              f'[listen]\nquic = "127.0.0.1:{quic}"\nhttp = "127.0.0.1:{port}"\n')
            box = subprocess.Popen([a.outstation, "serve", "--config", config, "--model", a.model], **quiet)
            running.append(box)
            wait(port)
            boxes[name] = (box.pid, port)
            load(port, a.users, 5, 99)
        rows = {"off": [], "on": []}
        for number in range(a.rounds):
            for name in ("off", "on") if number % 2 == 0 else ("on", "off"):
                pid, port = boxes[name]
                before = cpu_seconds(pid)
                tokens, took, ttfts = load(port, a.users, a.seconds, number)
                rows[name].append({"tokens_per_s": tokens / took, "ttft_p50_ms": 1e3 * ttfts[len(ttfts) // 2],
                                   "ttft_p99_ms": 1e3 * ttfts[int(len(ttfts) * 0.99)],
                                   "cpu_ms_per_token": 1e3 * (cpu_seconds(pid) - before) / tokens})
        out = {}
        for key in rows["off"][0]:
            out[key] = {name: round(statistics.median(row[key] for row in rows[name]), 3) for name in rows}
            ratios = [on[key] / off[key] for on, off in zip(rows["on"], rows["off"])]
            out[key]["ratio"] = round(statistics.median(ratios), 4)
        status = json.loads(get(boxes["on"][1]))
        print(json.dumps({"rounds": a.rounds, **out, "records": status["log"]["records_durable"], "lost": status["log"]["records_lost"]}))
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def get(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/status")
    return connection.getresponse().read()


main()
