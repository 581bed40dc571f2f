"""Being built."""

MODELS = {"pspnet": None, "deeplab": None}
