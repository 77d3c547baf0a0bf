"""What models write: values read out of texts, and whether two values are the same."""
