"""State on disk: files, paths, locks and records."""
