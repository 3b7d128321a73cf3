"""DICOM in and out: series of a study to images with affines, results to segmentation objects. Extra `dicom`."""
