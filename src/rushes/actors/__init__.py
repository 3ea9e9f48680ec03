"""Jobs: what they may do, how they are stored, and who runs them."""
