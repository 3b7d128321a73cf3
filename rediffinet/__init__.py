"""Brain-tumour segmentation that gets the boundary right."""
