"""Reports of a session that people and machines read: one model, a renderer for each format."""
