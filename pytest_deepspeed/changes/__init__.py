"""What has changed since another commit, and which configs that concerns."""
