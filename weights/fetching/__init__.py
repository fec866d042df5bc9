"""What a lock names comes to this disk, verified: `fetch.fetch_pinned`, `fetch.fetch_unpinned`.

- `engines` chooses: `builtin` (HTTP ranges through `web_reader`), `pget` or `local`.
- Of a pinned lock the files arrive in `pieces`, at their places in a `landing_folder`, hashed on
  the way (`landing`) and noted in a `journal`, from which the next process goes on.
- An unpinned tarball streams through `untar`, fetched by `ordered_ranges`.
"""
