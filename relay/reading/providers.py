"""Whose API a ``model`` means: the providers that are served, and the names of those that are not.

SPEC §3: served are the providers whose upstreams speak the OpenAI API with a bearer key. The others' names are known so
that the word before a slash can be told from a part of the model's name, and no key goes to a host that it was not made
for.
"""

from __future__ import annotations

import re

from ..values import Value


class Provider(Value):
    """A prefix that is served: its own base (empty where ``api_base`` must say it) and the variable of its key.

    Without a variable a key is optional. ``root``: the API begins at the root, so a base without a path stays so.
    """

    prefix: str
    base: str
    key_variable: str
    root: bool = False


#: The prefixes that are served, by name.
PROVIDERS = {
    provider.prefix: provider
    for provider in (
        Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        Provider("text-completion-openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        Provider("custom_openai", "", ""),
        Provider("openai_like", "", ""),
        Provider("hosted_vllm", "", ""),
        Provider("lm_studio", "", ""),
        Provider("litellm_proxy", "", ""),
        Provider("xinference", "", ""),
        Provider("llamafile", "http://127.0.0.1:8080/v1", ""),
        Provider("ollama", "http://localhost:11434/v1", ""),
        Provider("ollama_chat", "http://localhost:11434/v1", ""),
        Provider("docker_model_runner", "http://localhost:22088/engines/llama.cpp", ""),
        Provider("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        Provider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        Provider("together_ai", "https://api.together.ai/v1", "TOGETHER_API_KEY"),
        Provider("deepseek", "https://api.deepseek.com/beta", "DEEPSEEK_API_KEY"),
        Provider("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        Provider("codestral", "https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY"),
        Provider("xai", "https://api.x.ai/v1", "XAI_API_KEY"),
        Provider("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
        Provider("fireworks_ai", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        Provider("perplexity", "https://api.perplexity.ai", "PERPLEXITYAI_API_KEY", root=True),
        Provider("moonshot", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
        Provider("nvidia_nim", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
        Provider("sambanova", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
        Provider("deepinfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
        Provider("dashscope", "https://dashscope.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
        Provider("github", "https://models.inference.ai.azure.com", "GITHUB_API_KEY", root=True),
        Provider("zai", "https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
        Provider("novita", "https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
        Provider("nebius", "https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
        Provider("hyperbolic", "https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
        Provider("vercel_ai_gateway", "https://ai-gateway.vercel.sh/v1", "VERCEL_AI_GATEWAY_API_KEY"),
        Provider("volcengine", "https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"),
        Provider("featherless_ai", "https://api.featherless.ai/v1", "FEATHERLESS_AI_API_KEY"),
        Provider("nscale", "https://inference.api.nscale.com/v1", "NSCALE_API_KEY"),
        Provider("minimax", "https://api.minimax.io/v1", "MINIMAX_API_KEY"),
        Provider("scaleway", "https://api.scaleway.ai/v1", "SCW_SECRET_KEY"),
        Provider("publicai", "https://api.publicai.co/v1", "PUBLICAI_API_KEY"),
    )
}

#: Prefixes that speak OpenAI's own API; only these take their base from ``OPENAI_BASE_URL`` or ``OPENAI_API_BASE``.
OPENAI = ("openai", "text-completion-openai")

#: LiteLLM's other providers.
OTHERS = frozenset(
    """
    a2a a2a_agent abliteration ai21 ai21_chat aiand aiml aiohttp_openai aleph_alpha amazon_nova anthropic
    anthropic_text anyscale apertis assemblyai auto_router aws_polly aws_textract azure azure_ai azure_speech
    azure_text baseten bedrock bedrock_mantle bespoke bigmodel black_forest_labs bytez charity_engine chatgpt chutes
    clarifai clf_ai_gateway cloudflare cognition cohere cohere_chat cometapi compactifai coralbricks cortecs cursor
    custom darkbloom databricks databricks_agent datarobot deepgram dotprompt edenai elevenlabs empower eu_jev
    fal_ai friendliai galadriel gdc gemini gigachat github_copilot gradient_ai helicone heroku hostinger_router
    huggingface humanloop inception inferenceapis infinity jina_ai kyma lambda_ai langflow langfuse langgraph laya
    lemonade libertai litellm_agent manus maritalk meta meta_llama microsoft_365_copilot milvus modelscope mongodb
    morph nace nadir nano-gpt neosantara nlp_cloud nvidia_riva oci oobabooga opencode_go openinfer opensearch
    ovhcloud palm parasail petals pg_vector pinstripes poe predibase prism qwen_ai_platform qwencloud ragflow
    recraft reducto reka replicate runwayml s3_vectors sagemaker sagemaker_chat sagemaker_nova sail sap sarvam
    scaledown scx-ai snowflake soniox stability strands_decider streamlake synthetic tencent tensormesh
    text-completion-codestral text-completion-inception topaz transcribe triton typesafe v0 valkey veniceai
    vertex_ai vertex_ai_beta vllm voyage wandb watsonx watsonx_text xiaomi_mimo zerogpu
    """.split()  # noqa: SIM905 - a table of words is read as words
)

#: Names without a prefix that are some vendor's: how they begin, and whose they are.
BARE_NAMES = (
    ("claude-", "anthropic"),
    ("gemini-", "gemini"),
    ("command-", "cohere"),
    ("embed-english-", "cohere"),
    ("embed-multilingual-", "cohere"),
    ("rerank-", "cohere"),
    ("j2-", "ai21"),
    ("jamba-", "ai21"),
    ("anthropic.", "bedrock"),
    ("amazon.", "bedrock"),
    ("cohere.", "bedrock"),
    ("ai21.", "bedrock"),
    ("deepseek-", "deepseek"),
)

#: What to write instead, where a provider has an OpenAI-compatible door of its own.
DOORS = {
    "anthropic": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
}

#: Azure's own OpenAI-compatible door: a base that ends so is spoken to as OpenAI is.
AZURE_PATH = "/openai/v1"


def split_model(model: str, custom: str | None = None, *, has_base: bool) -> tuple[str, str]:
    """The provider a ``model`` means, and the name that its upstream is asked for.

    ``custom`` is ``custom_llm_provider``, which counts as a prefix. A first word that is no provider's is part of the
    name. With a base of its own a name without a prefix is asked for there, whatever it is called.
    """
    prefix, slash, rest = model.partition("/")
    if custom is not None:
        return custom, rest if slash and prefix == custom else model
    if slash and (prefix in PROVIDERS or prefix in OTHERS):
        return prefix, rest
    if not has_base:
        for start, vendor in BARE_NAMES:
            if model.startswith(start):
                return vendor, model
    return "openai", model


def advice(provider: str, name: str, base: str | None) -> str:
    """The lines that would be served in the place of an entry of ``provider``, or nothing. ``base`` is the entry's."""
    if provider == "azure":
        resource = re.match(r"https?://[^/<>\s?#@]+", base or "")
        root = resource[0] if resource else "https://RESOURCE.openai.azure.com"
        return f"; to be served, write api_base: {root}{AZURE_PATH}"
    if provider == "vllm":
        return "; a vLLM server is hosted_vllm/"
    if provider not in DOORS:
        return ""
    door, variable = DOORS[provider]
    return f"; to be served, write model: openai/{name}, api_base: {door}, api_key: os.environ/{variable}"
