"""A case in the browser: what the page is shown (`scene`), a small local server for it, and corrected label maps.

The page itself is built from `page/` into `dist/` (docs/viewer.md) and speaks to any server that answers as this one.
"""
