"""The passes: one function a file, from IR to IR; the file's name is the pass's name."""
