"""Reports: the spool that root writes, the formats, the unprivileged reporter that delivers, metrics, console block."""
