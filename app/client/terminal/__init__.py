"""What the commands print: tables, progress and text that is safe for terminals."""
