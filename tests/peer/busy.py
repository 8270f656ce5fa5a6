#!/usr/bin/env python3
"""What a busy network costs a running stream, and a stream the network, on a server of OpenAI's API over HTTP.

  busy.py [--port 8080] [--tokens 300]

Streams a completion alone, then beside two connections that ask /health every 3 ms. Prints one JSON line: milliseconds between
tokens, alone and beside, and of a /health request. Client and server share the cores. Only the standard library is used.
"""
import argparse
import http.client
import json
import threading
import time


def gaps(args):
    connection = http.client.HTTPConnection("127.0.0.1", args.port)
    body = {"prompt": "signal tower fibre", "max_tokens": args.tokens, "stream": True, "temperature": 0, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    times = [time.perf_counter() for line in connection.getresponse() if line.startswith(b"data: {")]
    return [after - before for before, after in zip(times, times[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--tokens", type=int, default=300)
    args = parser.parse_args()
    gaps(args)
    alone = gaps(args)
    over, health = threading.Event(), []

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", args.port)
        while not over.wait(0.003):
            started = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            health.append(time.perf_counter() - started)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    beside = gaps(args)
    over.set()
    for asker in askers:
        asker.join()
    print(json.dumps({"health_requests": len(health), **{
        f"{name}_p{percent}_ms": round(1e3 * sorted(values)[len(values) * percent // 100], 2)
        for name, values in (("gap_alone", alone), ("gap_beside", beside), ("health", health)) for percent in (50, 99)}}))


if __name__ == "__main__":
    main()
