"""What a prune costs on many devices."""
