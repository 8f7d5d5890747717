"""What a server says to those who mean it ill, as a table. Nothing here may end it, hang it or name a path.

python3 abuse.py http://127.0.0.1:PORT
"""

import json
import resource
import socket
import struct
import sys
import time
import zlib
from urllib.parse import urlparse

# Room for the idle connections; the server needs as much.
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
address = urlparse(sys.argv[1])
where = (address.hostname, address.port)
host = f"Host: {address.netloc}\r\n"


def exchange(data, wait=20):
    with socket.create_connection(where, timeout=wait) as connection:
        try:
            connection.sendall(data)
        except OSError:
            pass
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError as error:
            answer += f" ({type(error).__name__})".encode()
    return answer


def post(path, body, more="", kind="application/json"):
    head = f"POST {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return exchange(head.encode() + body)


def get(path, more="", named=host):
    return exchange(f"GET {path} HTTP/1.1\r\n{named}Connection: close\r\n{more}\r\n".encode())


def bomb(side):
    """A PNG of black pixels: a few kilobytes for any size."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    deflate = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    data = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def form(field, data):
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="../../../etc/passwd"\r\n\r\n'
    return post("/v1/images/variations", head.encode() + data + b"\r\n--b--\r\n", kind="multipart/form-data; boundary=b")


def lies():
    head = f"POST /v1/images/generations HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: 999999999999\r\n\r\n"
    return exchange(head.encode() + b"{}", 70)


def idle(count):
    connections = []
    for _ in range(count):
        try:
            connections.append(socket.create_connection(where, timeout=5))
        except OSError:
            break
    start = time.monotonic()
    answer = exchange(f"GET /healthz HTTP/1.1\r\n{host}Connection: close\r\n\r\n".encode(), 60)
    took = time.monotonic() - start
    for connection in connections:
        connection.close()
    return answer.split(b"\r\n")[0] + f" after {took:.1f} s beside {len(connections)}".encode()


cases = [
    ("another host's name", lambda: get("/api/pictures", named="Host: evil.example\r\n"), "421"),
    ("no host", lambda: get("/api/pictures", named=""), "421"),
    ("a post of another origin", lambda: post("/api/pictures/delete", b'{"ids": []}', "Origin: https://evil.example\r\n"), "403"),
    ("a form of another origin", lambda: post("/api/jobs", b'{"prompt": "a"}', kind="text/plain"), "415"),
    ("a path out of the folder", lambda: get("/files/../impasto.sqlite"), "404"),
    ("the same, encoded", lambda: get("/files/..%2f..%2fetc%2fpasswd.png"), "404"),
    ("a name that is no UTF-8", lambda: get("/files/%ff.png"), "404"),
    ("a head of 1 MB", lambda: get("/", "X: " + "a" * 1_000_000 + "\r\n"), "431"),
    ("no HTTP", lambda: exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500), "400"),
    ("half a head", lambda: exchange(f"GET / HTTP/1.1\r\n{host}".encode(), 30), ""),
    ("a body of 200 MB", lambda: post("/api/jobs", b" " * 200_000_000), "413"),
    ("a length that is a lie", lies, "408"),
    ("deep JSON", lambda: post("/api/jobs", b"[" * 200_000), "400"),
    ("a file that is no picture", lambda: form("image", b"#!/bin/sh"), "400"),
    ("a form that ends early", lambda: post("/v1/images/variations", b"--b\r\nContent-Disposition: form-data; na", kind="multipart/form-data; boundary=b"), "400"),
    ("a form without a boundary", lambda: post("/v1/images/edits", b"--b", kind="multipart/form-data"), "400"),
    ("a picture of 16,000 x 16,000", lambda: form("image", bomb(16_000)), "400"),
    ("a picture of 9,000 x 9,000", lambda: form("image", bomb(9_000)), "400"),
    ("a picture at an address", lambda: post("/v1/images/edits", b'{"image": "http://127.0.0.1:1/a.png"}'), "400"),
    ("10,000 idle connections", lambda: idle(10_000), "200"),
]
print("| what was tried | what came back |\n|---|---|")
for name, work, expected in cases:
    start = time.monotonic()
    answer = work()
    first = answer.split(b"\r\n")[0].decode(errors="replace")
    body = answer.split(b"\r\n\r\n", 1)[-1]
    try:
        first += ", " + json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        pass
    print(f"| {name} | {first or 'closed'} ({time.monotonic() - start:.1f} s) |", flush=True)
    assert expected in first, (name, answer[:500])
    assert b"/tmp" not in answer and b"sqlite" not in body and b"panicked" not in answer, answer[:500]
assert b" 200 " in get("/healthz").split(b"\r\n")[0]
