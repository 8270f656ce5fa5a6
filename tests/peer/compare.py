#!/usr/bin/env python3
"""Our engine beside llama.cpp's: the same files, in turn, in one sitting. Prints one table.

  compare.py --llama DIR [--ours PATH] [--what decode,prompt,batches,depth] [--rounds 5] MODEL.gguf ...

DIR holds llama-bench and llama-batched-bench (docs/kernels.md says how to build them). Of the peer's settings (repack on and
off, flash attention on and off) two runs each find the best for each thing measured; then peer and ours are measured in turn,
`--rounds` times. The ratio is the median over these pairs: memory that others use too runs at half its speed for seconds at
a time, which a pair sees together. Let nothing else run meanwhile. Only the standard library is used.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

BATCHES = "2,4,8,16"
SETTINGS = [(repack, flash) for repack in (0, 1) for flash in (0, 1)]
WHAT = {"decode": "decode, batch 1", "prompt": "prompt 512", "batches": "decode, batches", "depth": "decode at depth"}


def json_lines(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}: {result.stderr[-2000:]}")
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def peer(args, what, model, setting):
    """Tokens/s of the peer, by what was measured."""
    repack, flash = setting
    common = ["-m", model, "-t", str(args.threads)]
    if what == "batches":
        lines = json_lines([
            os.path.join(args.llama, "llama-batched-bench"), *common, "-c", "4096", "-npp", "16", "-ntg", "32", "-npl",
            BATCHES, "-fa", "on" if flash else "off", "--output-format", "jsonl", *([] if repack else ["--no-repack"])])
        return {f"decode, batch {line['pl']}": line["speed_tg"] for line in lines}
    test = {"decode": ["-p", "0", "-n", "128"], "prompt": ["-p", "512", "-n", "0"],
            "depth": ["-p", "0", "-n", "16", "-d", str(args.depth)]}[what]
    [line] = json_lines([os.path.join(args.llama, "llama-bench"), *common, *test, "-r", "1", "--repack", str(repack),
                         "-fa", str(flash), "-o", "jsonl"])
    return {name(args, what): line["avg_ts"]}


def name(args, what):
    return f"{WHAT[what]} {args.depth}" if what == "depth" else WHAT[what]


def ours(args, what, model):
    """The same by `outstation bench`, and what shares of the machine's limits it reaches."""
    def bench(*more):
        return json_lines([args.ours, "bench", "--model", model, "--threads", str(args.threads), "--repeat", "1", "--json",
                           *more])

    if what == "decode":  # the peer's has no context either
        [line] = bench("--prompt", "1", "--generate", "128", "--batch", "1")
        return {name(args, what): line["decode_tokens_per_s"], "  share of read bandwidth": line["bandwidth_share"]}
    if what == "prompt":
        [line] = bench("--prompt", "512", "--generate", "2", "--batch", "1")
        return {name(args, what): line["prompt_tokens_per_s"], "  share of the multiply peak": line["multiply_peak_share"]}
    if what == "batches":
        lines = bench("--prompt", "16", "--generate", "32", "--batch", BATCHES)
        return {f"decode, batch {line['batch']}": line["decode_tokens_per_s"] for line in lines}
    found = {}
    for kv in ("f16", "q8_0"):
        [line] = bench("--prompt", "16", "--generate", "16", "--batch", "1", "--depth", str(args.depth), "--kv", kv)
        found[name(args, what) + ("" if kv == "f16" else ", KV q8_0")] = line["decode_tokens_per_s"]
    return found


def compare(args, what, model):
    screened = {setting: [peer(args, what, model, setting) for _ in range(1 if what == "depth" else 2)]
                for setting in SETTINGS}
    names = list(next(iter(screened.values()))[0])
    best = {n: max(SETTINGS, key=lambda setting: max(found[n] for found in screened[setting])) for n in names}
    theirs, mine = [], []
    for _ in range(args.rounds):
        runs = {setting: peer(args, what, model, setting) for setting in dict.fromkeys(best.values())}
        theirs.append({n: runs[best[n]][n] for n in names})
        time.sleep(1)
        mine.append(ours(args, what, model))
    label = os.path.basename(model).removesuffix(".gguf")
    for n in mine[0]:
        rates = [found[n] for found in mine]
        of = n.removesuffix(", KV q8_0")
        if of not in best:
            print(f"| {label} | {n} | | | {100 * statistics.median(rates):.0f} % | |", flush=True)
            continue
        beside = [found[of] for found in theirs]
        ratios = sorted(rate / other for rate, other in zip(rates, beside))
        repack, flash = best[of]
        setting = f"repack {'on' if repack else 'off'}, flash attention {'on' if flash else 'off'}"
        print(f"| {label} | {n} | {setting} | {statistics.median(beside):.1f} | {statistics.median(rates):.1f} "
              f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", required=True, help="folder of llama.cpp's binaries")
    parser.add_argument("--ours", default="target/release/outstation")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--what", default="decode,prompt,batches", help=f"of {','.join(WHAT)}; depth takes minutes a run")
    parser.add_argument("--depth", type=int, default=8192)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    wanted = args.what.split(",")
    if unknown := set(wanted) - set(WHAT):
        sys.exit(f"--what has no {', '.join(unknown)}: give some of {','.join(WHAT)}")
    for binary in ("llama-bench", "llama-batched-bench"):
        if not os.access(os.path.join(args.llama, binary), os.X_OK):
            sys.exit(f"no {binary} in {args.llama}: give the folder of llama.cpp's binaries")

    print("| model | what | llama.cpp, best setting | tokens/s | ours | ratio, median of pairs (least to most) |")
    print("|---|---|---|---|---|---|", flush=True)
    for model in args.models:
        for what in wanted:
            compare(args, what, model)


if __name__ == "__main__":
    main()
