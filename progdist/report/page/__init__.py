"""The HTML page about runs, its parts, and its watcher."""
