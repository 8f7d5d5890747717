"""How a server does under load: one client alone, then several at once, then more than its queue takes.

python3 load.py http://127.0.0.1:PORT PID [SECONDS]
"""

import http.client
import json
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
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(times) / (time.monotonic() - start)
    ordered = sorted(times)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(f"{count:3} clients: {rate:6.2f} pictures/s, median {statistics.median(times):.3f} s, p95 {p95:.3f} s, "
          f"statuses {statuses}, {resident()} MiB")
    return rate, p95, statuses


clients(1, 3)
alone, lone_p95, _ = clients(1, seconds)
together, p95, _ = clients(8, seconds)
print(f"8 clients: {together / alone:.2f} times the pictures a second, p95 {p95 / lone_p95:.2f} times")
_, _, statuses = clients(256, seconds)
assert set(statuses) <= {200, 429}, statuses
