"""How fast a mask is made, and in how much memory."""
