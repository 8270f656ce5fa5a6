#!/usr/bin/env python3
"""A recorded trace against any OpenAI-compatible server, and what its users saw.

  replay.py --port 8080 --trace azure_llm_2023_conv.csv --calibrate    requests/s of eight users who can wait
  replay.py --port 8080 --trace azure_llm_2023_conv.csv --rate 1.2 --seconds 150

The trace's gaps are stretched so that the mean rate is --rate; prompts are as many random token ids as it says, up to
--prompt-max, answers as many tokens, up to --answer-max, whatever they say. Nobody waits for an earlier request. Prints
one JSON line: goodput is requests/s that met both targets; a stall is the time between two pieces of one answer.
Standard library only.
"""
import argparse, asyncio, csv, datetime, json, random, time


def pct(xs, p):
    xs = sorted(xs)
    return round(xs[min(len(xs) - 1, int(p / 100 * len(xs)))], 3) if xs else None


def rows(a):
    """Arrival in seconds from the first, prompt tokens, answer tokens."""
    with open(a.trace, newline="") as file:
        for row in csv.DictReader(file):
            at = datetime.datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
            prompt, answer = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            yield at, max(1, min(prompt, a.prompt_max)), max(2, min(answer, a.answer_max))


async def one(a, seed, prompt_tokens, answer_tokens, results):
    # A server that remembers prompts has not seen this one in another run.
    rng = random.Random(f"{a.trace} {a.calibrate} {a.rate} {a.seed} {seed}")
    prompt = [rng.randrange(1000, 20000) for _ in range(prompt_tokens)]
    body = json.dumps({"model": a.model, "prompt": prompt, "max_tokens": answer_tokens, "stream": True, "temperature": 0,
                       "ignore_eos": True, **({"service_tier": "flex"} if a.calibrate else {})}).encode()
    sent = time.perf_counter()
    status, first, last, stall, count, whole = 0, None, None, 0.0, 0, False
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", a.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        while line := await reader.readline():
            whole |= line.startswith(b"data: [DONE]")
            if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                now = time.perf_counter()
                stall = max(stall, now - last) if last else 0.0
                first, last, count = first or now, now, count + 1
        writer.close()
    except (OSError, ValueError, IndexError):
        pass
    tpot = (last - first) / (answer_tokens - 1) if first else None
    results.append((status, first and first - sent, tpot, stall, whole, prompt_tokens + answer_tokens))


async def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--port", type=int, default=8080)
    p.add_argument("--model", default="default")
    p.add_argument("--trace", required=True)
    p.add_argument("--calibrate", action="store_true")
    p.add_argument("--rate", type=float, default=1.0)
    p.add_argument("--seconds", type=float, default=150)
    p.add_argument("--skip", type=int, default=1000, help="rows of the trace before the first")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--prompt-max", type=int, default=512)
    p.add_argument("--answer-max", type=int, default=96)
    p.add_argument("--ttft-slo", type=float, default=1.5)
    p.add_argument("--tpot-slo", type=float, default=0.05)
    a = p.parse_args()
    count = 48 if a.calibrate else max(8, int(a.rate * a.seconds))
    part = list(rows(a))[a.skip:a.skip + count]
    results, began = [], time.perf_counter()
    if a.calibrate:
        queue = list(enumerate(part))
        async def user():
            while queue:
                seed, (_, prompt, answer) = queue.pop(0)
                await one(a, seed, prompt, answer, results)
        await asyncio.gather(*(user() for _ in range(8)))
    else:
        stretch = (count / a.rate) / (part[-1][0] - part[0][0])
        tasks = []
        for seed, (at, prompt, answer) in enumerate(part):
            due = (at - part[0][0]) * stretch
            await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(a, seed, prompt, answer, results)))
        await asyncio.gather(*tasks)
    wall = time.perf_counter() - began
    done = [r for r in results if r[0] == 200 and r[4]]
    good = [r for r in done if r[1] <= a.ttft_slo and r[2] <= a.tpot_slo]
    print(json.dumps({
        "rate": a.rate, "sent": len(results), "finished": len(done), "refused": sum(r[0] in (429, 503) for r in results),
        "lost": sum(r[0] not in (200, 429, 503) or (r[0] == 200 and not r[4]) for r in results),
        "requests_per_s": round(len(done) / wall, 3), "goodput_req_s": round(len(good) / wall, 3),
        "of_taken": round(len(good) / max(1, len(done)), 3), "ttft_p50_s": pct([r[1] for r in done], 50),
        "ttft_p99_s": pct([r[1] for r in done], 99), "stall_max_s": pct([r[3] for r in done], 100),
        "tokens_mean": round(sum(r[5] for r in results) / max(1, len(results)))}))


asyncio.run(main())
