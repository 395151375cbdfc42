"""One line on a terminal for what is training now, while pytest waits for it."""
