"""Packed weights go to a bucket and are read back: `push.push`."""
