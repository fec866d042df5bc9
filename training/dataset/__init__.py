"""A user's videos and captions, from what is on disk to the clips that training sees.

A dataset is a folder in one of two layouts, or a zip of such a folder:

- SAT's: `videos/N.mp4` beside `labels/N.txt`, whose first line is the caption. Videos may be in
  folders of their own below `videos`, the labels then in the same ones below `labels`.
- `metadata.jsonl`, a line of JSON for each clip: `file_name`, relative to that file, and `text` or
  `prompt`; for image-to-video optionally `image`, the picture that the video begins with.

Either may be the only folder in the folder or zip that is named. Hidden files and what macOS puts
into zips (`__MACOSX`) are ignored.
"""
