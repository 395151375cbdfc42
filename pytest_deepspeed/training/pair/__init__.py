"""The training of a config beside that of the config that it was: what differs, and how much."""
