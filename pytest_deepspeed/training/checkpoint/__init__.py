"""Whether a training that was saved, loaded and continued is the training that was never cut."""
