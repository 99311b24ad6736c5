"""Try the demo from outside: ``python tools/smoke.py COMMAND...`` starts it, has one chat, and lets it drain."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request

PATIENCE = 20  # seconds
QUESTION = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello!"}]}


def main(command: list[str]) -> int:
    """Start ``command --demo``, ask at its printed ``base_url``, and end it; 0 when all of it went well."""
    arguments = [*command, "--demo", "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        signal.signal(signal.SIGALRM, lambda *_: child.kill())  # whatever happens, it ends
        signal.alarm(PATIENCE)
        assert child.stderr is not None
        said = []
        for line in child.stderr:
            said.append(line)
            if found := re.search(r"base_url = (\S+)", line):
                answer = ask(found[1])
                break
        else:
            print("it did not start:", *said)
            return 1
        child.send_signal(signal.SIGTERM)
        records, _ = child.communicate()
        signal.alarm(0)
    record = json.loads(records)
    print(f"{found[1]} answered {answer!r}; the record says {record['status']}; exit status {child.returncode}")
    return int(child.returncode != 0 or record["status"] != 200)  # noqa: PLR2004 - OK


def ask(url: str) -> str:
    """What the demo says to a question."""
    fields = {"Content-Type": "application/json", "Authorization": "Bearer sk-anything"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(QUESTION).encode(), fields)
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        text: str = json.load(response)["choices"][0]["message"]["content"]
        return text


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
