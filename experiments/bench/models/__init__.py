"""What can be removed of models that others wrote."""
