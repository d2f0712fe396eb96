"""Files shared by all parts of the package: the cache, locks, atomic writes, errors."""
