"""What the documentation site shows beside its pages: references made from code, files from elsewhere."""
