"""What a training holds in memory on each rank, against the ZeRO arithmetic and limits."""
