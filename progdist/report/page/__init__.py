"""The page about runs, its parts, and its watcher."""
