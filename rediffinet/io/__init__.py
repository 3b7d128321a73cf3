"""Images in, results out: cases, names, geometry, checks, NIfTI, masks, outputs, preview."""
