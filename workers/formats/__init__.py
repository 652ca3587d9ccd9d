"""What each format may be and must not be: one file per format, all of them pure."""
