"""DeepSpeed knowledge: configs, the reference training under them, checks of what it did."""
