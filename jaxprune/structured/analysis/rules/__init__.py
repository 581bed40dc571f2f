"""How the axes of operands and results hang together, one file a family of primitives."""
