"""Training without DeepSpeed: the oracle that a config's training is compared with."""
