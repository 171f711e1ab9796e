"""Image files to arrays: PNG, JPEG and TIFF in this process, DICOM in a sandboxed one."""
