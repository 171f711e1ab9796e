"""Image files to arrays: PNG, JPEG and TIFF here, DICOM in a process of its own."""
