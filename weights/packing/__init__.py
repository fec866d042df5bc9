"""Folders become tarballs, or single files, with a lock: `tarball.pack`, `split.pack_split`."""
