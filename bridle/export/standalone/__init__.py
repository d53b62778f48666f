"""Files that leave the library, copied into exports as they are: they import nothing of it, only each other and the
`pixels.py` of `bridle.media`, which is copied, too."""
