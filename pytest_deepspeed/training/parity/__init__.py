"""Whether DeepSpeed trained as plain torch does."""
