"""What a stage does with a model: the prompt it sends, the value it reads, the vote, and the score."""
