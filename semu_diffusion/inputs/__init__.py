"""What users bring: pictures, captions, tables and datasets, each read in one place and by one set of rules."""
