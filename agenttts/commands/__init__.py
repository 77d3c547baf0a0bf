"""The commands, one module each: read the options, make one call, print for people or as JSON."""
