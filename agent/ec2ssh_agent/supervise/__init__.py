"""The daemon: it sleeps until the kernel says that something changed, then forks a worker that makes one pass."""
