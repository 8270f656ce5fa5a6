#!/usr/bin/env python3
"""Time to the first token of prompts whose beginning is known, beside that of their ends alone, over OpenAI's API.

  prefix.py [--port 8080] [--known-words 1500] [--own-words 100] [--repeat 12] [--seed 5]

Prints one JSON line with medians. Give another seed for a second run: the box remembers. Only the standard library is used.
"""
import argparse
import http.client
import json
import random
import statistics
import time

WORDS = "signal tower fibre packet relay switch antenna carrier channel uplink beam sector handover latency".split()


def ask(args, prompt):
    """Seconds to the first token, and the usage."""
    body = {"prompt": prompt, "max_tokens": 2, "stream": True, "temperature": 0, "ignore_eos": True,
            "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", args.port)
    started = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    first = usage = None
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - started
            usage = json.loads(line[6:]).get("usage") or usage
    return first, usage


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--known-words", type=int, default=1500)
    parser.add_argument("--own-words", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=12)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    rng = random.Random(args.seed)

    def text(count):
        return " ".join(rng.choice(WORDS) for _ in range(count))

    known = text(args.known_words)
    ask(args, known + " " + text(args.own_words))
    ends, wholes = [], []
    for _ in range(args.repeat):
        seconds, end_usage = ask(args, text(args.own_words))
        ends.append(seconds)
        seconds, usage = ask(args, known + " " + text(args.own_words))
        wholes.append(seconds)
    end, whole = statistics.median(ends), statistics.median(wholes)
    print(json.dumps({
        "end_tokens": end_usage["prompt_tokens"], "end_ttft_ms": round(1e3 * end, 1), "tokens": usage["prompt_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"], "ttft_ms": round(1e3 * whole, 1),
        "ratio": round(whole / end, 2)}))


if __name__ == "__main__":
    main()
