#!/usr/bin/env python3
"""Our engine beside llama.cpp's: the same files, in turn, in one sitting. Prints one table.

  compare.py --llama DIR [--ours PATH] [--rounds 5] [--depth 8192] MODEL.gguf ...

DIR holds llama-bench and llama-batched-bench (docs/kernels.md says how to build them). Every round measures each setting of
the peer (repack on and off, flash attention on and off) and then ours; of the peer the setting with the best median counts.
Let nothing else run meanwhile. Only the standard library is used.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

BATCHES = (1, 2, 4, 8, 16)
SETTINGS = [(repack, flash) for repack in (0, 1) for flash in (0, 1)]


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}: {result.stderr[-2000:]}")
    return result.stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def peer_single(args, model, setting, depth):
    """Tokens/s by what was measured: prompt, decode."""
    repack, flash = setting
    test = ["-p", "0", "-n", "16", "-d", str(depth)] if depth else ["-p", "512", "-n", "64"]
    lines = json_lines(run([
        os.path.join(args.llama, "llama-bench"), "-m", model, "-t", str(args.threads), *test,
        "-r", "1", "--repack", str(repack), "-fa", str(flash), "-o", "jsonl"]))
    names = {}
    for line in lines:
        name = f"decode at {depth}" if depth else "prompt 512" if line["n_prompt"] else "decode, batch 1"
        names[name] = line["avg_ts"]
    return names


def peer_batches(args, model, setting):
    repack, flash = setting
    text = run([
        os.path.join(args.llama, "llama-batched-bench"), "-m", model, "-t", str(args.threads), "-c", "4096",
        "-npp", "16", "-ntg", "32", "-npl", ",".join(map(str, BATCHES)), "-fa", "on" if flash else "off",
        "--output-format", "jsonl", *([] if repack else ["--no-repack"])])
    return {f"decode, batch {line['pl']}": line["speed_tg"] for line in json_lines(text) if line["pl"] > 1}


def ours(args, model):
    """The same things measured by `outstation bench`."""
    def bench(*more):
        return json_lines(run([args.ours, "bench", "--model", model, "--threads", str(args.threads), "--repeat", "1",
                               "--json", *more]))

    found = {}
    [line] = bench("--prompt", "512", "--generate", "2", "--batch", "1")
    found["prompt 512"] = line["prompt_tokens_per_s"]
    found["share of the multiply peak, prompt 512"] = line["multiply_peak_share"]
    for line in bench("--prompt", "1", "--generate", "64", "--batch", "1"):  # the peer's has no context either
        found["decode, batch 1"] = line["decode_tokens_per_s"]
        found["share of read bandwidth, batch 1"] = line["bandwidth_share"]
    for line in bench("--prompt", "16", "--generate", "32", "--batch", ",".join(map(str, BATCHES[1:]))):
        found[f"decode, batch {line['batch']}"] = line["decode_tokens_per_s"]
    if args.depth:
        for kv in ("f16", "q8_0"):
            more = ["--depth", str(args.depth), "--generate", "16", "--prompt", "16", "--batch", "1", "--kv", kv]
            [line] = bench(*more)
            found[f"decode at {args.depth}" + ("" if kv == "f16" else ", KV q8_0")] = line["decode_tokens_per_s"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", required=True, help="folder of llama.cpp's binaries")
    parser.add_argument("--ours", default="target/release/outstation")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=8192, help="0 leaves it out: it takes minutes")
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    for name in ("llama-bench", "llama-batched-bench"):
        if not os.access(os.path.join(args.llama, name), os.X_OK):
            sys.exit(f"no {name} in {args.llama}: give the folder of llama.cpp's binaries")

    print("| model | what | llama.cpp, best setting | tokens/s | ours | ratio |")
    print("|---|---|---|---|---|---|")
    for model in args.models:
        theirs, mine = {}, {}
        for _ in range(args.rounds):
            for setting in SETTINGS:
                measured = {**peer_single(args, model, setting, 0), **peer_batches(args, model, setting)}
                if args.depth:
                    measured.update(peer_single(args, model, setting, args.depth))
                for what, rate in measured.items():
                    theirs.setdefault(what, {}).setdefault(setting, []).append(rate)
            for what, rate in ours(args, model).items():
                mine.setdefault(what, []).append(rate)
        name = os.path.basename(model).removesuffix(".gguf")
        for what, rates in mine.items():
            rate = statistics.median(rates)
            best = {s: statistics.median(r) for s, r in theirs.get(what.removesuffix(", KV q8_0"), {}).items()}
            if not best:
                print(f"| {name} | {what} | | | {100 * rate:.0f} % | |", flush=True)
                continue
            (repack, flash), peer = max(best.items(), key=lambda item: item[1])
            setting = f"repack {'on' if repack else 'off'}, flash attention {'on' if flash else 'off'}"
            print(f"| {name} | {what} | {setting} | {peer:.1f} | {rate:.1f} | {rate / peer:.2f} |", flush=True)


if __name__ == "__main__":
    main()
