"""What a test on ranks costs: ``python -m benchmarks.ranks``."""
