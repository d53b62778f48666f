"""Files that leave the library, copied into exports as they are: they import nothing of it, only each other."""
