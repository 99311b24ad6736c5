"""Whose API a model means, so that no key goes to a host that it was not made for."""

from __future__ import annotations

import pytest

from relay.reading.bases import parse_base, show_base
from relay.reading.providers import BARE_NAMES, DOORS, OPENAI, OTHERS, PROVIDERS, advice, split_model

MODELS = [
    ("openai/gpt-4", None, False, ("openai", "gpt-4")),
    ("openai/*", None, False, ("openai", "*")),
    ("gpt-4", None, False, ("openai", "gpt-4")),
    ("*", None, False, ("openai", "*")),
    ("ft:gpt-4:mine::a", None, False, ("openai", "ft:gpt-4:mine::a")),
    ("meta-llama/Llama-3", None, False, ("openai", "meta-llama/Llama-3")),
    ("openai/meta-llama/Llama-3", None, True, ("openai", "meta-llama/Llama-3")),
    ("openrouter/openai/gpt-4", None, False, ("openrouter", "openai/gpt-4")),
    ("groq/llama", None, True, ("groq", "llama")),
    ("azure/gpt-4", None, True, ("azure", "gpt-4")),
    ("bedrock/amazon.nova", None, False, ("bedrock", "amazon.nova")),
    ("claude-sonnet-4", None, False, ("anthropic", "claude-sonnet-4")),
    ("claude-sonnet-4", None, True, ("openai", "claude-sonnet-4")),
    ("openai/claude-sonnet-4", None, False, ("openai", "claude-sonnet-4")),
    ("gemini-2.5-pro", None, False, ("gemini", "gemini-2.5-pro")),
    ("deepseek-chat", None, False, ("deepseek", "deepseek-chat")),
    ("gpt-4", "groq", False, ("groq", "gpt-4")),
    ("groq/gpt-4", "groq", False, ("groq", "gpt-4")),
    ("openai/gpt-4", "openrouter", False, ("openrouter", "openai/gpt-4")),
    ("claude-3", "openai", False, ("openai", "claude-3")),
    ("", None, False, ("openai", "")),
    ("/gpt-4", None, False, ("openai", "/gpt-4")),
]


@pytest.mark.parametrize(
    ("model", "custom", "has_base", "found"), MODELS, ids=[f"{m[0]} {m[1]} {m[2]}" for m in MODELS]
)
def test_a_model_means_a_provider_and_a_name(
    model: str, custom: str | None, has_base: bool, found: tuple[str, str]
) -> None:
    assert split_model(model, custom, has_base=has_base) == found


def test_the_tables_fit_together() -> None:
    assert len(PROVIDERS) == 39
    assert not OTHERS & set(PROVIDERS)
    assert all(name in PROVIDERS for name in OPENAI)
    assert all(vendor in OTHERS or vendor in PROVIDERS for _, vendor in BARE_NAMES)
    assert set(DOORS) <= OTHERS
    assert {"azure", "anthropic", "gemini", "bedrock", "vertex_ai"} <= OTHERS


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.prefix)
def test_every_base_is_one(provider: object) -> None:
    found = PROVIDERS[provider.prefix]  # type: ignore[attr-defined]
    if found.base:
        assert show_base(parse_base(found.base, root=found.root)) == found.base
    else:
        assert not found.key_variable  # nowhere to send it


AZURE = "; to be served, write api_base: "
GEMINI = (
    "; to be served, write model: openai/gemini-2.5-pro, "
    "api_base: https://generativelanguage.googleapis.com/v1beta/openai, api_key: os.environ/GEMINI_API_KEY"
)
ANTHROPIC = (
    "; to be served, write model: openai/claude-3, "
    "api_base: https://api.anthropic.com/v1, api_key: os.environ/ANTHROPIC_API_KEY"
)
ADVICE = [
    ("azure", "gpt-4", None, AZURE + "https://RESOURCE.openai.azure.com/openai/v1"),
    ("azure", "gpt-4", "<endpoint>", AZURE + "https://RESOURCE.openai.azure.com/openai/v1"),
    ("azure", "gpt-4", "https://openai-eu.azure.com/x?y", AZURE + "https://openai-eu.azure.com/openai/v1"),
    ("gemini", "gemini-2.5-pro", None, GEMINI),
    ("anthropic", "claude-3", None, ANTHROPIC),
    ("vllm", "llama", None, "; a vLLM server is hosted_vllm/"),
    ("bedrock", "nova", None, ""),
]


@pytest.mark.parametrize(("provider", "name", "base", "text"), ADVICE)
def test_what_to_write_instead(provider: str, name: str, base: str | None, text: str) -> None:
    assert advice(provider, name, base) == text
