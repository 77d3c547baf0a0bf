"""Choosing a policy by replay: what each of a family scores and costs on recorded samples."""
