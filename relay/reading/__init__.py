"""The configuration file, read into ``relay.config``: LiteLLM's words and ours, every fault with its place."""
