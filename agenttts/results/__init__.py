"""What a run comes to: its trials, the winner, the certificate."""
