"""Run within an empty network namespace: ``python alone.py ARCHIVE``. Prints, as JSON, what was tried on the network.

Serves one exchange from the archive to an upstream of our own, both on loopback, and reads the kernel's counts: a try
to reach anything else finds no route, which is counted although no packet leaves.
"""

from __future__ import annotations

import fcntl
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

PATIENCE = 30  # seconds
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
ANSWER = b'{"object": "list", "data": []}'
CONFIG = """
model_list:
  - model_name: gpt-4
    litellm_params: {{model: openai/gpt-4, api_key: sk-upstream, api_base: "http://127.0.0.1:{port}/v1"}}
affinity: {{path: ":memory:"}}
"""
TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}
NOWHERE = {"00000000", "0" * 32}


def raise_loopback() -> None:
    """``ip link set lo up``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", asked)[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def counters() -> dict[str, int]:
    """Connections that were begun, and tries that found no route, since the namespace exists."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
    table = {
        (names[0], name): int(value)
        for names, values in zip(lines[::2], lines[1::2], strict=True)
        for name, value in zip(names[1:], values[1:], strict=True)
    }
    six = Path("/proc/net/snmp6")
    found = re.search(r"Ip6OutNoRoutes\s+(\d+)", six.read_text()) if six.exists() else None
    without_route = table["Ip:", "OutNoRoutes"] + int(found[1] if found else 0)
    return {"opened": table["Tcp:", "ActiveOpens"], "without_route": without_route}


def strangers() -> list[str]:
    """Sockets of this namespace that have an end which is not on loopback."""
    found = []
    for table in TABLES:
        path = Path("/proc/net", table)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            ends = {end.split(":")[0] for end in line.split()[1:3]}
            found += [line] if ends - LOOPBACK - NOWHERE else []
    return found


class Upstream(BaseHTTPRequestHandler):
    """Answers every GET with an empty list."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen = strangers()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_: object) -> None:
        pass


def serve_one(archive: str, folder: str) -> dict[str, Any]:
    """Start the archive over an upstream, ask it once, let it drain."""
    upstream = HTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    Path(folder, "config.yaml").write_text(CONFIG.format(port=upstream.server_port))
    command = [sys.executable, "-I", "-S", archive, "config.yaml", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        signal.signal(signal.SIGALRM, lambda *_: child.kill())
        signal.alarm(PATIENCE)
        assert child.stderr is not None
        said = ""
        for line in child.stderr:
            said += line
            if found := re.search(r"base_url = (\S+)", line):
                with urllib.request.urlopen(f"{found[1]}/files", timeout=PATIENCE) as response:
                    answer = response.read()
                break
        else:
            return {"said": said}
        child.send_signal(signal.SIGTERM)
        records, _ = child.communicate()
    assert answer == ANSWER
    return {"exit": child.returncode, "status": json.loads(records)["status"], "seen": upstream.seen}  # type: ignore[attr-defined]


def main(archive: str) -> None:
    """Bring loopback up, serve one exchange, count; then show that the count would have told."""
    raise_loopback()
    with tempfile.TemporaryDirectory() as folder:
        told = serve_one(archive, folder)
    told |= counters() | {"strangers": strangers()}
    with socket.socket() as sock:
        told["refused"] = sock.connect_ex(("192.0.2.1", 443))
    told["told_of"] = counters()["without_route"] - told["without_route"]
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
