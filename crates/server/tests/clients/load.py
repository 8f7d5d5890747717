"""How a server does under load: one client alone, then several at once, then more than its queue takes.

python3 load.py http://127.0.0.1:PORT PID [SECONDS]
"""

import http.client
import json
import os
import statistics
import sys
import threading
import time
from urllib.parse import urlparse

address = urlparse(sys.argv[1])
pid = int(sys.argv[2])
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 20


def resident():
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024


def processor():
    """Seconds of processor time so far: what counts on a machine that does other things, too."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request(connection, seed):
    body = json.dumps({"prompt": "two red cats", "seed": seed})
    start = time.monotonic()
    connection.request("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status, time.monotonic() - start


def clients(count, length):
    """Statuses, and the times of those that were answered with pictures."""
    end = time.monotonic() + length
    statuses, times, lock = {}, [], threading.Lock()

    def work(number):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
        seed = number * 100_000
        while time.monotonic() < end:
            seed += 1
            status, took = request(connection, seed)
            with lock:
                statuses[status] = statuses.get(status, 0) + 1
                if status == 200:
                    times.append(took)
            if status == 429:
                time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    start, used = time.monotonic(), processor()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 429}, statuses
    rate = len(times) / (time.monotonic() - start)
    each = (processor() - used) / len(times)
    ordered = sorted(times)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(f"{count:3} clients: {rate:6.2f} pictures/s, median {statistics.median(times):.3f} s, p95 {p95:.3f} s, "
          f"{each:.3f} s of processor time a picture, statuses {statuses}, {resident()} MiB")
    return rate, p95, each


clients(1, 3)
alone, lone_p95, lone_each = clients(1, seconds)
together, p95, each = clients(8, seconds)
print(f"8 clients: {together / alone:.2f} times the pictures a second, p95 {p95 / lone_p95:.2f} times, "
      f"{lone_each / each:.2f} times the pictures a second of processor time")
clients(256, seconds)
