"""Lists over all jobs, kept beside the log: they can be deleted at any time, and are made again from it."""
