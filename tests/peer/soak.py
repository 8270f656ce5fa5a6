#!/usr/bin/env python3
"""Half an hour of overload with clients that leave, and whether the box stays the size that it said.

  soak.py --pid PID --port 8080 --rate 3 --minutes 30

Users come at random (Poisson) whether or not others are done; a third of those that are taken leave in the middle of
their prompt or answer. Every ten seconds /proc and /status are read. Prints one JSON line at the end: requests by fate,
the resident memory after the first minute (least and most, bytes), what was planned, and how often a guarded thread used
the heap. Standard library only.
"""
import argparse, asyncio, json, random, re, time


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1)) * 1024


async def get(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return json.loads(text.split("\r\n\r\n", 1)[1])


async def one(a, rng, fates):
    words = " ".join(rng.choice("tower relay antenna carrier beam sector handover latency".split())
                     for _ in range(rng.choice((10, 60, 120, 400))))
    tokens = rng.choice((8, 64, 200))
    body = json.dumps({"model": "default", "prompt": words, "max_tokens": tokens, "stream": True, "ignore_eos": True,
                       "temperature": rng.choice((0, 1)), "service_tier": rng.choice(("auto", "default", "flex")),
                       "stream_options": {"include_usage": True}}).encode()
    leaves = rng.random() * 0.8 if rng.random() < 0.33 else None
    fate = "lost"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", a.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

        async def answer():
            status = int((await reader.readline()).split()[1])
            if status in (429, 503, 504):
                return "refused"
            completed, whole = None, False
            while line := await reader.readline():
                whole |= line.startswith(b"data: [DONE]")
                if line.startswith(b"data: {"):
                    completed = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", completed)
            return "served" if status == 200 and whole and completed == tokens else f"lost: {status} {completed} of {tokens}"
        try:
            fate = await asyncio.wait_for(answer(), leaves)
        except asyncio.TimeoutError:
            fate = "left"
        writer.close()
    except OSError as error:
        fate = f"lost: {error}"
    fates[fate] = fates.get(fate, 0) + 1


async def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pid", type=int, required=True)
    p.add_argument("--port", type=int, default=8080)
    p.add_argument("--rate", type=float, default=3.0)
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    rng, fates, sizes, tasks = random.Random(a.seed), {}, [], set()
    began = look = time.monotonic()
    while (now := time.monotonic()) < began + 60 * a.minutes:
        if now >= look:
            look += 10
            if now >= began + 60:
                sizes.append(resident(a.pid))
        task = asyncio.create_task(one(a, random.Random(rng.random()), fates))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(rng.expovariate(a.rate))
    await asyncio.gather(*tasks)
    status = await get(a.port, "/status")
    keys = ("guarded_heap_uses", "memory_planned_bytes", "preempted", "first_tokens_in_time", "first_tokens_late",
            "sequences", "queued", "steps")
    print(json.dumps({"minutes": a.minutes, "rate": a.rate, "fates": fates, "resident_min": min(sizes),
                      "resident_max": max(sizes), "resident_end": resident(a.pid), **{k: status.get(k) for k in keys}}))


asyncio.run(main())
