"""Being built."""

MODELS = {"gpt": None}
