"""The demo upstream: an honest stand-in for OpenAI, behind ``--demo`` and behind the tests.

server.py        ``DemoUpstream``: start, close, what was heard, who may do what
connection.py    HTTP/1.1 over one socket: h11 on an asyncio protocol
script.py        misbehaviour on demand: scripted answers, faults, key switches, quotas
heard.py         what is remembered of a request
bodies.py        request content in bounded memory, multipart included
messages.py      what handlers take and give: ``Call``, ``Answer``, ``APIError``
wording.py       what all answers say, and refusals that no single resource owns
projects.py      keys -> projects and the things that only they see
routes.py        method and path -> handler
resources.py     the verbs that all resources share

The handlers, each with its rows of the routing table: ``answers`` (chat, completions, embeddings, moderations, models),
``media`` (images, audio, videos), ``responses``, ``conversations`` and their ``items``, ``assistants``, ``files``
(uploads and batches too), ``stores``, ``tuning`` (fine-tuning, evals), ``others``.
"""

from __future__ import annotations

from .script import Quota
from .server import DemoUpstream

__all__ = ["DemoUpstream", "Quota"]
