"""Files that a run leaves on disk, and who owns them."""
