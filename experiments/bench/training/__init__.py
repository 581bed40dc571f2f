"""How fast a training loop is."""
