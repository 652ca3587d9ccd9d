"""Whether an image is ready to boot as a server: the report of the check, and what to do about each finding."""
