"""What pytest is not to read: a script that is run by itself, outside of the checkout."""

collect_ignore = ["smoke.py"]
