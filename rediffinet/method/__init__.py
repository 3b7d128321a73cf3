"""The method in numpy: what is done to arrays between a case and its result. Knows no files."""
