"""What the layers pass to each other: plain data, standard library only."""
