"""The demo upstream: an honest stand-in for OpenAI, behind ``--demo`` and behind the tests.

server.py       ``DemoUpstream``: start, close, what was heard, who may do what
connection.py   HTTP/1.1 over one socket: h11 on an asyncio protocol
script.py       misbehaviour on demand: scripted answers, faults, key switches, quotas
bodies.py       request content in bounded memory, multipart included
messages.py     what handlers take and give: ``Call``, ``Answer``, ``APIError``
projects.py     keys -> projects and the things that only they see
routes.py       method and path -> handler
answers.py media.py responses.py conversations.py assistants.py files.py stores.py resources.py   the handlers
"""

from __future__ import annotations

from .script import Quota
from .server import DemoUpstream

__all__ = ["DemoUpstream", "Quota"]
