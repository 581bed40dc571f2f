"""How much faster a shrunk network is."""
