"""How the zoo was made: its questions, its models, and the bank of their samples. Not part of the wheel."""
